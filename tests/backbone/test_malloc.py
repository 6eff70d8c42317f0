"""What is asked of the C library, and when nothing is."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from adapterkit.backbone import malloc as heap


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What a glibc is told instead of the real one."""
    told: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        told.append((option, value))
        return 1

    glibc = SimpleNamespace(gnu_get_libc_version=None, mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: glibc)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return told


def test_both_limits_are_raised(asked: list[tuple[int, int]]) -> None:
    heap.keep_freed_memory()
    assert dict(asked) == {
        heap.M_MMAP_THRESHOLD: heap.LARGEST,
        heap.M_TRIM_THRESHOLD: heap.KEPT,
    }


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_has_chosen_for_himself_is_left_alone(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    heap.keep_freed_memory()
    assert asked == []


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    heap.keep_freed_memory()


def test_another_system_is_left_alone(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    heap.keep_freed_memory()
    assert asked == []


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_glibc_takes_what_it_is_asked() -> None:
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("not glibc")
    assert libc.mallopt(heap.M_MMAP_THRESHOLD, heap.LARGEST) == 1
    assert libc.mallopt(heap.M_TRIM_THRESHOLD, heap.KEPT) == 1
