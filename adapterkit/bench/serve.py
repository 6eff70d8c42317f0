"""A running server under load: throughput and response times, beside the engine's own rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..backbone.checkpoint import locate
from ..backbone.load_options import Quantization
from ..client.http import Client
from ..data.requests import read_requests
from ..errors import AdapterkitError, UnknownAdapterError
from ..names import BASE
from ..tasks.base import tasks
from ..tasks.columns import required_columns
from ..tasks.fields import FieldKind
from .connection import run_load
from .load import Tally, Target, drive
from .machine import machine
from .offline import load_engine, offline_rate
from .traffic import ClosedLoop, PoissonArrivals, Traffic
from .workload import Kind, texts_of

if TYPE_CHECKING:
    from ..tasks.types import Text

N_TEXTS = 2000
"""Number of different texts that are generated."""


@dataclass(frozen=True)
class ServeBench:
    """Loads on a running server, one after the other.

    Attributes:
        url: URL of the server.
        key: API key.
        clients: Closed loop: numbers of clients; each sends its next request after a reply.
        rates: Open loop: numbers of requests a second; closed loop if empty.
        connections: Open loop: largest number of requests under way at once.
        adapters: Pattern of the names of the adapters that are asked.
        skew: Exponent of Zipf's law over them, in the order of their names; 0 is uniform.
        rows: Rows of a request, all of one adapter.
        texts: A file of texts, as `predict --input` reads it; generated texts if None.
        column: Column of the texts in that file.
        lengths: Length of generated texts: short or long.
        duration: Seconds that count.
        warmup: Seconds before them.
        timeout: Seconds to wait for a reply.
        seed: Seed of all random draws.
        engine: The store that the server serves, to measure the engine's own rate too.
        quantization: The server's quantization, for the engine.

    Raises:
        AdapterkitError: A number is out of range.
    """

    url: str
    key: str | None = None
    clients: tuple[int, ...] = (8,)
    rates: tuple[int, ...] = ()
    connections: int = 256
    adapters: str = "*"
    skew: float = 1.0
    rows: int = 1
    texts: Path | None = None
    column: str = "text"
    lengths: Kind = "short"
    duration: float = 10.0
    warmup: float = 2.0
    timeout: float = 30.0
    seed: int = 0
    engine: str | None = None
    quantization: Quantization = "none"

    def __post_init__(self) -> None:
        least = min((*self.clients, *self.rates, self.connections, self.rows), default=0)
        if least < 1 or not (self.clients or self.rates):
            raise AdapterkitError(
                "clients, rate, connections and rows a request must be at least 1, "
                f"got {self.clients}, {self.rates}, {self.connections} and {self.rows}"
            )
        if not self.duration > 0 or self.warmup < 0 or not self.timeout > 0 or self.skew < 0:
            raise AdapterkitError(
                "duration and timeout must be above 0, warm-up and skew at least 0, "
                f"got {self.duration:g}, {self.timeout:g}, {self.warmup:g} and {self.skew:g}"
            )

    def run(self) -> dict[str, Any]:
        """Runs every load.

        Returns:
            `bench`, `settings` (without the key), `machine`, `server`, and `rows`: for each `load`
            the number of `requests` that ended in time, `requests_per_second` and
            `rows_per_second` that were answered, `p50`, `p95`, `p99` and `longest` of their
            milliseconds from when they were due, `overloaded` (429), other `errors`, `unsent`
            (due, but every connection was busy) and `over_engine`, its rows a second divided by
            the engine's; `faults`: the message of the first error of each status; `engine` with
            its `rows_per_second`, if it was measured.

        Raises:
            AdapterkitError: The server cannot be reached, or has no such adapters.
        """
        with Client(self.url, self.key, self.timeout) as client:
            info = client.info()
            found = list(client.models())
        texts = self._texts(info)
        traffic = Traffic(
            self._adapter_names(found), texts, rows=self.rows, skew=self.skew, seed=self.seed
        )
        lines, faults = [], []
        for clients, rate in self._loads():
            load = f"{rate} requests/s" if rate else f"{clients} clients"
            tally, unsent = run_load(self._load(traffic, clients, rate, load))
            lines.append({"load": load, **load_summary(tally, self.rows, unsent)})
            faults += [
                {"load": load, "status": status, "requests": n, "first": tally.first_errors[status]}
                for status, n in sorted(tally.statuses.items())
                if status != "200"
            ]
        source = None if self.texts is None else str(self.texts)
        key = None if self.key is None else "given"
        result: dict[str, Any] = {
            "bench": "serve",
            "settings": {**asdict(self), "key": key, "texts": source},
            "machine": machine(),
            "server": {**info, "adapters": len(traffic.adapters)},
            "rows": lines,
            "faults": faults,
        }
        if self.engine is None:
            return result
        predictor = load_engine(info, self.engine, traffic.adapters, self.quantization)
        return with_engine_rate(result, offline_rate(predictor, traffic, self.duration))

    def _loads(self) -> list[tuple[int, int]]:
        """Requests under way at most, and requests a second (0: closed loop)."""
        if self.rates:
            return [(self.connections, rate) for rate in self.rates]
        return [(clients, 0) for clients in self.clients]

    async def _load(
        self, traffic: Traffic, senders: int, rate: int, name: str
    ) -> tuple[Tally, int]:
        target = Target(self.url, "/predict", self.key, self.timeout)
        began = time.perf_counter()
        counted = began + self.warmup
        end = counted + self.duration
        schedule = PoissonArrivals(rate, self.seed, began, end) if rate else ClosedLoop(end)
        tally = Tally(counted, end)
        async with _progress_bar(name, end - began, tally):
            await drive(target, traffic.bodies(), schedule, senders, tally)
        return tally, schedule.unsent

    def _adapter_names(self, found: Sequence[Mapping[str, Any]]) -> list[str]:
        """Names of the adapters that are asked; generated texts suit tasks of one text only."""
        names = [
            model["id"]
            for model in found
            if fnmatchcase(model["id"], self.adapters)
            and (model["id"] != BASE or self.adapters == BASE)
            and (self.texts is not None or _takes_plain_text(model))
        ]
        if not names:
            raise UnknownAdapterError(
                f"{self.url} has no adapter called '{self.adapters}' that answers plain texts; "
                "adapterkit client models lists them"
            )
        return names

    def _texts(self, info: Mapping[str, Any]) -> Sequence[Text]:
        if self.rows > info["max_client_batch_size"]:
            most = info["max_client_batch_size"]
            raise AdapterkitError(f"{self.rows} rows a request: the server takes at most {most}")
        if self.texts is not None:
            rows = read_requests(self.texts, {"text": self.column}, "adapter")
            texts = [row.text for row in rows]
            if not texts:
                raise AdapterkitError(f"{self.texts}: there are no rows")
            return texts
        from transformers import AutoTokenizer

        return texts_of(AutoTokenizer.from_pretrained(locate("minilm")), self.lengths, N_TEXTS)


def load_summary(tally: Tally, rows: int, unsent: int) -> dict[str, Any]:
    """The figures of a load.

    Args:
        tally: Its replies.
        rows: Rows of a request.
        unsent: Number of requests that were due and not sent.
    """
    times = sorted(tally.seconds)
    rate = len(times) / (tally.ended - tally.began)
    overloaded = tally.statuses["429"]
    return {
        "requests": tally.statuses.total(),
        "requests_per_second": round(rate, 1),
        "rows_per_second": round(rate * rows, 1),
        **{f"p{share}": percentile(times, share) for share in (50, 95, 99)},
        "longest": percentile(times, 100),
        "overloaded": overloaded,
        "errors": tally.statuses.total() - len(times) - overloaded,
        "unsent": unsent,
    }


def percentile(seconds: Sequence[float], share: int) -> float | None:
    """Percentile of sorted times, in milliseconds (nearest rank); None if there are none."""
    if not seconds:
        return None
    return round(1000 * seconds[math.ceil(share / 100 * len(seconds)) - 1], 2)


def with_engine_rate(result: dict[str, Any], rate: float) -> dict[str, Any]:
    """Adds the engine's rate to a result, and every load's rate divided by it."""
    lines = [
        {**line, "over_engine": round(line["rows_per_second"] / rate, 3)} for line in result["rows"]
    ]
    return {**result, "rows": lines, "engine": [{"rows_per_second": round(rate, 1)}]}


def _takes_plain_text(model: Mapping[str, Any]) -> bool:
    kind = tasks().get(model.get("task", ""))
    if kind is None:
        return True
    return [column.kind for column in required_columns(kind.columns).values()] == [FieldKind.TEXT]


@asynccontextmanager
async def _progress_bar(name: str, seconds: float, tally: Tally) -> AsyncIterator[None]:
    """A progress bar of a load: its seconds, and the requests that count so far."""

    async def move() -> None:
        began = time.perf_counter()
        while True:
            await asyncio.sleep(0.5)
            bar.n = min(round(time.perf_counter() - began, 1), bar.total)
            bar.set_postfix(requests=tally.statuses.total())

    with tqdm(total=round(seconds, 1), desc=name, unit="s", disable=None) as bar:
        task = asyncio.create_task(move())
        try:
            yield
        finally:
            task.cancel()
