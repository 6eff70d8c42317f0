"""Checksums of an adapter folder: `SHA256SUMS`, in the format of `sha256sum -c`."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..atomic import content_digest, file_digest
from ..backbone.regular_file import check_regular_file
from ..errors import AdapterError

SUMS = "SHA256SUMS"

SIGNATURE = f"{SUMS}.sig"
"""The signature over the checksums, the only file that they do not cover (`signature.py`)."""

LARGEST_FILE = 4 * 2**30
"""The largest file of an adapter folder, in bytes."""

LARGEST_SUMS = 2**20
"""The largest `SHA256SUMS`, in bytes."""


def with_checksums(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files and their `SHA256SUMS`.

    Args:
        files: Name in the folder to content.

    Raises:
        AdapterError: There are checksums already, and a file does not match them.
    """
    own = {name: content for name, content in files.items() if name not in (SUMS, SIGNATURE)}
    sums = {name: sha256(content).hexdigest() for name, content in sorted(own.items())}
    for name, expected in _sums(files.get(SUMS, b"")).items():
        if sums.get(name) != expected:
            raise AdapterError(f"{name}: missing, or not what {SUMS} says; send the folder again")
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    return {**files, SUMS: lines.encode()}


def folder_digest(folder: Path) -> str:
    """sha256 over all files of an adapter folder.

    Raises:
        AdapterError: A file is not a regular one, or is too large.
    """
    if (folder / SUMS).exists():
        return content_digest(_read(folder / SUMS))
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in inside}
    return content_digest(with_checksums(files)[SUMS])


def checksum_errors(folder: Path) -> list[str]:
    """Differences between a folder's files and its checksums; empty if there are none."""
    if not (folder / SUMS).exists():
        return [f"{SUMS} is missing: the folder was saved without checksums"]
    try:
        sums = _sums(_read(folder / SUMS))
    except (AdapterError, OSError) as error:
        return [str(error)]
    faults = (_file_error(folder, name, expected, None) for name, expected in sums.items())
    return [fault for fault in faults if fault is not None]


def read_sums(folder: Path) -> bytes:
    """The content of a folder's checksums; empty if it has none, as folders of PEFT.

    Raises:
        AdapterError: They cannot be read.
    """
    return _read(folder / SUMS) if (folder / SUMS).exists() else b""


def changed_files(folder: Path, digests: Mapping[str, str | None], content: bytes) -> list[str]:
    """Differences between files that are loaded and the checksums of their folder.

    Args:
        folder: The adapter folder.
        digests: Name of a file to its digest (`file_digest`); None computes it. A file that neither
            the folder nor the checksums have is left out.
        content: The content of the checksums (`read_sums`); without any there are no differences.

    Raises:
        AdapterError: The checksums are garbled.
    """
    if not content:
        return []
    sums = _sums(content)
    errors = [
        f"{name} is not in {SUMS}"
        for name in digests
        if name not in sums and (folder / name).exists()
    ]
    for name in digests.keys() & sums.keys():
        fault = _file_error(folder, name, sums[name], digests[name])
        errors += [] if fault is None else [fault]
    hint = f"; publish it again, or remove {SUMS} to accept it"
    return [error + hint for error in errors]


def _file_error(folder: Path, name: str, expected: str, digest: str | None) -> str | None:
    """What is wrong with a file; None if it is as the checksums say."""
    try:
        if digest is None:
            check_regular_file(folder / name, LARGEST_FILE, AdapterError)
            digest = file_digest(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    except AdapterError as error:
        return str(error)
    actual = digest.removeprefix("sha256:")
    if actual == expected:
        return None
    return f"{name} was changed: sha256 {actual[:12]}, published as {expected[:12]}"


def _read(path: Path) -> bytes:
    check_regular_file(path, LARGEST_SUMS, AdapterError)
    return path.read_bytes()


def _sums(content: bytes) -> dict[str, str]:
    """Name to digest in a `SHA256SUMS`."""
    lines = content.decode(errors="replace").splitlines()
    pairs = [line.partition("  ") for line in lines if line]
    for _, _, name in pairs:
        if not name or name.startswith("/") or ".." in name:
            raise AdapterError(f"{SUMS}: {name!r:.80} is not a file of an adapter folder")
    return {name: digest for digest, _, name in pairs}
