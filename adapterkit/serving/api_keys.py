"""API keys: the adapters that each may use, and its quotas.

Only the sha256 of a key is stored. A key is long and random, so it cannot be found from its hash.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import AdapterkitError, OverloadedError
from ..names import BASE
from ..schema import build
from ..yaml12 import read_yaml

VARIABLE = "ADAPTERKIT_KEYS"
"""Environment variable with the content of a key file; used if no file is given."""

log = logging.getLogger("adapterkit")


class TokenBucket:
    """A token bucket, which holds the units of at most ten seconds.

    Args:
        rate: Units per second; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._capacity = 10.0 * rate if rate is not None else 0.0
        self._level = self._capacity
        self._updated = time.monotonic()

    def take(self, amount: float, what: str) -> None:
        """Takes units from the bucket.

        An amount above the capacity is taken if the bucket is not empty, and leaves a negative
        level.

        Args:
            amount: Number of units.
            what: Name of the unit in messages.

        Raises:
            OverloadedError: The bucket has too few units.
        """
        if self.rate is None:
            return
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._updated) * self.rate)
        self._updated = now
        if self._level <= 0.0 or (self._level < amount <= self._capacity):
            wait = (min(amount, self._capacity) - self._level) / self.rate
            raise OverloadedError(f"the quota of {self.rate:g} {what} per second is used up", wait)
        self._level -= amount

    def correct(self, difference: float) -> None:
        """Takes the difference between an amount and its estimate, which was taken before; a
        negative one is put back."""
        if self.rate is not None:
            self._level = min(self._capacity, self._level - difference)


@dataclass(frozen=True)
class Caller:
    """The owner of an API key.

    Attributes:
        key: sha256 of the API key, `sha256:...` (`adapterkit keys` makes one).
        adapters: Patterns of the adapters that it may use (`acme/*`).
        rows_per_second: Quota of rows; no limit if omitted.
        tokens_per_second: Quota of tokens; no limit if omitted.
        admin: Whether it may publish, alias, roll back, unload and delete, and see metrics.
        tenant: Name of the tenant.
    """

    key: str
    adapters: tuple[str, ...] = ()
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    admin: bool = False
    tenant: str = ""
    rows: TokenBucket = field(init=False, compare=False, repr=False)
    tokens: TokenBucket = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("rows_per_second", "tokens_per_second"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name}: expected more than 0, got {rate}")
        object.__setattr__(self, "rows", TokenBucket(self.rows_per_second))
        object.__setattr__(self, "tokens", TokenBucket(self.tokens_per_second))

    def may_use(self, name: str) -> bool:
        """Whether it may use an adapter; every caller may use the plain backbone."""
        return name == BASE or any(fnmatchcase(name, pattern) for pattern in self.adapters)


EVERYONE = Caller(key="", adapters=("*",), admin=True)
"""The caller of a server without keys, which accepts requests from this machine only."""


class Keys:
    """The callers that a server knows.

    Args:
        callers: Callers by the hash of their key.
        path: Their key file, which is read again when it changes; None if there is no file.
        clock: Returns the time in seconds. The file is checked at most once a second.
    """

    def __init__(
        self,
        callers: Mapping[str, Caller],
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._callers = dict(callers)
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._signature = _signature(path)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> Keys:
        """Reads a key file.

        Args:
            path: The file.
            clock: As for `Keys`.

        Raises:
            AdapterkitError: It is missing or not valid.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterkitError(f"{path}: cannot be read ({error})") from None
        return cls(parse_keys(text, str(path)), path, clock=clock)

    def find(self, key: str) -> Caller | None:
        """The owner of a key, or None. A key removed from the file is refused within a second."""
        now = self._clock()
        if self._path is not None and now - self._checked > 1.0:
            self._checked = now
            signature = _signature(self._path)
            if signature != self._signature:
                self._signature = signature
                self._reload(self._path)
        return self._callers.get(hash_key(key))

    def _reload(self, path: Path) -> None:
        try:
            new = Keys.load(path)._callers
        except AdapterkitError as error:  # the whole file is refused
            log.error(f"{error}; the keys have not changed")
            return
        # A caller that has not changed keeps the state of its quotas.
        old = self._callers
        self._callers = {
            key: old[key] if old.get(key) == caller else caller for key, caller in new.items()
        }


def new_key() -> str:
    """A new random API key."""
    return f"ak-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """The hash of a key, as in the key file."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def parse_keys(text: str, source: str) -> dict[str, Caller]:
    """The callers in the content of a key file, by the hash of their key.

    Args:
        text: YAML or JSON: by tenant, `key`, `adapters`, quotas and `admin`.
        source: Name of the file in messages.

    Raises:
        AdapterkitError: It is not valid.
    """
    try:
        content = read_yaml(text)
        if not isinstance(content, Mapping) or not content:
            raise ValueError("expected tenants with their keys, such as acme: {key: sha256:...}")
        callers: dict[str, Caller] = {}
        for tenant, section in content.items():
            if not isinstance(section, Mapping) or "tenant" in section:
                raise ValueError(f"{tenant}: expected key, adapters, quotas or admin")
            caller = build(Caller, {**section, "tenant": str(tenant)}, str(tenant))
            if not caller.key.startswith("sha256:") or len(caller.key) != 71:
                raise ValueError(f"{tenant}.key: expected sha256: and 64 digits (adapterkit keys)")
            if caller.key in callers:
                raise ValueError(f"{tenant}.key: another tenant has the same key")
            callers[caller.key] = caller
    except (ValueError, AdapterkitError) as error:
        raise AdapterkitError(f"{source}: {' '.join(str(error).split())}") from None
    return callers


def _signature(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
