"""What a server under load is asked, and when: seeded, so that everyone asks it the same."""

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

BLOCK = 1024
"""Adapters drawn at once, which is cheaper."""


class Draw(NamedTuple):
    """One request: whose it is, and its texts."""

    adapter: str
    texts: list[Text]


@dataclass(frozen=True)
class Traffic:
    """Requests without end, each of one tenant.

    Attributes:
        adapters: Who may be asked; the first is asked most.
        texts: What they may be asked.
        rows: Rows of a request.
        skew: Exponent s of Zipf's law: the adapter of rank k has a share of 1 / k^s; 0 is alike.
        seed: Of the draws.
    """

    adapters: Sequence[str]
    texts: Sequence[Text]
    rows: int = 1
    skew: float = 1.0
    seed: int = 0

    def __iter__(self) -> Iterator[Draw]:
        rng = random.Random(self.seed)
        weights = list(accumulate((rank + 1) ** -self.skew for rank in range(len(self.adapters))))
        while True:
            for adapter in rng.choices(self.adapters, cum_weights=weights, k=BLOCK):
                yield Draw(adapter, rng.choices(self.texts, k=self.rows))

    def bodies(self) -> Iterator[bytes]:
        """The bodies of the same requests."""
        for adapter, texts in self:
            content = {"adapter_id": adapter, "inputs": [_row(text) for text in texts]}
            yield json.dumps(content, ensure_ascii=False).encode()


def _row(text: Text) -> Text:
    """A text as a batch holds it: a list of one, or with its pair; values by role as they are."""
    return [text] if isinstance(text, str) else text


@dataclass
class AtOnce:
    """Closed loop: a client's next request is due as soon as it has its answer.

    Attributes:
        end: Until when, on the clock of `time.perf_counter`.
        unsent: Requests that were due and not sent: none.
    """

    end: float
    unsent: int = 0

    def __iter__(self) -> Iterator[float]:
        while (now := time.perf_counter()) < self.end:
            yield now


@dataclass
class Arrivals:
    """Open loop: requests are due at random (Poisson) whether or not others were answered.

    A request that is sent late, because nothing is free to send it, is still due when it was due:
    times from then on show what a caller would have waited (no coordinated omission).

    Attributes:
        rate: Requests a second.
        seed: Of the times.
        began: The first second begins, on the clock of `time.perf_counter`.
        end: Until when.
        unsent: Requests that were due before the end, but could not be sent until then.
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
