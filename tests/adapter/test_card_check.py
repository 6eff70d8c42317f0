"""One odd value in a card: the adapter is refused in one line, or it is as good as any other."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.card import CARD, CardSummary
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError, AdapterkitError, DataError
from adapterkit.inference.predictor import Predictor
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.paths import ROOT as CHECKOUT

FIXTURE = CHECKOUT / "tests" / "fixtures" / "version_0_1_0"
NAME = "acme/many"
TEXT = "I lost my card"

VALUES = [None, True, -5, 1e38, float("nan"), "x", "\ud800", [1], {"a": 1}, 10**30, "a" * 5000]

N_VALUES = 4
"""How many of them each key gets."""


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of a card, and of the first item of every list."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*above, key))


def changed(card: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    card = copy.deepcopy(card)
    section: Any = card
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    return card


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(FIXTURE / "backbone"), device="cpu")


def test_no_value_of_a_card_is_more_than_an_error_of_its_adapter(backbone: Backbone) -> None:
    """Every key of a real card gets some of the odd values."""
    folder = Path("shelf", NAME, "1")
    shutil.copytree(FIXTURE / "store" / NAME / "1", folder)
    (folder / SUMS).unlink()
    good, (request,) = json.loads((folder / CARD).read_text()), [TEXT]
    refused = answered = 0
    rng = random.Random(0)
    for place in places(good):
        for value in rng.sample(VALUES, N_VALUES):
            (folder / CARD).write_text(json.dumps(changed(good, place, value)))
            with suppress(AdapterkitError):
                shown = {**asdict(CardSummary.read(folder)), "inputs": None}
                json.dumps(shown, allow_nan=False).encode()
            try:
                loaded = replace(load_adapter(folder, backbone), name=NAME)
            except AdapterkitError as error:
                message = str(error)
                refused += "\n" not in message and (len(message) < 800 or WEIGHTS in message)
                continue
            with suppress(DataError):  # by the changed card, the training rows had text pairs
                answers = Predictor(backbone, [loaded])([(NAME, request)])
                json.dumps(answers, allow_nan=False).encode()
            answered += 1
    assert refused + answered == N_VALUES * len(list(places(good)))
    assert refused > 100
    assert answered > 100


FAULTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "metrics.validation: expected names": (("metrics", "validation"), 5),
    "metrics.test.accuracy: expected a finite number": (("metrics", "test"), {"accuracy": 1e999}),
    "is not a text that can be written": (("backbone", "name"), "\ud800"),
    "task.max_length: expected 3 or more, got -5": (("task", "max_length"), -5),
    "method.alpha: expected at most 10,000, got 1e+38": (("method", "alpha"), 1e38),
    "task.pooling": (("task", "pooling"), 7),
    "training.recipe: expected keys and values": (("training",), {"recipe": [1]}),
    "is nested too deeply": (("training",), {"a": json.loads("[" * 80 + "]" * 80)}),
}


@pytest.fixture
def shelf(tiny: Backbone, make_adapter: MakeAdapter) -> Store:
    store = Store("shelf")
    for name in ("acme/good", "acme/odd", "globex"):
        adapter = make_adapter(tiny, name=name)
        store.publish(replace(adapter, metrics={"test": {"accuracy": 0.5}}), tiny.geometry)
    return store


@pytest.mark.parametrize("words", FAULTS)
def test_an_odd_card_is_one_line_and_hides_no_other_adapter(
    shelf: Store, tiny: Backbone, words: str
) -> None:
    folder = shelf.path("acme/odd")
    place, value = FAULTS[words]
    card = changed(json.loads((folder / CARD).read_text()), place, value)
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, tiny)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(AdapterError):
        shelf.publish_files("acme/odd", {CARD: (folder / CARD).read_bytes()}, CardSummary.read)
    assert shelf.versions("acme/odd")[0] == [1]
    result = run_command("list", "shelf", "--json")
    assert [row["name"] for row in result.json] == ["acme/good", "acme/odd", "globex"]
    assert [row.get("error", "") != "" for row in result.json] == [False, True, False]
    (line,) = (line for line in run_command("list", "shelf").out.splitlines() if "acme/odd" in line)
    assert words[:20] in line


def test_an_adapter_whose_card_would_be_odd_is_not_saved(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(tiny)
    for odd in (
        {"metrics": {"test": {"accuracy": float("nan")}}},
        {"training": {"note": "\ud800"}},
    ):
        with pytest.raises(AdapterError, match=r"finite number|that can be written"):
            save_adapter(replace(adapter, **odd), "folder", tiny.geometry)
        assert not Path("folder").exists()
