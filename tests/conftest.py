"""What the tests share: tiny random backbones, the embedded one, and ready adapters."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # the kernels of a GPU, line by line on the CPU

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import Inputs
from adapterkit.backbone.tokenizer import cut
from adapterkit.inference.pipeline import run
from adapterkit.methods.base import methods
from adapterkit.tasks.classification import Classification
from adapterkit.tasks.types import Example

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

WORDS = """
a the card money lost my i want to where is account close open good bad not very wait help please
transfer failed fee new address bank laptop screen network slow fast tea rain sun
""".split()

MakeAdapter = Callable[..., Adapter]


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout by accident."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # threads cost these small tensors more than they gain


def save_random_bert(folder: Path, vocabulary: list[str], **changes: Any) -> Path:
    """A randomly initialised BERT with a WordPiece vocabulary, saved as a checkpoint."""
    import transformers
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    model = BertModel(BertConfig(**{**shape, **changes}))
    for name, parameter in model.named_parameters():
        # Fresh biases are zero and fresh norms the identity; neither would test anything.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.1)
    model.save_pretrained(folder)
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer: Any = transformers.BertTokenizerFast  # type: ignore[attr-defined]
    tokenizer(vocab=str(file), do_lower_case=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *letters])]
    vocabulary += [f"##{letter}" for letter in letters]
    return save_random_bert(tmp_path_factory.mktemp("tiny"), vocabulary)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Backbone:
    return Backbone.load(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def minilm() -> Backbone:
    return Backbone.load("minilm", device="cpu")


@pytest.fixture(
    scope="session",
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def anywhere(request: pytest.FixtureRequest, tiny_folder: Path) -> Backbone:
    """The tiny backbone on every device there is."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return Backbone.load(str(tiny_folder), device=request.param)


def random_adapter(
    backbone: Backbone,
    method: str = "lora",
    name: str = "acme/intent",
    labels: tuple[str, ...] = ("no", "yes"),
    seed: int = 0,
    pooling: Any = "mean",
    **settings: Any,
) -> Adapter:
    """An adapter as if trained: every tensor random and large enough to be seen in the answers."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.2 * (32 / backbone.geometry.hidden) ** 0.5
    chosen, tensors = methods()[method](**settings), {}
    for key, shape in chosen.shapes(backbone.geometry).items():
        tensors[key] = torch.randn(shape, generator=generator) * spread
    task = Classification(pooling=pooling, labels=labels)
    shapes = task.head_shapes(backbone.geometry.hidden)
    return Adapter(
        name=name,
        method=chosen,
        task=task,
        tensors=tensors,
        head={key: torch.randn(s, generator=generator) * spread for key, s in shapes.items()},
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
    ).to(backbone.device)


def tokenise(
    backbone: Backbone, texts: list[str], pairs: list[str | None] | None, limit: int
) -> list[Inputs]:
    """Texts or text pairs as one sequence each, cut to a limit."""
    return [cut(encoding, limit)[0] for encoding in backbone.reader.read(texts, pairs)]


def logits_of(backbone: Backbone, adapter: Adapter, inputs: list[Inputs]) -> torch.Tensor:
    """One adapter's logits for many sequences, `[n, C]`, in their order."""
    return torch.cat([row[0] for row in run(backbone, [(adapter, Example((i,))) for i in inputs])])


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    return random_adapter


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets beside the checkout; tests that need them skip where they are absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real data sets are not beside this checkout (../shared/data)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def chinese_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the real Chinese vocabulary."""
    file = SHARED / "vocab" / "bert-base-chinese-vocab.txt"
    if not file.is_file():
        pytest.skip("the Chinese vocabulary is not beside this checkout (../shared/vocab)")
    words = file.read_text(encoding="utf-8").splitlines()
    return save_random_bert(
        tmp_path_factory.mktemp("chinese"),
        words,
        initializer_range=0.02,
        max_position_embeddings=128,
    )
