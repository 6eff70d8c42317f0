"""The files of hashes for `pip install --require-hashes` have the versions of the constraints."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

import pytest

from helpers.paths import ROOT

FOLDER = ROOT / ".ci"
PIN = re.compile(r"^[\w.-]+==[\w.]+")


def pins(file: str) -> list[str]:
    lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    return [match[0] for line in lines if (match := PIN.match(line))]


def test_every_pinned_version_has_hashes_once() -> None:
    found = Counter(pins("hashes.txt") + pins("hashes-dev.txt"))
    assert found == Counter(pins("constraints.txt"))


@pytest.mark.parametrize("file", ["hashes.txt", "hashes-dev.txt", "hashes-cuda.txt"])
def test_every_package_in_a_file_of_hashes_has_one(file: str) -> None:
    """With one package without a hash, pip would refuse the whole file."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\w)", text.partition("\n")[2].strip())
    assert len(entries) == len(pins(file)) > 10
    for entry in entries:
        first, *hashes = entry.split(" \\\n")
        assert PIN.fullmatch(first)
        assert hashes
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes)


def test_the_hashes_for_servers_are_those_of_all_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["explain"] + extras["sign"] + extras["traces"]
    names = {re.split(r"[<>=;\[ ]", line, maxsplit=1)[0].lower() for line in wanted}
    assert (
        names - {pin.partition("==")[0].lower().replace("_", "-") for pin in pins("hashes.txt")}
        == set()
    )
