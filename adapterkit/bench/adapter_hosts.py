"""Systems that keep many adapters in memory: our predictor and store, and one PEFT model."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..adapter.adapter import Adapter
from ..adapter.checksums import SUMS
from ..adapter.folder import load_adapter
from ..adapter.signature import sign_folder
from ..adapter.signing_key import make_signing_key
from ..adapter.store import Store
from ..adapter.trust import Trust, TrustedKey
from ..backbone.model import Backbone
from ..inference.predictor import Predictor
from .machine import has_cryptography
from .workload import random_adapter

OPERATIONS = {
    "cold load": "load",
    "first answer": "first_answer",
    "ask the same": "answer_again",
    "ask another": "answer_by_another",
    "unload": "unload",
    "save": "save",
}
"""Name of each operation and the method that runs it, in the order in which they are run."""

CHECKS = {"cold load, no checksums": "load_unchecked", "cold load, signed": "load_signed"}
"""The same for what our own system does beside it, to show what the checks of a load cost."""

TEXT = "I lost my card and would like a new one"
N_FOLDERS = 8
N_LABELS = 5


@dataclass(frozen=True)
class PublishedAdapters:
    """Adapter folders to load from, all of one shape, as PEFT's heads require.

    Attributes:
        store: The store with them.
        adapter: The first of them.
        folders: The folders.
        tensor_bytes: Bytes of one adapter's tensors.
    """

    store: Store
    adapter: Adapter
    folders: list[Path]
    tensor_bytes: int


def publish_adapters(backbone: Backbone, root: Path) -> PublishedAdapters:
    """Publishes random LoRA adapters with the record that training leaves."""
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
    return PublishedAdapters(store, adapters[0], folders, adapters[0].n_bytes)


def _record() -> dict[str, Any]:
    """A record as large as that of three epochs: it is kept in memory with the adapter."""
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


def without_checksums(folder: Path, copy: Path) -> Path:
    """A copy of an adapter folder without its checksums."""
    shutil.copytree(folder, copy)
    (copy / SUMS).unlink()
    return copy


def sign_adapters(published: PublishedAdapters, work: Path) -> Store:
    """Signs adapters in place with a new key; returns their store, which trusts this key."""
    public = make_signing_key(work / "key.pem")
    for folder in published.folders:
        name = folder.parent.relative_to(published.store.root).as_posix()
        sign_folder(folder, name, int(folder.name), work / "key.pem")
    return Store(published.store.root, trust=Trust("bench", {"it": TrustedKey(public, ("*",))}))


class AdapterHost(Protocol):
    """A system with adapters in memory; each round loads and unloads one more, the spare one."""

    system: str

    @property
    def operations(self) -> Mapping[str, str]:
        """Name and method of the operations that are measured, in their order."""

    @property
    def n_resident(self) -> int:
        """Number of adapters in memory, without the spare one."""

    def resize(self, n: int) -> None:
        """Loads or unloads adapters until n are in memory."""

    def load(self) -> None:
        """Loads the spare adapter from its folder and makes it ready to answer."""

    def first_answer(self) -> object:
        """Answers one text by the spare adapter."""

    def answer_again(self) -> object:
        """Answers one text by the adapter that answered before."""

    def answer_by_another(self) -> object:
        """Answers one text by another adapter in memory, drawn at random."""

    def unload(self) -> None:
        """Unloads the spare adapter."""

    def save(self) -> None:
        """Saves one adapter."""


class OwnHost:
    """Our predictor and our store.

    Args:
        backbone: The backbone.
        published: The folders that adapters are loaded from.
        work: A folder for the store that adapters are saved to.
    """

    system = "adapterkit"

    def __init__(self, backbone: Backbone, published: PublishedAdapters, work: Path) -> None:
        self._backbone, self._published = backbone, published
        self._unchecked = [
            without_checksums(folder, work / "unchecked" / str(number))
            for number, folder in enumerate(published.folders)
        ]
        is_signed = has_cryptography()
        store = sign_adapters(published, work) if is_signed else published.store
        self._check_signature = store.check_signature
        checks = {n: o for n, o in CHECKS.items() if is_signed or o != "load_signed"}
        self.operations = {**checks, **OPERATIONS}
        self._predictor = Predictor(backbone)
        self._store = Store(work / "saved")
        self._names: list[str] = []
        self._rng, self._spare, self._latest = random.Random(0), "", ""

    @property
    def n_resident(self) -> int:
        return len(self._names)

    def resize(self, n: int) -> None:
        while self.n_resident > n:
            self._predictor.unload(self._names.pop())
        while self.n_resident < n:
            folder = self._published.folders[self.n_resident % N_FOLDERS]
            name = f"tenant{self.n_resident}/lora"
            self._predictor.add(replace(load_adapter(folder, self._backbone), name=name))
            self._names.append(name)

    def load(self) -> None:
        self._spare = self._predictor.load(self._rng.choice(self._published.folders))

    def load_unchecked(self) -> None:
        self._predictor.unload(self._predictor.load(self._rng.choice(self._unchecked)))

    def load_signed(self) -> None:
        folder, check = self._rng.choice(self._published.folders), self._check_signature
        self._predictor.unload(self._predictor.load(folder, check_signature=check))

    def first_answer(self) -> object:
        self._latest = self._spare
        return self.answer_again()

    def answer_again(self) -> object:
        return self._predictor([(self._latest, TEXT)])

    def answer_by_another(self) -> object:
        self._latest = self._rng.choice(self._names)
        return self.answer_again()

    def unload(self) -> None:
        self._predictor.unload(self._spare)

    def save(self) -> None:
        self._store.publish(self._published.adapter, self._backbone.geometry)


class PeftHost:
    """One PEFT model that loads the same folders.

    Args:
        checkpoint: The backbone's folder.
        published: The folders that adapters are loaded from.
        work: A folder to save to.
    """

    system = "PEFT"
    operations = OPERATIONS

    def __init__(self, checkpoint: Path, published: PublishedAdapters, work: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        plain = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=N_LABELS)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self._model: Any = PeftModel.from_pretrained(plain, published.folders[0], "t0").eval()
        self._folders, self._work = published.folders, work / "peft"
        self._rng = random.Random(0)
        self.n_resident = 1

    def resize(self, n: int) -> None:
        self._model.set_adapter("t0")  # which is never deleted
        while self.n_resident > n:
            self.n_resident -= 1
            self._model.delete_adapter(f"t{self.n_resident}")
        while self.n_resident < n:
            self._model.load_adapter(
                self._folders[self.n_resident % N_FOLDERS], f"t{self.n_resident}"
            )
            self.n_resident += 1

    def load(self) -> None:
        self._model.load_adapter(self._rng.choice(self._folders), "spare")

    def first_answer(self) -> object:
        self._model.set_adapter("spare")
        return self.answer_again()

    def answer_again(self) -> object:
        tokens = self._tokenizer(TEXT, return_tensors="pt")
        logits: torch.Tensor = self._model(**tokens).logits
        return logits.softmax(-1).tolist()

    def answer_by_another(self) -> object:
        self._model.set_adapter(f"t{self._rng.randrange(self.n_resident)}")
        return self.answer_again()

    def unload(self) -> None:
        self._model.delete_adapter("spare")

    def save(self) -> None:
        self._model.save_pretrained(self._work, selected_adapters=["t0"])
