"""Trust files: which public keys may sign which adapters.

```yaml
release:
  key: ed25519:MCowBQYDK2VwAyEA...
  adapters: ["acme/*"]
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

from ..backbone.regular_file import check_regular_file
from ..errors import AdapterError, AdapterkitError
from ..names import VERSION
from ..schema import build
from ..yaml12 import read_yaml
from .checksums import SIGNATURE, SUMS
from .signature import Signature
from .signing_key import read_public_text

LARGEST_FILE = 2**20
"""The largest trust file, in bytes."""


@dataclass(frozen=True)
class TrustedKey:
    """A key in a trust file.

    Attributes:
        key: The public key (`adapterkit signing-key` prints it).
        adapters: Patterns of the names that it may sign (`acme/*`).
    """

    key: str
    adapters: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            read_public_text(self.key)
        except ValueError as error:
            raise ValueError(f"key: {error}") from None
        if not self.adapters:
            raise ValueError("adapters: expected patterns of names, such as acme/*, got none")

    def may_sign(self, key: str, name: str) -> bool:
        """Whether this is a key, and may sign a name."""
        return key == self.key and any(fnmatchcase(name, one) for one in self.adapters)


@dataclass(frozen=True)
class Trust:
    """The keys of a trust file.

    Attributes:
        source: The file, for messages.
        keys: The keys by their ids.
    """

    source: str
    keys: Mapping[str, TrustedKey]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a trust file.

        Raises:
            AdapterkitError: It cannot be read, or is not valid; or the library for signatures is
                not installed.
        """
        path = Path(path)
        try:
            check_regular_file(path, LARGEST_FILE, AdapterkitError)
            content = read_yaml(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping) or not content:
                raise ValueError("expected keys, such as release: {key: ed25519:..., adapters: []}")
            keys = {str(name): build(TrustedKey, one, str(name)) for name, one in content.items()}
        except OSError as error:
            raise AdapterkitError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise AdapterkitError(f"{path}: {' '.join(str(error).split())}") from None
        return cls(str(path), keys)

    def check(self, folder: Path, name: str, version: int, sums: bytes) -> None:
        """Refuses an adapter folder that no trusted key signed for its name and version.

        Args:
            folder: The folder.
            name: Name under which it is used.
            version: Version under which it is used.
            sums: The content of its `SHA256SUMS`; its files must be compared with the same.

        Raises:
            AdapterError: It is not signed, or not by a key that may sign this name.
        """
        reason = self._fault(Signature.read(folder), name, version, sums)
        if reason is not None:
            raise AdapterError(f"'{name}@{version}' {reason}")

    def _fault(
        self, signature: Signature | None, name: str, version: int, sums: bytes
    ) -> str | None:
        """What is wrong with a signature; None if it is that of a trusted key."""
        if signature is None or not sums:
            return f"is not signed ({SIGNATURE} or {SUMS} is missing); see `adapterkit sign --help`"
        if (signature.name, signature.version) != (name, version):
            return f"has a signature for '{signature.name}@{signature.version}'"
        if not any(one.may_sign(signature.key, name) for one in self.keys.values()):
            return f"is signed by {signature.key}, which {self.source} does not trust for this name"
        if not signature.is_valid(sums):
            return f"has a wrong signature: {SIGNATURE} was not made for this {SUMS}"
        return None


def check_version(trust: Trust, root: Path, folder: Path, sums: bytes) -> None:
    """Refuses a folder that is not a version of a store, signed by a trusted key.

    A link in the store counts under its own name, not under that of the folder it points to.

    Args:
        trust: The trusted keys.
        root: The folder of the store.
        folder: The adapter folder.
        sums: The content of its `SHA256SUMS`.

    Raises:
        AdapterError: It is not.
    """
    for path, above in ((folder, root), (folder.resolve(), root.resolve())):
        if path.is_relative_to(above):
            name, _, number = path.relative_to(above).as_posix().rpartition("/")
            if VERSION.fullmatch(number):
                trust.check(folder, name, int(number), sums)
                return
    raise AdapterError(
        f"{folder}: not a version in {root}; with a trust file, nothing else is loaded"
    )
