"""Random faults in adapter folders: each is refused in one line, or the adapter answers."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.card import CardSummary
from adapterkit.adapter.checksums import SUMS, checksum_errors
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.weights import WEIGHTS, tensor_shapes
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from adapterkit.inference.predictor import Predictor
from adapterkit.text_table import table
from helpers.backbone_faults import FOLDER_FAULTS
from helpers.paths import ROOT
from helpers.task_adapters import request_row
from helpers.time_limit import limited_time

FIXTURE = ROOT / "tests" / "fixtures" / "version_0_1_0"
NAME = "fuzz"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(FIXTURE / "backbone"), device="cpu")


@pytest.fixture(scope="module")
def requests(backbone: Backbone) -> dict[Path, Any]:
    """For each sound folder a request that its adapter answers."""
    folders = sorted(path.parent for path in (FIXTURE / "store").rglob("adapter_config.json"))
    return {folder: request_row(load_adapter(folder, backbone)) for folder in folders}


def load_and_ask(folder: Path, backbone: Backbone, request: Any) -> str:
    """What becomes of a folder: answered, or refused."""
    with limited_time():
        for read in (CardSummary.read, checksum_errors, tensor_shapes_of):
            with suppress(AdapterkitError):  # as `list`, `verify` and `inspect` read it
                read(folder)
        message = ""
        try:
            adapter = replace(load_adapter(folder, backbone), name=NAME)
            answers = Predictor(backbone, [adapter])([(NAME, request)])
            json.dumps(answers, allow_nan=False).encode()
        except AdapterkitError as error:
            message = str(error)
        assert "\n" not in message
        return "refused" if message else "answered"


def tensor_shapes_of(folder: Path) -> object:
    return tensor_shapes(folder / WEIGHTS)


def surroundings(root: Path) -> Iterator[str]:
    """All entries of a folder but those in `store`."""
    return (str(path) for path in root.rglob("*") if "store" not in path.parts)


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_mutated_folder_is_refused_or_answers(
    backbone: Backbone,
    requests: dict[Path, Any],
    tmp_path: Path,
    n: int,
    scale: float,
    report: Callable[[str], None],
) -> None:
    """With checksums, a fault is found by them; without, by the checks of its content."""
    outcomes: dict[str, Counter[str]] = {}
    before, n = sorted(surroundings(tmp_path)), round(n * scale)
    shutil.copytree(FIXTURE / "store", tmp_path / "store")
    for seed in range(n):
        rng = random.Random(seed)
        source = rng.choice(list(requests))
        folder = tmp_path / "store" / source.relative_to(FIXTURE / "store")
        has_sums, kind = rng.random() < 0.3, rng.choice(list(FOLDER_FAULTS))
        if not has_sums:
            (folder / SUMS).unlink(missing_ok=True)
        fault = FOLDER_FAULTS[kind](folder, rng)
        try:
            outcome = load_and_ask(folder, backbone, requests[source])
        except BaseException as error:
            error.add_note(f"seed {seed}: {source.relative_to(FIXTURE)}: {fault}")
            raise
        outcomes.setdefault(kind, Counter())[outcome] += 1
        shutil.rmtree(folder)
        shutil.copytree(source, folder)
    assert sorted(surroundings(tmp_path)) == before
    total = sum(outcomes.values(), Counter[str]())
    assert min(total["refused"], total["answered"]) > n // 20, total
    rows = [[kind, one["refused"], one["answered"]] for kind, one in sorted(outcomes.items())]
    rows.append(["all", total["refused"], total["answered"]])
    report(table([f"{n} adapter folders", "refused", "answered"], rows))
