"""The files of hashes for `pip install --require-hashes` have the versions of the constraints."""

from __future__ import annotations

import re
import tomllib

import pytest

from helpers.paths import ROOT

FOLDER = ROOT / ".ci"
FILES = ["hashes.txt", "hashes-cpu.txt", "hashes-cuda.txt", "hashes-dev.txt"]
PIN = re.compile(r"^[\w.-]+==[\w.+]+")


def pins(*files: str) -> list[str]:
    lines = [line for file in files for line in (FOLDER / file).read_text().splitlines()]
    return [match[0] for line in lines if (match := PIN.match(line))]


def normalised(pin: str) -> str:
    return pin.partition("==")[0].lower().replace("_", "-")


def test_every_pinned_version_has_hashes() -> None:
    pinned = set(pins("constraints.txt"))
    assert pinned - set(pins(*FILES)) == set()
    assert set(pins("hashes.txt", "hashes-dev.txt")) - pinned == set()
    (torch,) = (pin for pin in pinned if pin.startswith("torch=="))
    assert torch in pins("hashes-cuda.txt")
    assert pins("hashes-cpu.txt") == [f"{torch}+cpu"]


@pytest.mark.parametrize("file", FILES)
def test_every_package_in_a_file_of_hashes_has_one(file: str) -> None:
    """With one package without a hash, pip would refuse the whole file."""
    text = (FOLDER / file).read_text()
    entries = re.split(r"\n(?=\w)", text.partition("\n")[2].strip())
    assert len(entries) == len(set(pins(file))) > 0
    for entry in entries:
        first, *hashes = entry.split(" \\\n")
        assert PIN.fullmatch(first)
        assert hashes
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes)


def test_the_hashes_for_servers_are_those_of_all_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["explain"] + extras["sign"] + extras["traces"]
    names = {re.split(r"[<>=;\[ ]", line, maxsplit=1)[0].lower() for line in wanted}
    assert names - set(map(normalised, pins("hashes.txt", "hashes-cpu.txt"))) == set()
