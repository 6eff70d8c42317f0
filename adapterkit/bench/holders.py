"""Who holds many adapters at once: our predictor and store, and one PEFT model."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..adapter.adapter import Adapter
from ..adapter.folder import load_adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..inference.predictor import Predictor
from .workload import random_adapter

OPERATIONS = {
    "cold load": "load",
    "first answer": "first",
    "ask the same": "again",
    "ask another": "another",
    "unload": "unload",
    "save": "save",
}
"""What is measured to the holder's method, in the order in which they follow each other."""

TEXT = "I lost my card and would like a new one"
N_FOLDERS = 8
N_LABELS = 5


@dataclass(frozen=True)
class Published:
    """Adapter folders to load from, all of one shape, which PEFT's heads ask for.

    Attributes:
        adapter: The first of them.
        folders: Where they are.
        tensor_bytes: Bytes of one adapter's tensors.
    """

    adapter: Adapter
    folders: list[Path]
    tensor_bytes: int


def publish_adapters(backbone: Backbone, root: Path) -> Published:
    """Random LoRA adapters with the record a training leaves, published in a store."""
    store, folders = Store(root), []
    adapters = [random_adapter(backbone, "lora", {}, seed, N_LABELS) for seed in range(N_FOLDERS)]
    for seed, adapter in enumerate(adapters):
        adapters[seed] = replace(
            adapter,
            name=f"spare{seed}/lora",
            training=_record(),
            metrics={"validation": {"loss": 1.0, "accuracy": 0.5}},
        )
        folders.append(store.publish(adapters[seed], backbone.geometry))
    return Published(adapters[0], folders, adapters[0].n_bytes)


def _record() -> dict[str, Any]:
    """As long as the record of three epochs: it is held in memory with the adapter."""
    epochs = (1, 2, 3)
    return {
        "seed": 0,
        "rows": {"train": 9000, "validation": 1000},
        "epoch": epochs[-1],
        "history": [
            {"epoch": n, "step": 300 * n, "train_loss": 1.0, "validation": {"accuracy": 0.5}}
            for n in epochs
        ],
        "losses": [(5 * n, round(4.0 / (1 + n), 6)) for n in range(200)],
        "seconds": 60.0,
    }


class Holder(Protocol):
    """A system that holds adapters; beside those, each round loads and unloads a spare one."""

    system: str

    @property
    def held(self) -> int:
        """How many adapters are resident."""

    def resize(self, n: int) -> None:
        """Loads or unloads until n are resident."""

    def load(self) -> None:
        """Loads the spare one from its folder and makes it ready to answer."""

    def first(self) -> object:
        """Answers one text by the spare one."""

    def again(self) -> object:
        """Answers one text by the adapter that answered before."""

    def another(self) -> object:
        """Answers one text by a resident adapter drawn at random."""

    def unload(self) -> None:
        """Lets the spare one go."""

    def save(self) -> None:
        """Saves one adapter."""


class OwnHolder:
    """Our predictor and our store.

    Args:
        backbone: The backbone.
        published: Where adapters are loaded from.
        work: A folder for the store that is saved to.
    """

    system = "adapterkit"

    def __init__(self, backbone: Backbone, published: Published, work: Path) -> None:
        self._backbone, self._published = backbone, published
        self._predictor = Predictor(backbone)
        self._store = Store(work / "saved")
        self._names: list[str] = []
        self._rng, self._spare, self._asked = random.Random(0), "", ""

    @property
    def held(self) -> int:
        return len(self._names)

    def resize(self, n: int) -> None:
        while self.held > n:
            self._predictor.unload(self._names.pop())
        while self.held < n:
            folder = self._published.folders[self.held % N_FOLDERS]
            name = f"tenant{self.held}/lora"
            self._predictor.add(replace(load_adapter(folder, self._backbone), name=name))
            self._names.append(name)

    def load(self) -> None:
        self._spare = self._predictor.load(self._rng.choice(self._published.folders))

    def first(self) -> object:
        self._asked = self._spare
        return self.again()

    def again(self) -> object:
        return self._predictor([(self._asked, TEXT)])

    def another(self) -> object:
        self._asked = self._rng.choice(self._names)
        return self.again()

    def unload(self) -> None:
        self._predictor.unload(self._spare)

    def save(self) -> None:
        self._store.publish(self._published.adapter, self._backbone.geometry)


class PeftHolder:
    """One PEFT model, which loads the same folders.

    Args:
        checkpoint: The backbone's folder.
        published: Where adapters are loaded from.
        work: A folder to save to.
    """

    system = "PEFT"

    def __init__(self, checkpoint: Path, published: Published, work: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        plain = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=N_LABELS)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self._model: Any = PeftModel.from_pretrained(plain, published.folders[0], "t0").eval()
        self._folders, self._work = published.folders, work / "peft"
        self._rng = random.Random(0)
        self.held = 1

    def resize(self, n: int) -> None:
        self._model.set_adapter("t0")  # the one that always stays
        while self.held > n:
            self.held -= 1
            self._model.delete_adapter(f"t{self.held}")
        while self.held < n:
            self._model.load_adapter(self._folders[self.held % N_FOLDERS], f"t{self.held}")
            self.held += 1

    def load(self) -> None:
        self._model.load_adapter(self._rng.choice(self._folders), "spare")

    def first(self) -> object:
        self._model.set_adapter("spare")
        return self.again()

    def again(self) -> object:
        tokens = self._tokenizer(TEXT, return_tensors="pt")
        logits: torch.Tensor = self._model(**tokens).logits
        return logits.softmax(-1).tolist()

    def another(self) -> object:
        self._model.set_adapter(f"t{self._rng.randrange(self.held)}")
        return self.again()

    def unload(self) -> None:
        self._model.delete_adapter("spare")

    def save(self) -> None:
        self._model.save_pretrained(self._work, selected_adapters=["t0"])
