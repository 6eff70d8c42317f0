"""What the tests share: tiny random backbones, the embedded one, and ready adapters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # the kernels of a GPU, line by line on the CPU

from adapterkit.backbone.model import Backbone
from helpers.adapters import MakeAdapter, random_adapter
from helpers.checkpoints import save_random_bert
from helpers.paths import SHARED
from helpers.vocabulary import WORDS


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout by accident."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # threads cost these small tensors more than they gain


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
