"""A running server under load: throughput and waiting times, beside the engine's own rate."""

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
from ..backbone.families import Quantization
from ..client.http import Client
from ..data.requests import read_asked
from ..errors import AdapterkitError, UnknownAdapterError
from ..names import BASE
from ..tasks.base import tasks
from .load import Tally, Target, drive
from .machine import machine
from .offline import engine_of, offline_rate
from .traffic import Arrivals, AtOnce, Traffic
from .wire import run
from .workload import Kind, texts_of

if TYPE_CHECKING:
    from ..tasks.types import Text

N_TEXTS = 2000
"""Different texts that are generated."""


@dataclass(frozen=True)
class ServeBench:
    """Loads on a running server, one after the other.

    Attributes:
        url: Where it listens.
        key: API key.
        clients: Closed loop: numbers of clients that each ask again once they have their answer.
        rates: Open loop: numbers of requests a second; closed where there are none.
        connections: Open loop: most requests under way at once.
        adapters: Pattern of the adapters that are asked.
        skew: Exponent of Zipf's law over them, in the order of their names; 0 asks all alike.
        rows: Rows of a request, all of one adapter.
        texts: Own texts, a file as `predict --input` reads; generated ones where None.
        column: Their column.
        lengths: Of generated texts: short or long.
        duration: Seconds that count.
        warmup: Seconds before.
        timeout: Seconds to wait for an answer.
        seed: Of all draws.
        engine: The store that the server serves, where the engine's own rate is measured too.
        quantization: As the server was started with, for the engine.

    Raises:
        AdapterkitError: A number cannot be.
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
        """Rates and times of every load.

        Returns:
            `bench`, `settings` (without the key), `machine`, `server`, and `rows`: for each `load`
            the number of `requests` that ended in time, `requests_per_second` and
            `rows_per_second` that were answered, `p50`, `p95`, `p99` and `longest` of their
            milliseconds from when they were due, `overloaded` (429), other `errors`, `unsent`
            (due, but nothing was free to send them) and `over_engine`, its rows a second over the
            engine's; `faults`: what the first error of each status said; `engine` with its
            `rows_per_second`, where it was measured.

        Raises:
            AdapterkitError: The server cannot be asked, or has no such adapters.
        """
        with Client(self.url, self.key, self.timeout) as client:
            info = client.info()
            found = list(client.models())
        asked = self._texts(info)
        traffic = Traffic(
            self._chosen(found), asked, rows=self.rows, skew=self.skew, seed=self.seed
        )
        lines, faults = [], []
        for clients, rate in self._loads():
            load = f"{rate} requests/s" if rate else f"{clients} clients"
            tally, unsent = run(self._load(traffic, clients, rate, load))
            lines.append({"load": load, **summary(tally, self.rows, unsent)})
            faults += [
                {"load": load, "status": status, "requests": n, "first": tally.said[status]}
                for status, n in sorted(tally.statuses.items())
                if status != "200"
            ]
        texts = None if self.texts is None else str(self.texts)
        key = None if self.key is None else "given"
        result: dict[str, Any] = {
            "bench": "serve",
            "settings": {**asdict(self), "key": key, "texts": texts},
            "machine": machine(),
            "server": {**info, "adapters": len(traffic.adapters)},
            "rows": lines,
            "faults": faults,
        }
        if self.engine is None:
            return result
        predictor = engine_of(info, self.engine, traffic.adapters, self.quantization)
        return beside(result, offline_rate(predictor, traffic, self.duration))

    def _loads(self) -> list[tuple[int, int]]:
        """Most requests under way, and requests a second (0: as many as come)."""
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
        schedule = Arrivals(rate, self.seed, began, end) if rate else AtOnce(end)
        tally = Tally(counted, end)
        async with _shown(name, end - began, tally):
            await drive(target, traffic.bodies(), schedule, senders, tally)
        return tally, schedule.unsent

    def _chosen(self, found: Sequence[Mapping[str, Any]]) -> list[str]:
        """The adapters that are asked; of those that read more than a text only with own rows."""
        names = [
            model["id"]
            for model in found
            if fnmatchcase(model["id"], self.adapters)
            and (model["id"] != BASE or self.adapters == BASE)
            and (self.texts is not None or _reads_a_text(model))
        ]
        if not names:
            raise UnknownAdapterError(
                f"{self.url} has no adapter called '{self.adapters}' that answers plain texts; "
                "adapterkit client models lists them"
            )
        return names

    def _texts(self, info: Mapping[str, Any]) -> Sequence[Text]:
        if self.rows > info["max_client_batch_size"]:
            raise AdapterkitError(
                f"{self.rows} rows a request: the server takes {info['max_client_batch_size']}"
            )
        if self.texts is not None:
            own = [one.text for one in read_asked(self.texts, self.column, None, "adapter")]
            if not own:
                raise AdapterkitError(f"{self.texts}: there are no rows")
            return own
        from transformers import AutoTokenizer

        return texts_of(AutoTokenizer.from_pretrained(locate("minilm")), self.lengths, N_TEXTS)


def summary(tally: Tally, rows: int, unsent: int) -> dict[str, Any]:
    """What is said of a load.

    Args:
        tally: What came of it.
        rows: Rows of a request.
        unsent: Requests that were due and not sent.
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
    """Milliseconds that so many percent of sorted times do not exceed (nearest rank)."""
    if not seconds:
        return None
    return round(1000 * seconds[math.ceil(share / 100 * len(seconds)) - 1], 2)


def beside(result: dict[str, Any], rate: float) -> dict[str, Any]:
    """A result with the engine's rate, and every load's over it."""
    lines = [
        {**line, "over_engine": round(line["rows_per_second"] / rate, 3)} for line in result["rows"]
    ]
    return {**result, "rows": lines, "engine": [{"rows_per_second": round(rate, 1)}]}


def _reads_a_text(model: Mapping[str, Any]) -> bool:
    kind = tasks().get(model.get("task", ""))
    return kind is None or set(kind.reads) == {"text"}


@asynccontextmanager
async def _shown(name: str, seconds: float, tally: Tally) -> AsyncIterator[None]:
    """A bar over the seconds of a load, with the requests that count so far."""

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
