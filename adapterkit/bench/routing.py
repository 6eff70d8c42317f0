"""Routing, by simulation: which of many servers gets a request, and how often it has the adapter.

Each server keeps the least recently used adapters in memory. The popularity of adapters follows
Zipf's law, as that of pages in the web (Breslau et al. 1999). Bounded loads: Mirrokni, Thorup and
Zadimoghaddam (2018), Consistent hashing with bounded loads. Two choices: Mitzenmacher (2001).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AdapterkitError
from .machine import machine


@dataclass(frozen=True)
class RoutingBench:
    """A simulation of requests to many servers.

    Attributes:
        adapters: Number of adapters.
        tenants: Number of tenants, among which the adapters are divided at random.
        replicas: Number of servers.
        resident: Most adapters in the memory of each.
        requests: Number of requests that count, after half as many that fill the memories.
        exponent: Of Zipf's law: the adapter of rank r is asked for in proportion to
            `r ** -exponent`.
        bound: With bounded loads, how many times its share of the recent requests a server takes.
        seed: Of all draws.

    Raises:
        AdapterkitError: A number is too small.
    """

    adapters: int = 1_000_000
    tenants: int = 10_000
    replicas: int = 16
    resident: int = 200
    requests: int = 400_000
    exponent: float = 1.0
    bound: float = 1.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("adapters", "tenants", "replicas", "resident", "requests"):
            if getattr(self, name) < 1:
                raise AdapterkitError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.bound <= 1:
            raise AdapterkitError(f"bound must be more than 1, got {self.bound}")

    def run(self) -> dict[str, Any]:
        """Simulates each rule on the same requests.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each rule `hit_rate`, the share of
            requests whose server had the adapter in memory, and `busiest`, the requests of the
            busiest server over the mean.
        """
        rng = np.random.default_rng(self.seed)
        asked = self._asked(rng)
        tenant_of = rng.integers(self.tenants, size=self.adapters)
        rules: dict[str, Callable[[], Router]] = {
            "random": lambda: Router(self, rng),
            "least loaded of two": lambda: TwoChoices(self, rng),
            "hash of the tenant": lambda: Hashed(self, rng, tenant_of, float("inf")),
            "hash of the tenant, bounded load": lambda: Hashed(self, rng, tenant_of, self.bound),
            "hash of the adapter": lambda: Hashed(self, rng, None, float("inf")),
            "hash of the adapter, bounded load": lambda: Hashed(self, rng, None, self.bound),
        }
        rows = [{"rule": name, **self._simulate(rule(), asked)} for name, rule in rules.items()]
        return {
            "bench": "routing",
            "settings": asdict(self),
            "machine": machine(),
            "rows": [*rows, {"rule": "one server with all memory", **self._together(asked)}],
        }

    def _asked(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """The adapter of each request, with those that fill the memories."""
        weights = np.arange(1, self.adapters + 1, dtype=np.float64) ** -self.exponent
        cumulated = np.cumsum(weights)
        draws = rng.random(self.requests + self.requests // 2) * cumulated[-1]
        asked: NDArray[np.intp] = np.searchsorted(cumulated, draws)
        return asked

    def _simulate(self, router: Router, asked: NDArray[np.intp]) -> dict[str, float]:
        memories = [Memory(self.resident) for _ in range(self.replicas)]
        counts, hits, first = [0] * self.replicas, 0, self.requests // 2
        for number, adapter in enumerate(asked.tolist()):
            server = router.choose(adapter)
            hit = memories[server].use(adapter)
            if number >= first:
                hits += hit
                counts[server] += 1
        n = sum(counts)
        return {"hit_rate": hits / n, "busiest": max(counts) * self.replicas / n}

    def _together(self, asked: NDArray[np.intp]) -> dict[str, float]:
        """What no rule can surpass by much: a single memory of the size of all."""
        alone = RoutingBench(
            **{**asdict(self), "replicas": 1, "resident": self.resident * self.replicas}
        )
        return alone._simulate(Router(alone, np.random.default_rng(self.seed)), asked)


class Memory:
    """The adapters in the memory of a server: the least recently used one leaves.

    Args:
        size: Most adapters.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._adapters: OrderedDict[int, None] = OrderedDict()

    def use(self, adapter: int) -> bool:
        """Whether an adapter is there; afterwards it is."""
        if adapter in self._adapters:
            self._adapters.move_to_end(adapter)
            return True
        self._adapters[adapter] = None
        if len(self._adapters) > self._size:
            self._adapters.popitem(last=False)
        return False


RECENT = 50
"""Requests of each server that its load is measured by."""


class Router:
    """Chooses a server at random. Other rules extend it.

    Args:
        bench: The simulation.
        rng: Draws.
    """

    def __init__(self, bench: RoutingBench, rng: np.random.Generator) -> None:
        self.n = bench.replicas
        drawn = rng.integers(self.n, size=4 * (bench.requests + 1))
        self.draws: Iterator[int] = iter(drawn.tolist())
        self.load = [0] * self.n
        self._recent: deque[int] = deque(maxlen=RECENT * self.n)

    def choose(self, adapter: int) -> int:
        """The server of the next request."""
        server = self.server_of(adapter)
        if len(self._recent) == self._recent.maxlen:
            self.load[self._recent[0]] -= 1
        self._recent.append(server)
        self.load[server] += 1
        return server

    def server_of(self, adapter: int) -> int:
        """The server that the rule names."""
        return next(self.draws)

    @property
    def n_recent(self) -> int:
        """Number of recent requests of all servers."""
        return len(self._recent)


class TwoChoices(Router):
    """Of two random servers the one with the smaller load."""

    def server_of(self, adapter: int) -> int:
        """The server that the rule names."""
        one, other = next(self.draws), next(self.draws)
        return one if self.load[one] <= self.load[other] else other


class Hashed(Router):
    """The first server in an order that a hash gives, or the next one while it has too much.

    Args:
        bench: The simulation.
        rng: Draws.
        tenant_of: Tenant of each adapter, whose hash counts, `[n_adapters]`; that of the adapter
            itself if None.
        bound: How many times its share of the recent requests a server takes.
    """

    def __init__(
        self,
        bench: RoutingBench,
        rng: np.random.Generator,
        tenant_of: NDArray[np.int64] | None,
        bound: float,
    ) -> None:
        super().__init__(bench, rng)
        self._tenant_of = tenant_of
        self._bound = bound
        self._seed = bench.seed
        self._orders: dict[int, list[int]] = {}

    def server_of(self, adapter: int) -> int:
        """The server that the rule names."""
        most = self._bound * (self.n_recent + 1) / self.n
        order = self._order(adapter if self._tenant_of is None else int(self._tenant_of[adapter]))
        return next(server for server in order if self.load[server] < most)

    def _order(self, key: int) -> list[int]:
        """A random order of the servers that is always the same for a key."""
        if key not in self._orders:
            self._orders[key] = (
                np.random.default_rng((self._seed, key)).permutation(self.n).tolist()
            )
        return self._orders[key]
