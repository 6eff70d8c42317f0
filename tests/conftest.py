"""Fixtures that several test files use: backbones, a function that makes adapters, data."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread for each worker of pytest-xdist and for the processes that tests start. It is read when
# torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # run the GPU kernels on the CPU

import adapterkit.ops.gpu_kernels.gather  # noqa: F401
from adapterkit.backbone.model import Backbone
from adapterkit.ops.kernels.compiling import compile_loops
from helpers.adapters import MakeAdapter, random_adapter
from helpers.checkpoints import save_random_bert
from helpers.command_server import command_server
from helpers.paths import SHARED
from helpers.vocabulary import WORDS

# numba caches compiled loops on disk. pytest-xdist imports this file before it starts its workers,
# so each loop is compiled once.
compile_loops()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers, or none if only files are named: those are done before workers have started."""
    return 0 if all(Path(name.partition("::")[0]).is_file() for name in config.args) else 2


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "factor of the sizes and durations of slow tests that have one, such as 10"
    parser.addoption("--scale", type=float, default=1.0, help=help_text)


REPORTS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for text in config.stash.get(REPORTS, []):
        terminalreporter.write_line(f"\n{text}")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a text, such as a table of what was measured, when all tests are done."""
    return request.config.stash.setdefault(REPORTS, []).append


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> float:
    """The factor of the option `--scale`."""
    return float(request.config.getoption("--scale"))


@pytest.fixture(autouse=True, scope="module")
def _imports_outside_of_garbage_collection() -> None:
    """Excludes what is imported by now from garbage collection.

    Every training collects garbage at its end. With the million objects of all imported modules
    that takes as long as a small training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the temporary folder the working folder, so that no test writes into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a random BERT of three layers with a vocabulary of words and letters."""
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
    """The tiny backbone, on the CPU and on the GPU if there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return Backbone.load(str(tiny_folder), device=request.param)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """A folder with the programs `adapterkit` and `python`, which start without importing torch."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "commands"  # by all workers
    shared.mkdir(exist_ok=True)
    with command_server(shared) as folder:
        yield folder


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    return random_adapter


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; without it the test is skipped."""
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
