"""The malloc options of glibc: which are set, and when they are left alone."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from adapterkit.backbone import malloc

Calls = list[tuple[int, int]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls of mallopt on a Linux with an unconfigured glibc."""
    calls: Calls = []
    use_libc(monkeypatch, calls, gnu_get_libc_version=None)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return calls


def use_libc(monkeypatch: pytest.MonkeyPatch, calls: Calls, **symbols: None) -> None:
    """Replaces the C library by one that records calls of mallopt."""

    def mallopt(option: int, value: int) -> int:
        calls.append((option, value))
        return 1

    libc = SimpleNamespace(mallopt=mallopt, **symbols)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)


def test_both_limits_are_raised(calls: Calls) -> None:
    malloc.keep_freed_memory()
    assert dict(calls) == {
        malloc.M_MMAP_THRESHOLD: malloc.MAX_BLOCK_BYTES,
        malloc.M_TRIM_THRESHOLD: malloc.MAX_FREE_BYTES,
    }


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_take_precedence(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    malloc.keep_freed_memory()
    assert calls == []


def test_another_c_library_is_not_changed(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    use_libc(monkeypatch, calls)
    malloc.keep_freed_memory()
    assert calls == []


def test_another_operating_system_is_not_changed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    malloc.keep_freed_memory()
    assert calls == []
