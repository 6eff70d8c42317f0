"""Rollouts: an alias with several versions, on disk and in a bucket."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapterkit.adapter.rollout import PromotionRule, Rollout
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError, AdapterkitError, UnknownAdapterError
from adapterkit.names import ALIASES
from helpers.adapters import MakeAdapter

NAME, STABLE = "acme/intent", "acme/intent@stable"
CANARY = Rollout({1: 90, 2: 10}, 3, PromotionRule(100, 0.9))


@pytest.fixture(scope="module", params=["folder", "bucket"])
def four_versions(
    request: pytest.FixtureRequest,
    tiny: Backbone,
    make_adapter: MakeAdapter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A store with four versions of an adapter."""
    root = tmp_path_factory.mktemp("four") / str(request.param)
    url = root.as_uri() if request.param == "bucket" else root
    store, adapter = Store(url, root.parent / "cache"), make_adapter(tiny, name=NAME)
    for _ in range(4):
        store.publish(adapter, tiny.geometry)
    return root


@pytest.fixture
def store(four_versions: Path, tmp_path: Path) -> Store:
    root = Path(shutil.copytree(four_versions, tmp_path / four_versions.name))
    return Store(root.as_uri() if root.name == "bucket" else root, tmp_path / "cache")


def test_a_rollout_gives_each_version_its_share() -> None:
    found = Counter(CANARY.choose(n / 1000) for n in range(1000))
    assert found == {1: 900, 2: 100}
    assert (CANARY.main, CANARY.candidate, Rollout({1: 1, 2: 1}).main) == (1, None, 1)
    assert Rollout({2: 1}, 3).candidate == 3


def test_a_growing_share_keeps_those_it_had() -> None:
    small, large = Rollout({1: 90, 2: 10}), Rollout({1: 50, 2: 50})
    positions = [n / 1000 for n in range(1000)]
    kept = [one for one in positions if small.choose(one) == 2]
    assert {large.choose(one) for one in kept} == {2}


def test_an_alias_is_rolled_out_promoted_and_rolled_back(store: Store) -> None:
    store.roll_out(NAME, "stable", CANARY)
    begun = store.rollouts(NAME)["stable"]
    assert replace(begun, began=None) == CANARY
    assert store.versions(NAME) == ([1, 2, 3, 4], {"latest": 4, "stable": 1})
    assert [store.find(STABLE, position).number for position in (None, 0.5, 0.95)] == [1, 1, 2]
    known = store.known(STABLE, 0.95)
    assert known is not None
    assert known.number == 2
    assert store.known_rollout(STABLE) == begun
    with pytest.raises(AdapterkitError, match="name the version to promote, one of 1, 2, 3"):
        store.promote(NAME, "stable")
    with pytest.raises(AdapterkitError, match="no such rollout that could end"):
        store.promote(NAME, "stable", 3, only=Rollout({1: 1, 2: 1}))
    store.roll_out(NAME, "stable", CANARY)
    with pytest.raises(AdapterkitError, match="no such rollout that could end"):
        store.promote(NAME, "stable", 3, only=begun)
    again = store.rollouts(NAME)["stable"]
    assert store.promote(NAME, "stable", 3, only=again).number == 3
    assert store.rollouts(NAME) == {}
    store.roll_out(NAME, "stable", Rollout({3: 1}, 4))
    assert store.promote(NAME, "stable").number == 4
    assert store.roll_back(NAME, "stable").number == 3
    store.roll_out(NAME, "stable", Rollout({3: 9, 4: 1}))
    assert store.roll_back(NAME, "stable").number == 3
    with pytest.raises(AdapterkitError, match="no such rollout"):
        store.promote(NAME, "stable")
    with pytest.raises(UnknownAdapterError, match="no alias 'nightly'"):
        store.roll_back(NAME, "nightly")


def test_versions_of_a_rollout_cannot_be_deleted(store: Store) -> None:
    store.roll_out(NAME, "stable", CANARY)
    for version in (1, 2, 3):
        with pytest.raises(AdapterkitError, match="is what 'stable' means"):
            store.delete(NAME, version)
    store.alias(NAME, "stable", 4)
    store.delete(NAME, 2)


def test_what_cannot_be_rolled_out_is_refused(store: Store) -> None:
    with pytest.raises(AdapterkitError, match="'latest' cannot have a rollout"):
        store.roll_out(NAME, "latest", CANARY)
    with pytest.raises(UnknownAdapterError, match="has no version '9'"):
        store.roll_out(NAME, "stable", Rollout({1: 1, 9: 1}))
    with pytest.raises(UnknownAdapterError, match="there is no adapter"):
        store.roll_out("acme/nobody", "stable", CANARY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rollout({}), "expected 1 to 8, got 0"),
        (lambda: Rollout({1: 1}), "has two versions or more"),
        (lambda: Rollout({1: 1}, 1), "has two versions or more"),
        (lambda: Rollout({1: 0, 2: 1}), "expected 1 to 1000000 for version 1, got 0"),
        (lambda: Rollout({1: 1, 2: 1}, rule=PromotionRule(1, 1.0)), "name a shadow"),
        (lambda: PromotionRule(0, 0.5), "rows: expected at least 1"),
        (lambda: PromotionRule(1, 1.5), "agreement: expected above 0"),
    ],
)
def test_what_is_no_rollout_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("stable", "message"),
    [
        ({}, "weights: expected weights by version"),
        ({"weights": {"one": 1, "2": 1}}, "weights: expected weights by version"),
        ({"weights": {"1": 0.5, "2": 1}}, "weights"),
        ({"weights": {"1": 1}}, "has two versions or more"),
        ({"weights": {"1": 1}, "shadow": "2"}, "shadow"),
        ({"weights": {"1": 1}, "shadow": 2, "rule": {"rows": 1}}, "agreement"),
        ({"weights": {"1": 1}, "shadow": 2, "mirror": 3}, "there is no such key"),
        ([1, 2], "expected version numbers"),
    ],
)
def test_a_garbled_rollout_is_an_error(tmp_path: Path, stable: object, message: str) -> None:
    home = tmp_path / "acme"
    (home / "1").mkdir(parents=True)
    (home / ALIASES).write_text(json.dumps({"latest": 1, "stable": stable}))
    with pytest.raises(AdapterError, match=message):
        Store(tmp_path).find("acme")


def test_latest_is_a_single_version(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / ALIASES).write_text(json.dumps({"latest": CANARY.to_json()}))
    with pytest.raises(AdapterError, match="expected version numbers"):
        Store(tmp_path).find("acme")
