"""The recipes and scripts of recipes/monitor: a surge raises an alert, a week of noise does not."""

from __future__ import annotations

import io
import json
import math
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.training.recipe import Recipe
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.paths import ROOT
from helpers.server import Canned, stub

FOLDER = ROOT / "recipes" / "monitor"
RECIPES = [FOLDER / "topic.yaml", FOLDER / "sentiment.yaml"]
HOUR = timedelta(hours=1)


class Output(NamedTuple):
    """What a script has printed."""

    out: str
    err: str

    @property
    def windows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """Status and topic of each alert."""
        payloads = [payload for window in self.windows for payload in window["alerts"]]
        return [(one["status"], one["commonLabels"]["topic"]) for one in payloads]


Script = Callable[..., Output]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs a script in this process, with a text or bytes as its standard input."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *arguments: str | Path, stdin: str | bytes = "") -> Output:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return Output(*capsys.readouterr())

    return run


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SimpleNamespace]:
    """Reads the names of a script without running it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: SimpleNamespace(**runpy.run_path(str(FOLDER / name)))


def alerts_of_moods(names: Callable[[str], SimpleNamespace], days: int, surge: str | None) -> Any:
    """Status, topic and hour of the alerts of a stream whose moods are known."""
    monitor = names("monitor.py").Monitor(HOUR)
    records: list[dict[str, Any]] = []
    for time, topic, mood, _ in names("sample_stream.py").stream(days, surge, seed=0):
        records += monitor.add(time, topic, mood)
    records.append(monitor.close())
    assert len(records) == 24 * days
    return [
        (payload["status"], payload["commonLabels"]["topic"], record["time"])
        for record in records
        for payload in record["alerts"]
    ]


def test_rows_are_balanced_and_occur_once_and_in_no_stream(
    names: Callable[[str], SimpleNamespace],
) -> None:
    streamed = {text for texts in names("sample_stream.py").TEXTS.values() for text in texts}
    for file in RECIPES:
        recipe = Recipe.load(file)
        splits = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)
        rows = [row for part in splits.values() for row in part]
        texts = {str(row.fields["text"]) for row in rows}
        assert len(texts) == len(rows) == 120
        assert len(set(Counter(str(row.fields["label"]) for row in rows).values())) == 1
        assert not texts & streamed


def test_a_surge_raises_an_alert_that_ends_and_a_week_of_noise_none(
    names: Callable[[str], SimpleNamespace],
) -> None:
    assert alerts_of_moods(names, 7, None) == []
    found = alerts_of_moods(names, 3, "delivery")
    assert found[0] == ("firing", "delivery", "2025-03-05T10:00:00+00:00")
    assert {topic for _, topic, _ in found} == {"delivery"}
    assert found[-1][0] == "resolved"


def test_the_tail_of_a_history_is_the_sum_of_beta_binomial_probabilities(
    names: Callable[[str], SimpleNamespace],
) -> None:
    history = names("share_history.py").ShareHistory(half_life=2.0, strength=1e9)
    history.learn(3, 10)
    history.learn(4, 12, windows=2)
    a, b = 0.5 * (0.5 * 0.5**0.5 + 3) + 4, 0.5 * (0.5 * 0.5**0.5 + 7) + 8
    assert history.share == pytest.approx(a / (a + b), rel=0.02)
    a, b = history.hits, history.others

    def beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    total = sum(
        math.comb(9, k) * math.exp(beta(k + a, 9 - k + b) - beta(a, b)) for k in range(6, 10)
    )
    assert history.tail(6, 9) == pytest.approx(total)
    assert history.tail(0, 9) == pytest.approx(1.0)
    narrow = names("share_history.py").ShareHistory(hits=4000.0, others=12_000.0)
    assert narrow.tail(40, 80) > 2 * narrow.__class__(
        hits=4000.0, others=12_000.0, strength=1e9
    ).tail(40, 80)


def test_an_alert_ends_also_if_its_topic_has_no_more_messages(
    names: Callable[[str], SimpleNamespace],
) -> None:
    monitor, begin = names("monitor.py").Monitor(HOUR), datetime(2025, 3, 3, tzinfo=UTC)
    moods = [*[("app", "neutral")] * 60, *[("app", "negative")] * 60, ("billing", "neutral")]
    records: list[dict[str, Any]] = []
    for hour, (topic, mood) in zip((*[0] * 60, *[1] * 60, 2), moods, strict=True):
        records += monitor.add(begin + hour * HOUR, topic, mood)
    records.append(monitor.close())
    found = [[payload["status"] for payload in record["alerts"]] for record in records]
    assert found == [[], ["firing"], ["resolved"]]


@pytest.fixture
def shelf(tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path) -> Store:
    """Adapters with the names and labels of the recipes, and random weights."""
    store = Store(tmp_path / "shelf")
    for name, labels in (
        ("monitor/topic", ("app", "billing")),
        ("monitor/sentiment", ("negative", "neutral")),
    ):
        store.publish(make_adapter(tiny, "lora", name=name, labels=labels), tiny.geometry)
    return store


def test_the_script_counts_answers_and_sends_alerts(shelf: Store, script: Script) -> None:
    words = ("rain", "sun", "card", "account", "my", "the")
    texts = [f"{one} {two}" for one in words for two in words]
    lines = "".join(
        json.dumps({"text": text, "time": f"2025-03-03T{hour:02}:30:00"}) + "\n"
        for hour in (1, 2, 2, 4)
        for text in texts
    )
    lines += '{"text": "late", "time": "2025-03-03T01:00:00"}\n'
    ahead = (datetime.now(UTC) + HOUR).isoformat()
    no_messages = [
        b"no json",
        b'{"text": " "}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        json.dumps({"text": "sun", "time": ahead}).encode(),
        json.dumps({"text": "sun", "time": "9999-12-31T23:59:59-14:00"}).encode(),
    ]
    stdin = b"\n".join([*no_messages, lines.encode()])
    with stub(lambda n: Canned(200 if n > 1 else 500, b"")) as receiver:
        options = ("--store", shelf.root, "--limit", 2.0, "--webhook", receiver.url)
        found = script("monitor.py", *map(str, options), stdin=stdin)
    hours = [datetime.fromisoformat(window["time"]).hour for window in found.windows]
    assert hours == [1, 2, 4]
    sizes = [sum(sum(moods.values()) for moods in one["counts"].values()) for one in found.windows]
    assert sizes == [36, 72, 36]
    assert found.windows[-1]["late"] == 1
    assert len(receiver.seen) == len(found.alerts) == len(found.windows[0]["counts"])
    assert {status for status, _ in found.alerts} == {"firing"}
    assert found.err.count("skipped:") == len(no_messages)
    assert found.err.count("alert not sent:") == 1
    payload = found.windows[0]["alerts"][0]
    assert (payload["version"], payload["alerts"][0]["endsAt"]) == ("4", "0001-01-01T00:00:00Z")


def test_kafka_is_read_if_its_client_is_installed(
    names: Callable[[str], SimpleNamespace], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(SystemExit, match="Kafka's client: pip install"):
        script("monitor.py", "--kafka", "host:9092/messages", "--url", "http://127.0.0.1:9")

    class Consumer:
        """Has one record, and then an error."""

        def __init__(self, settings: dict[str, str]) -> None:
            assert settings["bootstrap.servers"] == "host:9092"
            self.records = iter(((b'{"text": "hello"}', None), (b"", "broker is gone")))

        def subscribe(self, topics: list[str]) -> None:
            assert topics == ["messages"]

        def consume(self, _: int, timeout: float) -> list[Any]:
            value, error = next(self.records)
            return [SimpleNamespace(value=lambda: value, error=lambda: error)]

        def close(self) -> None:
            """Ends nothing."""

    monkeypatch.setitem(sys.modules, "confluent_kafka", SimpleNamespace(Consumer=Consumer))
    batches: Iterator[list[Any]] = names("monitor.py").read_kafka("host:9092/messages")
    (message,) = next(batches)
    assert message.text == "hello"
    assert abs(message.time - datetime.now(UTC)) < HOUR
    with pytest.raises(Exception, match="broker is gone"):
        next(batches)


@pytest.mark.slow
def test_trained_adapters_hear_the_surge_and_not_the_noise(script: Script) -> None:
    assert run_command("train", *RECIPES, "--output", "shelf").code == 0
    for arguments, expected in (
        (("--days", "3", "--surge", "delivery"), "delivery"),
        (("--days", "7", "--seed", "1"), None),
    ):
        lines = script("sample_stream.py", *arguments).out
        found = script("monitor.py", "--store", "shelf", stdin=lines)
        assert {topic for _, topic in found.alerts} == ({expected} if expected else set())
