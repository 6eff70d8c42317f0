"""An adapter folder as a tar archive, the body of a request that publishes it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import AdapterError

CONFIG_FILE = "adapter_config.json"
"""The file that every adapter folder has, also those of PEFT."""


def tar_of(folder: Path) -> bytes:
    """The files of an adapter folder, without hidden files, as a tar archive.

    Raises:
        AdapterError: It is not an adapter folder, or a file cannot be read.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise AdapterError(f"{folder}: not an adapter folder, {CONFIG_FILE} is missing")
    paths = {path: path.relative_to(folder) for path in sorted(folder.rglob("*"))}
    return as_tar(
        {
            name.as_posix(): _content(path)
            for path, name in paths.items()
            if path.is_file() and not any(part.startswith(".") for part in name.parts)
        }
    )


def as_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of files, given as path to content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror})") from None
