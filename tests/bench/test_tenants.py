"""The benchmark of many tenants: slow tests check the answers of a small run of each scenario."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit.bench.population import same_answer, without_adapter
from adapterkit.bench.tenants import TenantsBench
from adapterkit.errors import AdapterkitError


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    """What each scenario measured, by scenario and description."""
    bench = TenantsBench(
        ("exact", "evict", "swap", "drain"), adapters=12, registered=24, resident=8, seconds=1.0
    )
    figures: dict[str, dict[str, Any]] = {}
    for row in bench.run()["rows"]:
        figures.setdefault(row["scenario"], {})[row["what"]] = row["value"]
    return figures


@pytest.mark.slow
def test_every_answer_of_every_method_and_task_is_the_offline_one(
    figures: dict[str, dict[str, Any]],
) -> None:
    assert figures["exact"]["adapters"] == 12
    assert figures["exact"]["requests"] > 12
    assert figures["exact"]["not answered"] == figures["exact"]["wrong"] == 0


@pytest.mark.slow
def test_adapters_in_memory_stay_within_the_budget(figures: dict[str, dict[str, Any]]) -> None:
    evict = figures["evict"]
    wrong, _, checked, _ = evict["wrong"].split()
    assert int(wrong) == evict["not answered"] == 0
    assert int(checked) > 0
    assert evict["loads"] - evict["evictions"] == 8
    assert evict["resident bytes / budget"] <= 1.0


@pytest.mark.slow
def test_changes_under_load_leave_no_wrong_answer(figures: dict[str, dict[str, Any]]) -> None:
    swap = figures["swap"]
    assert set(swap["changes by status"]) == {"200", "201"}
    assert swap["answers of the changed"] > 0
    assert swap["wrong, stale or failed"] == swap["others wrong or failed"] == 0


@pytest.mark.slow
def test_a_server_answers_everything_before_it_exits(figures: dict[str, dict[str, Any]]) -> None:
    assert figures["drain"]["statuses"] == {200: figures["drain"]["requests under way"]}
    assert figures["drain"]["exit code"] == 0


def test_an_unknown_scenario_is_an_error() -> None:
    with pytest.raises(AdapterkitError, match="scenarios: 'fast'; valid are exact, evict"):
        TenantsBench(("fast",))


def test_answers_are_equal_up_to_rounding() -> None:
    answer = {"adapter_id": "a/b", "version": 2, "label": "x", "scores": [0.5, 0.25]}
    assert without_adapter(answer) == {"label": "x", "scores": [0.5, 0.25]}
    assert same_answer(without_adapter(answer), {"label": "x", "scores": [0.5001, 0.25]})
    assert not same_answer(without_adapter(answer), {"label": "x", "scores": [0.51, 0.25]})
    assert not same_answer(without_adapter(answer), {"label": "y", "scores": [0.5, 0.25]})
    assert not same_answer(without_adapter(answer), {"label": "x", "scores": [0.5]})
    assert not same_answer({"label": "x"}, {"label": "x", "scores": [0.5]})
