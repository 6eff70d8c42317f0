"""API keys: their owners, and what each may do.

Only the sha256 of a key is stored. A key is long and random, so it cannot be found from its hash.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ...names import BASE
from .token_bucket import TokenBucket

Role = Literal["user", "publisher", "admin"]
"""What a key may do with the adapters of its tenant: ask them; also publish them and point aliases
at their versions; also delete and unload them and see metrics. Each role may do what those before
it may."""


Unit = Literal["rows", "tokens"]
"""What a quota counts."""


@dataclass(frozen=True)
class Tenant:
    """An owner of API keys.

    Attributes:
        name: Its name.
        adapters: Patterns of the adapters that its keys may use (`acme/*`).
        rows_per_second, tokens_per_second: Quotas of all its keys together; None for no limit.
    """

    name: str = ""
    adapters: tuple[str, ...] = ()
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    rows: TokenBucket = field(init=False, compare=False, repr=False)
    tokens: TokenBucket = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", TokenBucket(self.rows_per_second))
        object.__setattr__(self, "tokens", TokenBucket(self.tokens_per_second))

    def bucket(self, unit: Unit) -> TokenBucket:
        """The quota of a unit."""
        return self.rows if unit == "rows" else self.tokens


@dataclass(frozen=True)
class Caller:
    """The tenant that sent a request, and its API key.

    Attributes:
        tenant: The tenant.
        key_id: Name of the key in logs.
        role: What it may do with the adapters of the tenant.
        expires: Last day, in UTC, on which it is accepted; None for no end.
        session: Whom it sends the request for, if it says so, or a random text if it has no key.
            One version of a rollout answers all requests of a session.
    """

    tenant: Tenant
    key_id: str = ""
    role: Role = "user"
    expires: date | None = None
    session: str = ""

    def may_use(self, name: str) -> bool:
        """Whether it may use an adapter; every caller may use the plain backbone."""
        return name == BASE or any(fnmatchcase(name, one) for one in self.tenant.adapters)

    def has_role(self, role: Role) -> bool:
        """Whether it may do what a role may do."""
        roles = get_args(Role)
        return bool(roles.index(self.role) >= roles.index(role))

    @property
    def is_expired(self) -> bool:
        """Whether the last day of the key is over."""
        return self.expires is not None and self.expires < datetime.now(UTC).date()


EVERYONE = Caller(Tenant(adapters=("*",)), role="admin")
"""The caller of a server without keys, which accepts requests from this machine only."""


class Keys:
    """The callers that a server knows.

    Args:
        callers: Callers by the hash of their key.
    """

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = dict(callers)

    def find(self, key: str) -> Caller | None:
        """The caller with a key, whose last day may be over; None if the key is not known."""
        return self._callers.get(hash_key(key))

    def replace(self, callers: Mapping[str, Caller]) -> None:
        """Replaces all callers. A tenant whose quotas have not changed keeps their state."""
        tenants = {caller.tenant: caller.tenant for caller in self._callers.values()}
        self._callers = {
            key: replace(caller, tenant=tenants.get(caller.tenant, caller.tenant))
            for key, caller in callers.items()
        }


def new_key() -> str:
    """A new random API key."""
    return f"ak-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """The hash of a key, as in the key file."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
