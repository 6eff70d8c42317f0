"""Compiled loops are code: they are loaded from a folder that nobody else can write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

from adapterkit.ops.kernels.kernel_cache import cache_folder, kernel_cache

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
