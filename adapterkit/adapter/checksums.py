"""Checksums of an adapter folder: `SHA256SUMS`, in the format of `sha256sum -c`."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import AdapterError

SUMS = "SHA256SUMS"


def with_checksums(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files and their `SHA256SUMS`.

    Args:
        files: Name in the folder to content.

    Raises:
        AdapterError: There are checksums already, and a file does not match them.
    """
    own = {name: content for name, content in files.items() if name != SUMS}
    sums = {name: sha256(content).hexdigest() for name, content in sorted(own.items())}
    for name, expected in _sums(files.get(SUMS, b"")).items():
        if sums.get(name) != expected:
            raise AdapterError(f"{name}: missing, or not what {SUMS} says; send the folder again")
    return {**own, SUMS: "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()}


def folder_digest(folder: Path) -> str:
    """sha256 over all files of an adapter folder."""
    if (folder / SUMS).is_file():
        return f"sha256:{sha256((folder / SUMS).read_bytes()).hexdigest()}"
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in inside}
    return f"sha256:{sha256(with_checksums(files)[SUMS]).hexdigest()}"


def checksum_errors(folder: Path) -> list[str]:
    """Differences between a folder's files and its checksums; empty if there are none."""
    if not (folder / SUMS).is_file():
        return [f"{SUMS} is missing: the folder was saved without checksums"]
    errors = []
    for name, expected in _sums((folder / SUMS).read_bytes()).items():
        try:
            actual = sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            errors.append(f"{name} cannot be read ({error.strerror})")
            continue
        if actual != expected:
            errors.append(f"{name} was changed: sha256 {actual[:12]}, published as {expected[:12]}")
    return errors


def _sums(content: bytes) -> dict[str, str]:
    """Name to digest in a `SHA256SUMS`."""
    lines = content.decode(errors="replace").splitlines()
    pairs = [line.partition("  ") for line in lines if line]
    for _, _, name in pairs:
        if not name or name.startswith("/") or ".." in name:
            raise AdapterError(f"{SUMS}: {name!r:.80} is not a file of an adapter folder")
    return {name: digest for digest, _, name in pairs}
