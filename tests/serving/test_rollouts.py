"""Rollouts on a server: shares, sessions, shadows, rules, and promotion under load."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from adapterkit.adapter.rollout import Rollout
from adapterkit.adapter.store import Store
from adapterkit.adapter.store_index import Version
from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.errors import AccessError, AdapterkitError, DataError
from adapterkit.serving.engine.adapter_cache import LoadedAdapter
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.keys.api_keys import hash_key
from adapterkit.serving.rollouts import SHADOW, Rollouts, ServedRows
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.server import serving

NAME, STABLE = "acme/intent", "acme/intent@stable"
TEXT = "my card is lost"
SAME, OTHER = 2, 3
"""Versions with the answers of version 1, and with others."""


@pytest.fixture(scope="module")
def root(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with three versions of an adapter; the last one has opposite answers."""
    root = tmp_path_factory.mktemp("rollouts") / "store"
    adapter = make_adapter(tiny, name=NAME, labels=("bill", "card"))
    opposite = replace(adapter, head={key: -tensor for key, tensor in adapter.head.items()})
    for content in (adapter, adapter, opposite):
        Store(root).publish(content, tiny.geometry)
    return root


@pytest.fixture(scope="module")
def url(root: Path, tiny_folder: Path) -> Iterator[str]:
    keys = root.parent / "keys.yaml"
    users = {f"user{n}": {"key": hash_key(f"ak-{n}"), "adapters": ["acme/*"]} for n in range(20)}
    ops = {"key": hash_key("ak-ops"), "adapters": ["*"], "admin": True}
    keys.write_text(json.dumps({**users, "ops": ops}))
    with serving(root, tiny_folder, keys=keys) as url:
        yield url


@pytest.fixture
def ops(url: str) -> Iterator[Client]:
    with Client(url, "ak-ops") as client:
        client.alias(NAME, "stable", 1)
        yield client


