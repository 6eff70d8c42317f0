"""The key file of a server: tenants with their API keys, and how a running server follows it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ...errors import AdapterkitError
from ...schema import build, is_text
from ...yaml12 import read_yaml
from ..json_logs import log
from .api_keys import Caller, Keys, Role, Tenant

VARIABLE = "ADAPTERKIT_KEYS"
"""Environment variable with the content of a key file; used if no file is given."""

CHECK_SECONDS = 0.5
"""Seconds after which a running server reads the file again."""

HASH = re.compile("sha256:[0-9a-fA-F]{64}")
KEY_ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class KeySection:
    """One API key in a key file.

    Attributes:
        key: sha256 of the key, `sha256:...` (`adapterkit keys` makes one).
        role: user, publisher or admin.
        expires: Last day, in UTC, on which it is accepted (`2027-01-31`).
    """

    key: str
    role: Role = "user"
    expires: str | None = None

    def __post_init__(self) -> None:
        if not HASH.fullmatch(self.key):
            raise ValueError(
                f"key: expected sha256: and 64 digits of 0-9 and a-f, as `adapterkit keys` prints, "
                f"got {self.key!r:.90}"
            )
        if self.expires is not None and not _is_date(self.expires):
            raise ValueError(
                f"expires: expected a day such as 2027-01-31, got {self.expires!r:.40}"
            )

    @property
    def default_id(self) -> str:
        """The id of a key that has none of its own: the first digits of its hash."""
        return self.key.removeprefix("sha256:")[:8].lower()

    def caller(self, tenant: Tenant, key_id: str) -> Caller:
        """The caller that has the key."""
        last_day = None if self.expires is None else date.fromisoformat(self.expires)
        return Caller(tenant, key_id, self.role, last_day)


@dataclass(frozen=True)
class TenantSection:
    """A tenant in a key file, with either one `key` or several `keys`.

    Attributes:
        adapters: Patterns of the adapters that its keys may use (`acme/*`).
        rows_per_second: Quota of rows of all its keys together; no limit if omitted.
        tokens_per_second: Quota of tokens; no limit if omitted.
        keys: A `KeySection` for each key id.
        key: The `key` of the only key.
        role: The `role` of the only key.
        expires: The `expires` of the only key.
        admin: If true, the same as `role: admin`.
    """

    adapters: tuple[str, ...] = ()
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    keys: Any = None
    key: str | None = None
    role: Role | None = None
    expires: str | None = None
    admin: bool = False

    def __post_init__(self) -> None:
        for name in ("rows_per_second", "tokens_per_second"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name}: expected more than 0, got {rate}")
        if not isinstance(self.keys, Mapping | None):
            raise ValueError(f"keys: expected an id for each key, got {self.keys!r:.90}")
        if (self.key is None) == (not self.keys):
            raise ValueError("key: expected either one key, or keys with an id for each of them")
        if self.keys is not None and (self.role or self.expires or self.admin):
            raise ValueError("keys: each key has its own role and expires; give them there")
        if self.admin and self.role not in (None, "admin"):
            raise ValueError(f"admin: means role admin, but role is {self.role}; give role alone")

    def key_sections(self, tenant: str) -> Iterator[tuple[str, KeySection]]:
        """Id and section of each key.

        Args:
            tenant: Name of the tenant, for messages.

        Raises:
            ValueError: A section or an id is not valid.
        """
        if self.keys is None:
            role = self.role or ("admin" if self.admin else "user")
            given = {"key": self.key, "role": role, "expires": self.expires}
            only: KeySection = build(KeySection, given, tenant)
            yield only.default_id, only
        for key_id, section in (self.keys or {}).items():
            place = f"{tenant}.keys.{key_id}"
            if not KEY_ID.fullmatch(str(key_id)):
                raise ValueError(
                    f"{place}: expected an id of at most 64 letters, digits, '.', '_' and '-'"
                )
            yield str(key_id), build(KeySection, section, place)


class KeyFile(Keys):
    """The callers of a key file, which is read again while the server runs.

    The content is compared, not the time of the last change, which copies and some file systems
    keep.

    Args:
        path: The file.
        clock: Returns the time in seconds.

    Raises:
        AdapterkitError: The file is missing or not valid.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._content: str | None = read_key_file(path)
        super().__init__(parse_keys(self._content, str(path)))

    def find(self, key: str) -> Caller | None:
        """As in `Keys`. A key that was removed from the file is refused within a second."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._follow()
        return super().find(key)

    def _follow(self) -> None:
        """Takes over a changed file. If it is not valid, the whole file is ignored until the next
        change."""
        before, self._content = self._content, None
        try:
            self._content = read_key_file(self._path)
            if self._content != before:
                self.replace(parse_keys(self._content, str(self._path)))
        except AdapterkitError as error:
            if self._content != before:
                log.error(f"{error}; the keys have not changed")


def read_key_file(path: Path) -> str:
    """The content of a key file.

    Raises:
        AdapterkitError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterkitError(f"{path}: cannot be read ({error})") from None


def parse_keys(text: str, source: str) -> dict[str, Caller]:
    """The callers in the content of a key file, by the hash of their key.

    Args:
        text: YAML or JSON: a `TenantSection` for each tenant.
        source: Name of the file in messages.

    Raises:
        AdapterkitError: It is not valid.
    """
    try:
        content = read_yaml(text)
        if not isinstance(content, Mapping) or not content:
            raise ValueError("expected tenants with their keys, such as acme: {key: sha256:...}")
        callers: dict[str, Caller] = {}
        for name, section in content.items():
            for key, caller in _callers(str(name), section):
                if key in callers:
                    other = callers[key]
                    raise ValueError(
                        f"{name}: key {caller.key_id} is the same key as {other.key_id} of "
                        f"{other.tenant.name}"
                    )
                callers[key] = caller
    except (ValueError, AdapterkitError) as error:
        raise AdapterkitError(f"{source}: {' '.join(str(error).split())}") from None
    return callers


def _callers(name: str, section: Any) -> Iterator[tuple[str, Caller]]:
    if not is_text(name):
        raise ValueError(f"{name!r}: the name of a tenant must be a valid text")
    if not isinstance(section, Mapping):
        raise ValueError(f"{name}: expected key, adapters, quotas or role")
    tenant_section: TenantSection = build(TenantSection, section, name)
    tenant = Tenant(
        name,
        tenant_section.adapters,
        tenant_section.rows_per_second,
        tenant_section.tokens_per_second,
    )
    for key_id, one in tenant_section.key_sections(name):
        yield one.key.lower(), one.caller(tenant, key_id)


def _is_date(text: str) -> bool:
    if not DATE.fullmatch(text):  # Python accepts more spellings
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
