"""Checksums of an adapter folder, `SHA256SUMS`, in the form of `sha256sum -c`."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import AdapterError
from .stacking import WEIGHTS as WEIGHTS

SUMS = "SHA256SUMS"


def with_checksums(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files with their checksums, in the form of `sha256sum -c`.

    Raises:
        AdapterError: They carry checksums already, and a file is not what these say.
    """
    own = {name: content for name, content in files.items() if name != SUMS}
    sums = {name: sha256(content).hexdigest() for name, content in sorted(own.items())}
    for name, told in _sums(files.get(SUMS, b"")).items():
        if sums.get(name) != told:
            raise AdapterError(f"{name}: missing, or not what {SUMS} says; send the folder again")
    return {**own, SUMS: "".join(f"{told}  {name}\n" for name, told in sums.items()).encode()}


def folder_digest(folder: Path) -> str:
    """sha256 over an adapter folder: equal content has equal digests, other content others."""
    if (folder / SUMS).is_file():
        return f"sha256:{sha256((folder / SUMS).read_bytes()).hexdigest()}"
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in inside}
    return f"sha256:{sha256(with_checksums(files)[SUMS]).hexdigest()}"


def checksum_errors(folder: Path) -> list[str]:
    """What differs between a folder's files and its checksums; nothing where all is well."""
    if not (folder / SUMS).is_file():
        return [f"{SUMS} is missing: the folder was saved without checksums"]
    faults = []
    for name, told in _sums((folder / SUMS).read_bytes()).items():
        try:
            found = sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            faults.append(f"{name} cannot be read ({error.strerror})")
            continue
        if found != told:
            faults.append(f"{name} was changed: sha256 {found[:12]}, published as {told[:12]}")
    return faults


def _sums(content: bytes) -> dict[str, str]:
    lines = content.decode(errors="replace").splitlines()
    pairs = [line.partition("  ") for line in lines if line]
    for _, _, name in pairs:
        if not name or name.startswith("/") or ".." in name:
            raise AdapterError(f"{SUMS}: {name!r:.80} is not a file of an adapter folder")
    return {name: told for told, _, name in pairs}
