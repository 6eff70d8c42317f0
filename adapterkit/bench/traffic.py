"""Requests to a server under load and when they are due; seeded, so that runs are equal."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..tasks.types import Text

DRAWS_AT_ONCE = 1024
"""Number of adapters drawn at once, which is faster."""


class LoadRequest(NamedTuple):
    """One request: the adapter that is asked, and its texts."""

    adapter: str
    texts: list[Text]


@dataclass(frozen=True)
class Traffic:
    """An endless sequence of requests, each to one adapter.

    Attributes:
        adapters: Names of the adapters; the first is asked most.
        texts: The texts that requests are drawn from.
        rows: Rows of a request.
        skew: Exponent s of Zipf's law: the adapter of rank k has a share of 1 / k^s; 0 is uniform.
        seed: Seed of the draws.
    """

    adapters: Sequence[str]
    texts: Sequence[Text]
    rows: int = 1
    skew: float = 1.0
    seed: int = 0

    def __iter__(self) -> Iterator[LoadRequest]:
        rng = random.Random(self.seed)
        weights = list(accumulate((rank + 1) ** -self.skew for rank in range(len(self.adapters))))
        while True:
            for adapter in rng.choices(self.adapters, cum_weights=weights, k=DRAWS_AT_ONCE):
                yield LoadRequest(adapter, rng.choices(self.texts, k=self.rows))

    def bodies(self) -> Iterator[bytes]:
        """The same requests as JSON bodies."""
        for adapter, texts in self:
            content = {"adapter_id": adapter, "inputs": [_row(text) for text in texts]}
            yield json.dumps(content, ensure_ascii=False).encode()


def _row(text: Text) -> Text:
    """A text in the form of a batch: a single text becomes a list of one."""
    return [text] if isinstance(text, str) else text


@dataclass
class ClosedLoop:
    """Closed loop: the next request of a client is due as soon as it has its reply.

    Attributes:
        end: No request is due after this, on the clock of `time.perf_counter`.
        unsent: Number of requests that were due and not sent, always 0.
    """

    end: float
    unsent: int = 0

    def __iter__(self) -> Iterator[float]:
        while (now := time.perf_counter()) < self.end:
            yield now


@dataclass
class PoissonArrivals:
    """Open loop: requests are due at random times (Poisson), whether or not others were answered.

    The time of a request that is sent late, because every connection is busy, still counts from
    when it was due: this is what a caller would have waited (no coordinated omission).

    Attributes:
        rate: Mean number of requests a second.
        seed: Seed of the times.
        began: Begin, on the clock of `time.perf_counter`.
        end: End, exclusive.
        unsent: Number of requests that were due before the end but could not be sent by then.
    """

    rate: float
    seed: int
    began: float
    end: float
    unsent: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[float]:
        rng, due = random.Random(self.seed), self.began
        while (due := due + rng.expovariate(self.rate)) < self.end:
            if time.perf_counter() < self.end:
                yield due
            else:
                self.unsent += 1
