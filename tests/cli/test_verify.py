"""`adapterkit verify`, and lists of a store with broken folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterkit.adapter.card import CARD, CardSummary
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.model import Backbone
from adapterkit.names import ALIASES
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command

NAMES = ["acme/bad", "acme/good", "globex"]


@pytest.fixture
def shelf(tiny: Backbone, make_adapter: MakeAdapter) -> Path:
    store = Store("shelf")
    for name in NAMES:
        store.publish(make_adapter(tiny, name=name), tiny.geometry)
    store.publish(make_adapter(tiny, name="acme/good"), tiny.geometry)
    return store.root


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.write_bytes(content)


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_bytes(file: Path) -> None:
    file.write_bytes(b"\xff\xfe{[")


FAULTS: dict[str, Callable[[Path], None]] = {
    f"{fault.__name__} {name}": (lambda folder, f=fault, n=name: f(folder / n))  # type: ignore[misc]
    for fault in (flip, as_pipe, as_folder, as_bytes)
    for name in (WEIGHTS, CARD, SUMS, "README.md")
}


def test_verify_checks_all_versions_of_a_store(shelf: Path) -> None:
    result = run_command("verify", shelf)
    assert result.code == 0
    lines = ["acme/bad@1: ok", "acme/good@1: ok", "acme/good@2: ok", "globex@1: ok"]
    assert result.out.splitlines() == lines
    assert run_command("verify", "acme/good@1", "--store", shelf).out == "acme/good@1: ok\n"
    assert run_command("verify", shelf / "globex/1").out.endswith("globex/1: ok\n")
    assert_refused("verify", "acme/nobody", "--store", shelf, words="no adapter 'acme/nobody'")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_one_line_of_verify(shelf: Path, fault: str) -> None:
    FAULTS[fault](shelf / "acme/bad/1")
    result = run_command("verify", shelf, "--json")
    assert result.code == 1
    assert '"globex@1"' in result.out
    lines = run_command("verify", shelf).out.splitlines()
    wrong = [line for line in lines if not line.endswith(": ok")]
    assert [line.partition(":")[0] for line in lines if line in wrong] in (
        ["acme/bad@1"],
        ["acme/bad"],
    )
    assert lines[-1] == "globex@1: ok"


@pytest.mark.parametrize("fault", [*FAULTS, "aliases"])
def test_a_broken_folder_is_at_most_one_line_of_list(shelf: Path, fault: str) -> None:
    if fault == "aliases":
        as_bytes(shelf / "acme/bad" / ALIASES)
    else:
        FAULTS[fault](shelf / "acme/bad/1")
    result = run_command("list", shelf, "--json")
    names = [row["name"] for row in result.json]
    assert names in (NAMES, NAMES[1:]), "a name whose only card is no file has no versions"
    assert run_command("list", shelf).code == 0
    shown = run_command("inspect", "acme/bad", "--store", shelf)
    assert shown.code in (0, 2)
    assert len(shown.err.splitlines()) <= 1


def test_an_adapter_that_is_deleted_meanwhile_is_not_listed(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CardSummary.read

    def read_late(folder: Path) -> CardSummary:
        if folder.parent.name == "good":
            Store(shelf).delete("acme/good")
        return read(folder)

    monkeypatch.setattr(CardSummary, "read", staticmethod(read_late))
    found = run_command("list", shelf, "--json").json
    assert [row["name"] for row in found] == [name for name in NAMES if name != "acme/good"]
    assert not any("error" in row for row in found)
