"""Compiled loops are code: they are loaded from a folder that nobody else can write."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from adapterkit.ops import kernels
from adapterkit.ops.kernels import kernel_cache as kernel_cache_module
from adapterkit.ops.kernels.compiling import compiled
from adapterkit.ops.kernels.kernel_cache import cache_folder, kernel_cache, report_incomplete
from helpers.command_line import run_command

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are lists on Windows")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    cache_folder.cache_clear()
    yield
    cache_folder.cache_clear()


def test_the_folder_beside_the_source_is_used_if_it_is_safe() -> None:
    folder = cache_folder()
    assert folder is not None
    assert folder.name == "__pycache__"


def test_a_chosen_folder_is_made_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, before = tmp_path / "cache", numba.config.CACHE_DIR
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(chosen))
    with kernel_cache() as is_cached:
        assert is_cached
        assert str(chosen) == numba.config.CACHE_DIR
    assert before == numba.config.CACHE_DIR
    assert chosen.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("is_parent", [False, True])
def test_a_folder_that_others_can_write_is_not_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: int,
    is_parent: bool,
) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(mode)
    chosen = open_folder / "cache" if is_parent else open_folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(chosen))
    for _ in range(2):
        with kernel_cache() as is_cached:
            assert not is_cached
    (message,) = caplog.messages
    assert message.startswith(f"compiled loops are not cached ({chosen}: {open_folder} can be wr")
    assert message.endswith("set NUMBA_CACHE_DIR to a folder that only you can write")


def test_a_folder_that_cannot_be_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert cache_folder() is None
    assert "cannot be made" in caplog.messages[0]


# A folder that was filled before, and cannot be written now.


LOOPS = """
def add_one(numbers):
    numbers[0] += 1

def add_two(numbers):
    numbers[0] += 2
"""


def make_unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written any more, whoever runs the tests."""

    def refuse(**_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    cache_folder.cache_clear()


@pytest.mark.parametrize("is_beside", [True, False])
def test_loops_are_loaded_from_a_folder_that_cannot_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_beside: bool,
) -> None:
    """As in a container with a read-only root. What the folder lacks is compiled, with a line."""
    report_incomplete.cache_clear()
    monkeypatch.delitem(sys.modules, "adding", raising=False)
    source = tmp_path / "loops"
    source.mkdir()
    (source / "adding.py").write_text(LOOPS)
    monkeypatch.syspath_prepend(source)
    monkeypatch.setattr(kernel_cache_module, "SOURCE", source)
    if not is_beside:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    adding: Any = import_module("adding")
    signature = "void(int64[::1])"
    compiled(signature)(adding.add_one)
    make_unwritable(monkeypatch)
    loaded: Any = compiled(signature)(adding.add_one)
    numbers = np.array([1])
    loaded(numbers)
    assert numbers[0] == 2
    assert sum(loaded.stats.cache_hits.values()) == 1
    assert caplog.messages == []
    new: Any = compiled(signature)(adding.add_two)
    new(numbers)
    assert numbers[0] == 4
    assert "the folder cannot be written" in caplog.messages[0]


def test_a_machine_without_a_gpu_needs_no_triton() -> None:
    """A server compiles all loops when it starts, and so imports every module of that folder."""
    modules = sorted(Path(kernels.__path__[0]).glob("*.py"))
    assert len(modules) > 10
    for module in modules:
        assert not re.search(r"^ *(import|from) triton\b", module.read_text("utf-8"), re.M), module


def test_a_command_compiles_all_loops() -> None:
    result = run_command("compile")
    assert result.code == 0
    assert result.out.startswith(f"compiled loops are in {cache_folder()} (")
