"""Which replica gets a request: one that probably has the adapters of its tenant in memory.

Rendezvous hashing (Thaler and Ravishankar 1998, Using name-based mappings to increase hit rates)
gives each tenant an order of all replicas. When a replica comes or goes, only the tenants for which
it is the first one move. Bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018, Consistent hashing
with bounded loads) pass over a replica that has too much, so a tenant with many requests uses
several replicas.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from hashlib import blake2b

BOUND = 1.25
"""How many times the mean load a replica may have before it is passed over."""

FEW = 8
"""Requests under way with which it is not passed over, whatever the mean: short rows of so many
requests are one batch, so another replica would not answer sooner."""

MAX_TENANTS = 10_000
"""Most tenants whose orders are stored. A header of a request can name any tenant."""


class TenantRouter:
    """Orders the replicas for each request.

    Args:
        rng: Draws replicas for requests whose tenant is not known.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._replicas: frozenset[str] = frozenset()
        self._orders: dict[str, list[str]] = {}

    def rank(self, tenant: str | None, loads: Mapping[str, int]) -> list[str]:
        """All replicas, the best first.

        Args:
            tenant: The tenant of the request. Without one, the less loaded of two random replicas
                comes first (Mitzenmacher 2001, The power of two choices).
            loads: Number of requests under way by replica, at least one replica.
        """
        if tenant is None:
            return self._less_loaded_of_two(loads)
        most = max(FEW, BOUND * sum(loads.values()) / len(loads) + 1)
        order = self.order(tenant, loads)
        free = [replica for replica in order if loads[replica] <= most]
        return free + [replica for replica in order if loads[replica] > most]

    def order(self, tenant: str, replicas: Iterable[str]) -> list[str]:
        """The replicas in an order that is always the same for a tenant."""
        current = frozenset(replicas)
        if current != self._replicas or len(self._orders) >= MAX_TENANTS:
            self._replicas = current
            self._orders = {}
        order = self._orders.get(tenant)
        if order is None:
            order = sorted(current, key=lambda replica: _weight(tenant, replica), reverse=True)
            self._orders[tenant] = order
        return order

    def _less_loaded_of_two(self, loads: Mapping[str, int]) -> list[str]:
        shuffled = self._rng.sample(list(loads), len(loads))
        return sorted(shuffled[:2], key=loads.__getitem__) + shuffled[2:]


def _weight(tenant: str, replica: str) -> bytes:
    return blake2b(f"{tenant}\0{replica}".encode(), digest_size=8).digest()