def ask(http: httpx2.Client, url: str, *, key: str = "ak-ops", session: str = "") -> dict[str, Any]:
    """The answer of `stable`, with its version."""
    headers = {"authorization": f"Bearer {key}"} | ({"x-session-id": session} if session else {})
    body = {"requests": [{"adapter_id": STABLE, "inputs": TEXT}]}
    reply = http.post(f"{url}/predict", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()[0]
    return answer


def report(client: Client) -> dict[str, Any]:
    """The rollout of `stable` with its counts."""
    found: dict[str, Any] = client.model(NAME)["rollouts"]["stable"]
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits for what happens after an answer."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def check_shares(url: str, ops: Client, n: int) -> dict[str, int]:
    """Asks for n sessions, every fifth twice, and checks shares and stickiness; the version of
    each."""
    ops.roll_out(NAME, "stable", {1: 90, OTHER: 10})
    with httpx2.Client() as http:
        first = {f"s{i}": ask(http, url, session=f"s{i}")["version"] for i in range(n)}
        for session in [*first][::5]:
            assert ask(http, url, session=session)["version"] == first[session]
    deviation = (n * 0.1 * 0.9) ** 0.5
    assert abs(Counter(first.values())[OTHER] - n * 0.1) < 4 * deviation
    return first


def test_sessions_are_divided_by_weight_and_keep_their_version(url: str, ops: Client) -> None:
    check_shares(url, ops, 60)
    served = report(ops)["counts"]["served"]
    assert sum(one["rows"] for one in served.values()) == 72
    assert all(one["mean_seconds"] > 0 for one in served.values())


def test_without_a_session_a_key_keeps_its_version(url: str, ops: Client) -> None:
    ops.roll_out(NAME, "stable", {1: 50, OTHER: 50})
    with httpx2.Client() as http:
        found = [{ask(http, url, key=f"ak-{n}")["version"] for _ in range(2)} for n in range(20)]
    assert all(len(versions) == 1 for versions in found)
    assert len(set.union(*found)) == 2


def test_without_keys_and_sessions_requests_are_divided(root: Path, tiny_folder: Path) -> None:
    with serving(root, tiny_folder) as url, Client(url) as client, httpx2.Client() as http:
        client.roll_out(NAME, "stable", {1: 50, OTHER: 50})
        found = Counter(ask(http, url)["version"] for _ in range(25))
        assert set(found) == {1, OTHER}


@pytest.mark.parametrize(("shadow", "agreement"), [(SAME, 1.0), (OTHER, 0.0)])
def test_a_shadow_is_only_counted(url: str, ops: Client, shadow: int, agreement: float) -> None:
    ops.roll_out(NAME, "stable", {1: 1}, shadow)
    with httpx2.Client() as http:
        assert {ask(http, url, session=f"s{i}")["version"] for i in range(10)} == {1}
    wait_for(lambda: report(ops)["counts"]["shadow"]["compared"] == 10)
    counts = report(ops)["counts"]["shadow"]
    assert (counts["agreement"], counts["skipped"]) == (agreement, 0)
    metrics = httpx2.get(f"{url}/metrics", headers={"authorization": "Bearer ak-ops"}).text
    label = f'adapter="{NAME}",alias="stable",outcome="agreed",version="{shadow}"'
    assert f"adapterkit_shadow_rows_total{{{label}}} {10 * agreement}" in metrics
    assert (
        f'adapterkit_rollout_rows_total{{adapter="{NAME}",alias="stable",role="served"' in metrics
    )


@pytest.mark.parametrize(("shadow", "verdict"), [(SAME, SAME), (OTHER, 1)])
def test_a_rule_ends_a_rollout(url: str, ops: Client, shadow: int, verdict: int) -> None:
    ops.roll_out(NAME, "stable", {1: 1}, shadow, {"rows": 5, "agreement": 0.9})
    with httpx2.Client() as http:
        for i in range(5):
            ask(http, url, session=f"s{i}")
        wait_for(lambda: not ops.model(NAME)["rollouts"])
        assert ask(http, url)["version"] == verdict


def test_a_rule_ends_the_same_rollout_again(url: str, ops: Client) -> None:
    for _ in range(2):
        ops.roll_out(NAME, "stable", {1: 1}, OTHER, {"rows": 3, "agreement": 0.9})
        assert report(ops)["counts"]["served"] == {}
        with httpx2.Client() as http:
            for i in range(3):
                ask(http, url, session=f"s{i}")
        wait_for(lambda: not ops.model(NAME)["rollouts"])


def test_what_was_answered_before_a_rollout_is_not_counted() -> None:
    rollout = Rollout({2: 1}, shadow=3)
    cache: Any = SimpleNamespace(store=SimpleNamespace(known_rollout=lambda _: rollout))
    engine: Any = None
    adapter: Any = None
    rollouts = Rollouts(cache, engine, 1.0)
    loaded = LoadedAdapter(adapter, Version(NAME, 1, Path(), ""))
    rollouts.follow(ServedRows(STABLE, loaded, [TEXT], [{}], 0.1))
    found = rollouts.counter.to_json(NAME, {"stable": rollout})["stable"]["counts"]
    assert (found["served"], found["shadow"]["skipped"]) == ({}, 0)


def test_the_log_does_not_quote_a_text_that_a_shadow_cannot_answer(
    url: str,
    ops: Client,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Engine.ask

    async def failing(engine: Engine, tenant: str, rows: Any, *arguments: Any) -> Any:
        if tenant == SHADOW:
            raise DataError(f"there is no [MASK] to fill in '{rows[0][1]}'")
        return await before(engine, tenant, rows, *arguments)

    monkeypatch.setattr(Engine, "ask", failing)
    ops.roll_out(NAME, "stable", {1: 1}, SAME)
    with httpx2.Client() as http:
        ask(http, url)
    wait_for(lambda: report(ops)["counts"]["shadow"]["compared"] == 1)
    assert f"shadow {NAME}@{SAME}: DataError" in caplog.messages
    assert TEXT not in caplog.text


def test_what_cannot_be_rolled_out_is_refused(url: str, ops: Client) -> None:
    with pytest.raises(AdapterkitError, match="has two versions or more"):
        ops.roll_out(NAME, "stable", {1: 1})
    with pytest.raises(AdapterkitError, match="'latest' cannot have a rollout"):
        ops.roll_out(NAME, "latest", {1: 1, 2: 1})
    with pytest.raises(AdapterkitError, match="has no version '9'"):
        ops.roll_out(NAME, "stable", {1: 1}, 9)
    with pytest.raises(AdapterkitError, match="no such rollout"):
        ops.promote(NAME, "stable")
    with Client(url, "ak-1") as user, pytest.raises(AccessError, match="publisher"):
        user.roll_out(NAME, "stable", {1: 1, 2: 1})


def test_the_command_line(url: str, ops: Client) -> None:
    options = ["--url", url, "--key", "ak-ops"]
    command = ["client", "rollout", NAME, "stable", "1=90", "3=10"]
    shown = run_command(*command, "--shadow", "2", "--rows", "9", "--agreement", "0.9", *options)
    text = (
        "acme/intent@stable is version 1 for 90 %, version 3 for 10 %, with version 2 as a shadow"
    )
    assert text in shown.out
    assert "is version 3 (" in run_command("client", "promote", NAME, "stable", "3", *options).out
    run_command(*command, *options)
    rolled_back = run_command("client", "rollback", NAME, "--alias", "stable", *options)
    assert "is version 1 (" in rolled_back.out
    for wrong, message in (
        (["1=90", "3"], "expected a version and its weight"),
        (["1=90", "1=10"], "a version is given twice"),
        (["1=90", "3=10", "--rows", "9"], "give both --rows and --agreement"),
    ):
        refused = run_command("client", "rollout", NAME, "stable", *wrong, *options)
        assert (refused.code, message in refused.err) == (2, True), refused.err


def check_promotion(url: str, ops: Client, clients: int, rounds: int) -> Counter[int]:
    """Rolls out and promotes while clients ask, each with sessions of its own. An answer must be
    that of the version it names, and after a promotion that of the promoted one.

    Returns:
        Answers by version.
    """
    expected = {version: ops.predict(f"{NAME}@{version}", TEXT) for version in (1, OTHER)}
    labels = {version: answer["label"] for version, answer in expected.items()}
    assert labels[1] != labels[OTHER]
    stop, seen = threading.Event(), [Counter[int]() for _ in range(clients)]

    def keep_asking(number: int) -> None:
        with httpx2.Client() as http:
            while not stop.is_set():
                answer = ask(http, url, session=f"{number}-{seen[number].total()}")
                assert answer["label"] == labels[answer["version"]]
                seen[number][answer["version"]] += 1

    with ThreadPoolExecutor(clients) as pool, httpx2.Client() as http:
        asking = [pool.submit(keep_asking, number) for number in range(clients)]
        try:
            for round_ in range(rounds):
                before, after = (1, OTHER) if round_ % 2 == 0 else (OTHER, 1)
                ops.roll_out(NAME, "stable", {before: 90, after: 10}, shadow=SAME)
                enough = sum(map(Counter.total, seen)) + 4 * clients
                wait_for(lambda n=enough: sum(map(Counter.total, seen)) >= n)  # type: ignore[misc]
                assert ops.promote(NAME, "stable", after)["version"] == after
                versions = {ask(http, url, session=f"x{i}")["version"] for i in range(5)}
                assert versions == {after}
        finally:
            stop.set()
        for one in asking:
            one.result(60)
    return sum(seen, Counter())


def test_promotion_under_load(url: str, ops: Client) -> None:
    assert set(check_promotion(url, ops, clients=2, rounds=2)) == {1, OTHER}


@pytest.mark.slow
def test_a_canary_of_ten_percent(
    url: str, ops: Client, report: Callable[[str], None], scale: float
) -> None:
    n = round(5000 * scale)
    versions = Counter(check_shares(url, ops, n).values())
    report(f"{n} sessions by version: {dict(versions)}; every fifth asked again, none changed")
    found = check_promotion(url, ops, clients=16, rounds=40)
    report(f"40 promotions under load of 16 clients: {dict(found)} answers by version, none wrong")
