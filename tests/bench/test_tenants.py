"""The benchmark of many tenants: a small run of each scenario that checks answers."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit.bench.population import same_answer, without_adapter
from adapterkit.bench.tenants import TenantsBench
from adapterkit.errors import AdapterkitError


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    bench = TenantsBench(
        ("exact", "evict", "swap", "drain"), adapters=12, registered=40, resident=8, seconds=2.0
    )
    found: dict[str, dict[str, Any]] = {}
    for row in bench.run()["rows"]:
        found.setdefault(row["scenario"], {})[row["what"]] = row["value"]
    return found


def test_every_answer_of_every_method_and_task_is_the_offline_one(
    seen: dict[str, dict[str, Any]],
) -> None:
    assert seen["exact"]["adapters"] == 12
    assert seen["exact"]["requests"] > 12
    assert seen["exact"]["not answered"] == seen["exact"]["wrong"] == 0


def test_adapters_in_memory_stay_within_the_budget(seen: dict[str, dict[str, Any]]) -> None:
    found = seen["evict"]
    wrong, _, checked, _ = found["wrong"].split()
    assert int(wrong) == found["not answered"] == 0
    assert int(checked) > 0
    assert found["loads"] - found["evictions"] == 8
    assert found["resident bytes / budget"] <= 1.0


def test_changes_under_load_leave_no_wrong_answer(seen: dict[str, dict[str, Any]]) -> None:
    found = seen["swap"]
    assert set(found["changes by status"]) == {"200", "201"}
    assert found["answers of the changed"] > 0
    assert found["wrong, stale or failed"] == found["others wrong or failed"] == 0


def test_a_server_answers_everything_before_it_exits(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["drain"]["statuses"] == {200: seen["drain"]["requests under way"]}
    assert seen["drain"]["exit code"] == 0


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
