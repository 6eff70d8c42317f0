"""Who may ask: API keys, the adapters each may use, and how much.

Keys are long random words, so a plain sha256 of one cannot be guessed back; only hashes are kept.
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
"""Environment variable with the text of a key file, where there is no file."""

log = logging.getLogger("adapterkit")


class TokenBucket:
    """A token bucket: so much a second, and as much at once as ten seconds give.

    Args:
        rate: Units a second; None is without bound.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._full = 10.0 * rate if rate is not None else 0.0
        self._level = self._full
        self._at = time.monotonic()

    def take(self, amount: float, what: str) -> None:
        """Takes an amount, which may leave a debt where the bucket was not empty.

        Raises:
            OverloadedError: The bucket is empty.
        """
        if self.rate is None:
            return
        now = time.monotonic()
        self._level = min(self._full, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level <= 0.0 or (self._level < amount <= self._full):
            wait = (min(amount, self._full) - self._level) / self.rate
            raise OverloadedError(f"the quota of {self.rate:g} {what} a second is used up", wait)
        self._level -= amount


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        key: sha256 of the API key, `sha256:...` (`adapterkit keys` makes one).
        adapters: Patterns of the adapters that may be asked (`acme/*`).
        rows_per_second: Quota of rows; without bound where left out.
        tokens_per_second: Quota of tokens; without bound where left out.
        admin: Whether it may publish, alias, roll back, unload and delete, and see metrics.
        tenant: Its name.
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
        """Whether an adapter is any of its business; the plain backbone is everybody's."""
        return name == BASE or any(fnmatchcase(name, pattern) for pattern in self.adapters)


EVERYONE = Caller(key="", adapters=("*",), admin=True)
"""The caller where no keys are set: only on loopback."""


class Keys:
    """The callers a server knows.

    Args:
        callers: By the hash of their key.
        path: The file they came from, looked at again when it changes; None for none.
        clock: Returns the time in seconds; the file is looked at once a second.
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
        self._looked = clock()
        self._signature = _signature(path)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> Keys:
        """Reads a key file.

        Args:
            path: The file.
            clock: As for `Keys`.

        Raises:
            AdapterkitError: It is missing or not sound.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterkitError(f"{path}: cannot be read ({error})") from None
        return cls(parse(text, str(path)), path, clock=clock)

    def find(self, key: str) -> Caller | None:
        """Who a key belongs to; a key taken out of the file is refused within a second."""
        now = self._clock()
        if self._path is not None and now - self._looked > 1.0:
            self._looked = now
            signature = _signature(self._path)
            if signature != self._signature:
                self._signature = signature
                self._read_again(self._path)
        return self._callers.get(hash_of(key))

    def _read_again(self, path: Path) -> None:
        try:
            new = Keys.load(path)._callers
        except AdapterkitError as error:  # refused as a whole: the callers stay as they were
            log.error(f"{error}; the keys stay as they were")
            return
        # What did not change keeps its quota as it stands.
        old = self._callers
        self._callers = {k: old[k] if old.get(k) == caller else caller for k, caller in new.items()}


def new_key() -> str:
    """A fresh API key."""
    return f"ak-{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What the key file holds of a key."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def parse(text: str, where: str) -> dict[str, Caller]:
    """The callers of a key file, by the hash of their key.

    Args:
        text: YAML (or JSON): tenant to `key`, `adapters`, quotas, `admin`.
        where: What messages call it.

    Raises:
        AdapterkitError: It is not sound.
    """
    try:
        content = read_yaml(text)
        if not isinstance(content, Mapping) or not content:
            raise ValueError("expected tenants with their keys, such as acme: {key: sha256:...}")
        callers: dict[str, Caller] = {}
        for tenant, plain in content.items():
            if not isinstance(plain, Mapping) or "tenant" in plain:
                raise ValueError(f"{tenant}: expected key, adapters, quotas or admin")
            caller = build(Caller, {**plain, "tenant": str(tenant)}, str(tenant))
            if not caller.key.startswith("sha256:") or len(caller.key) != 71:
                raise ValueError(f"{tenant}.key: expected sha256: and 64 digits (adapterkit keys)")
            if caller.key in callers:
                raise ValueError(f"{tenant}.key: another tenant has the same key")
            callers[caller.key] = caller
    except (ValueError, AdapterkitError) as error:
        raise AdapterkitError(f"{where}: {' '.join(str(error).split())}") from None
    return callers


def _signature(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
