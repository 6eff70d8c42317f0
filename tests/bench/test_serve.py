"""The load generator: its requests are seeded, its counts are right, and it hides no waiting."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.bench.connection import Connection, TimedReply
from adapterkit.bench.load import CONNECTION_FAILED, TIMED_OUT, Tally, Target, drive
from adapterkit.bench.offline import load_engine, offline_rate
from adapterkit.bench.serve import ServeBench, load_summary, percentile, with_engine_rate
from adapterkit.bench.table import result_text
from adapterkit.bench.traffic import ClosedLoop, PoissonArrivals, Traffic
from adapterkit.client.http import Client
from adapterkit.serving.keys.api_keys import hash_key, new_key
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_one_line, run_command
from helpers.server import Canned, serving, stub

NAMES = ("acme/intent", "globex/consulta", "initech")
OK = Canned(200, b"[]")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def store(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("loaded")
    for seed, name in enumerate(NAMES):
        Store(root).publish(make_adapter(tiny, name=name, seed=seed), tiny.geometry)
    return root


@pytest.fixture(scope="module")
def url(store: Path, tiny_folder: Path) -> Iterator[str]:
    with serving(store, tiny_folder) as where:
        yield where


def send_all(url: str, due: Sequence[float], senders: int = 4, timeout: float = 5.0) -> Tally:
    """Sends requests that are due in so many seconds and returns their counts."""
    tally = Tally(-math.inf, math.inf)
    now = time.perf_counter()
    target = Target(url, "/predict", None, timeout)
    asyncio.run(drive(target, repeat(b"{}"), [now + later for later in due], senders, tally))
    return tally


def test_requests_are_seeded() -> None:
    def first(**changes: Any) -> list[Any]:
        return list(islice(Traffic(NAMES, ["a", "b", "c"], rows=2, **changes), 500))

    assert first() == first()
    assert first(seed=1) != first()
    assert all(len(request.texts) == 2 for request in first())


@pytest.mark.parametrize("skew", [0.0, 1.0, 2.0])
def test_adapters_are_drawn_by_zipf_s_law(skew: float) -> None:
    n = 20_000
    counts = Counter(request.adapter for request in islice(Traffic("abcd", ["x"], skew=skew), n))
    weights = [rank**-skew for rank in range(1, 5)]
    for name, weight in zip("abcd", weights, strict=True):
        share = weight / sum(weights)
        # Five standard deviations of a binomial share.
        assert counts[name] / n == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))


def test_bodies_hold_the_requests_that_were_drawn() -> None:
    texts: list[Any] = ["我的卡", ("a", "b"), {"question": "q", "context": "c"}]
    traffic = Traffic(NAMES, texts, rows=3)
    inputs: dict[Any, list[str]] = {"我的卡": ["我的卡"], ("a", "b"): ["a", "b"]}
    for request, body in zip(islice(traffic, 50), traffic.bodies(), strict=False):
        rows = [text if isinstance(text, dict) else inputs[text] for text in request.texts]
        assert json.loads(body) == {"adapter_id": request.adapter, "inputs": rows}


def test_poisson_arrivals_are_seeded_and_all_counted() -> None:
    now = time.perf_counter()

    def due(seed: int) -> list[float]:
        return list(PoissonArrivals(200.0, seed, now, now + 50.0))

    assert due(0) == due(0) != due(1)
    gaps = [b - a for a, b in zip(due(0), due(0)[1:], strict=False)]
    assert len(gaps) == pytest.approx(10_000, rel=0.05)
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)  # as an exponential distribution has it
    late = PoissonArrivals(200.0, 0, now - 60.0, now - 10.0)
    assert list(late) == []
    assert late.unsent == len(due(0))


def test_in_a_closed_loop_a_request_is_always_due() -> None:
    end = time.perf_counter() + 0.05
    due = list(ClosedLoop(end))
    assert due == sorted(due)
    assert due[-1] < end <= time.perf_counter()


def test_percentiles_are_nearest_ranks() -> None:
    seconds = [n / 1000 for n in range(1, 201)]
    found = [percentile(seconds, share) for share in (50, 95, 99, 100)]
    assert found == [100.0, 190.0, 198.0, 200.0]
    assert percentile([0.007], 99) == 7.0
    assert percentile([], 50) is None


def test_every_request_is_sent_once_and_counted() -> None:
    replies = {0: OK, 1: Canned(429, b'{"error": "full"}', JSON), 2: Canned(500, b"broken")}
    with stub(lambda number: replies[number % 3]) as server:
        tally = send_all(server.url, [0.0] * 31)
    assert len(server.seen) == 31
    assert {path for path, _ in server.seen} == {"/predict"}
    assert tally.statuses == {"200": 10, "429": 11, "500": 10}
    assert tally.first_errors == {"429": "full", "500": "broken"}
    assert len(tally.seconds) == 10
    tally.began, tally.ended = 0.0, 5.0
    line = load_summary(tally, 8, 4)
    assert (line["requests"], line["overloaded"], line["errors"], line["unsent"]) == (31, 11, 10, 4)
    assert (line["requests_per_second"], line["rows_per_second"]) == (2.0, 16.0)


def test_only_requests_that_end_within_the_span_count() -> None:
    now = time.perf_counter()
    for span in ((now + 100, now + 200), (now - 200, now - 100)):
        tally = Tally(*span)
        tally.record(now - 150, "200", b"")
        assert not tally.statuses
        assert not tally.seconds


def test_waiting_for_a_stalled_server_is_counted() -> None:
    """While one request stalls for 0.4 s, those that were due meanwhile wait as well."""

    def answer(number: int) -> Canned:
        time.sleep(0.4 if number == 1 else 0.0)
        return OK

    with stub(answer) as server:
        tally = send_all(server.url, [0.0, 0.05, 0.1, 0.15], senders=1)
    assert tally.statuses == {"200": 4}
    for waited, least in zip(tally.seconds, (0.4, 0.35, 0.3, 0.25), strict=True):
        assert waited >= least


def test_connections_are_kept_and_opened_again() -> None:
    closing = Canned(200, b"[]", {"connection": "close"})
    with stub(lambda number: closing if number % 2 else OK) as server:
        assert send_all(server.url, [0.0] * 9, senders=2).statuses == {"200": 9}


def test_a_closed_connection_is_opened_again() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        header = b"content-length: 0" if head.startswith(b"GET /below/a ") else b"te: chunked"
        writer.write(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n")
        writer.close()  # without saying so, as servers do with idle connections

    async def work() -> list[TimedReply]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            connection = Connection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/below/")
            replies = []
            for path in ("/a", "/a", "/b"):
                replies.append(await connection.send("GET", path))
                await asyncio.sleep(0.05)
            connection.close()
        return replies

    first, second, third = asyncio.run(work())
    assert (first.status, second.status, third.status) == (200, 200, 0)
    assert "no content-length" in third.content


def test_timeouts_and_failed_connections_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:  # listens, and never answers
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        tally = send_all(url, [0.0] * 3, timeout=0.1)
        assert tally.statuses == {TIMED_OUT: 3}
        assert tally.first_errors[TIMED_OUT] == "no answer within 0.1 s"
    tally = send_all(url, [0.0] * 3)
    assert tally.statuses == {CONNECTION_FAILED: 3}
    assert tally.seconds == []


def test_a_closed_loop_on_a_running_server(url: str) -> None:
    bench = ServeBench(url, clients=(1, 3), rows=2, duration=0.5, warmup=0.1)
    result = bench.run()
    assert [line["load"] for line in result["rows"]] == ["1 clients", "3 clients"]
    for line in result["rows"]:
        assert line["requests"] > 0
        assert line["overloaded"] == line["errors"] == line["unsent"] == 0
        assert line["requests_per_second"] == pytest.approx(line["requests"] / 0.5, abs=0.06)
        assert line["rows_per_second"] == pytest.approx(2 * line["requests_per_second"], abs=0.2)
        assert 0 < line["p50"] <= line["p95"] <= line["p99"] <= line["longest"]
    assert result["server"]["adapters"] == 3
    assert result["faults"] == []
    assert "p99 ms" in result_text(result)
    json.dumps(result)


def test_the_server_counts_the_rows_that_were_sent(store: Path, tiny_folder: Path) -> None:
    with serving(store, tiny_folder) as url:
        ServeBench(url, adapters="*e*", rows=4, duration=0.3, warmup=0.0).run()
        text = httpx2.get(f"{url}/metrics").text
    rows = {
        line.split('"')[1]: float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("adapterkit_adapter_rows_total{")
    }
    assert set(rows) == set(NAMES)
    assert all(count % 4 == 0 for count in rows.values())


def test_the_open_loop_sends_at_its_rate(url: str) -> None:
    (line,) = ServeBench(url, rates=(40,), duration=1.0, warmup=0.0).run()["rows"]
    assert line["load"] == "40 requests/s"
    assert 0 < line["requests"] <= 80
    assert line["errors"] == 0


def test_own_texts_and_errors_are_counted(url: str, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "who?", "context": "me"}\n')
    bench = ServeBench(url, texts=tmp_path / "own.jsonl", duration=0.3, warmup=0.0)
    result = bench.run()
    (line,), (fault,) = result["rows"], result["faults"]
    assert line["errors"] == line["requests"] == fault["requests"] > 0
    assert (line["requests_per_second"], line["p50"]) == (0.0, None)
    assert (fault["status"], fault["first"]) == ("422", "text 1: there is no text")
    assert "422" in result_text(result)


def test_a_quota_is_counted_as_429(store: Path, tiny_folder: Path, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "keys.yaml").write_text(
        f"acme: {{key: '{hash_key(key)}', adapters: ['acme/*'], rows_per_second: 1}}\n"
    )
    with serving(store, tiny_folder, keys=tmp_path / "keys.yaml") as url:
        result = ServeBench(url, key, duration=0.5, warmup=0.0).run()
    (line,) = result["rows"]
    assert line["overloaded"] > 0
    assert line["requests"] - line["overloaded"] <= 11  # ten at once, and one of the half second
    assert result["server"]["adapters"] == 1
    assert key not in json.dumps(result)


def test_the_rate_of_the_engine_is_measured(url: str, store: Path) -> None:
    with Client(url) as client:
        info = client.info()
    predictor = load_engine(info, str(store), NAMES, "none")
    assert predictor.names == list(NAMES)
    assert offline_rate(predictor, Traffic(NAMES, ["my card", "tea"]), 0.1) > 0
    line = {"rows_per_second": 30.0}
    compared = with_engine_rate({"rows": [line], "bench": "serve"}, 40.0)
    assert compared["rows"] == [{**line, "over_engine": 0.75}]
    assert compared["engine"] == [{"rows_per_second": 40.0}]


def test_the_command_prints_a_table_or_one_document(url: str, store: Path) -> None:
    options = ("bench", "serve", "--url", url, "--duration", "0.3", "--warmup", "0")
    result = run_command(*options, "--skew", "0", "--engine", store, "--json").json
    assert result.keys() == {
        "bench", "settings", "machine", "server", "rows", "faults", "engine",
    }  # fmt: skip
    assert result["rows"][0]["over_engine"] > 0
    table = run_command(*options, "--rate", "20").out
    assert "20 requests/s" in table
    assert "p50 ms" in table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clients", "0"], "at least 1"),
        (["--clients", "many"], "expected whole numbers"),
        (["--rate", "0"], "at least 1"),
        (["--rows", "0"], "at least 1"),
        (["--rows", "1000"], "the server takes at most 256"),
        (["--duration", "0"], "must be above 0"),
        (["--skew", "-1"], "at least 0"),
        (["--adapters", "nobody/*"], "no adapter called 'nobody/*'"),
        (["--texts", "nowhere.csv"], "nowhere.csv"),
        (["--url", "http://127.0.0.1:1"], "no server can be reached"),
    ],
)
def test_a_wrong_option_is_one_line(url: str, options: list[str], words: str) -> None:
    result = run_command("bench", "serve", "--url", url, *options)
    # The server of this test is in this process, and its own lines go there as well.
    assert_one_line(result._replace(err=result.err.splitlines()[-1]), words)
