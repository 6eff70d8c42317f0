"""Which options of malloc are set, and when they are left alone."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from adapterkit.backbone import malloc as heap


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replaces the C library by a glibc that only records the calls of `mallopt` in `calls`."""
    calls: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        calls.append((option, value))
        return 1

    library = SimpleNamespace(gnu_get_libc_version=None, mallopt=mallopt, calls=calls)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return library


def test_both_thresholds_are_raised(glibc: SimpleNamespace) -> None:
    heap.keep_freed_memory()
    assert dict(glibc.calls) == {
        heap.M_MMAP_THRESHOLD: heap.LARGEST,
        heap.M_TRIM_THRESHOLD: heap.KEPT,
    }


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_left_alone(
    glibc: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    heap.keep_freed_memory()
    assert glibc.calls == []


def test_another_c_library_is_left_alone(glibc: SimpleNamespace) -> None:
    del glibc.gnu_get_libc_version
    heap.keep_freed_memory()
    assert glibc.calls == []


def test_another_system_is_left_alone(
    glibc: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    heap.keep_freed_memory()
    assert glibc.calls == []
