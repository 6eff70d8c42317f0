"""Adapter folders in the bodies of requests, which are kept on disk until they are published."""

from __future__ import annotations

import asyncio
import re
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import IO

from fastapi import Request
from starlette.datastructures import UploadFile

from ...adapter.folder_files import ALLOWED_FILES, REQUIRED_FILES
from ...errors import DataError

MAX_ENTRIES = 1024
"""Most headers of an archive: of files, of folders, and extended ones."""

MAX_EXTENDED = 65_536
"""Most bytes of an extended header."""

EXTENDED_RECORD = re.compile(rb"(?P<length>[1-9][0-9]{0,4}) (?P<key>[^=\n]{1,256})=")
"""The begin of a record of an extended header (POSIX.1-2001, pax): its length, and its key."""

BLOCK = 1_048_576
"""Bytes that are written to disk at once."""


@asynccontextmanager
async def received_folder(request: Request) -> AsyncIterator[Callable[[], dict[str, bytes]]]:
    """Receives an adapter folder, and gives a function that reads its files into memory.

    Raises:
        DataError: The content type is not one of an adapter folder. The function raises it if the
            body is not an adapter folder.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type == "multipart/form-data":
        async with request.form(max_files=64, max_fields=0) as form:
            parts = list(form.values())
            yield lambda: _check_complete(_uploaded_files(parts))
    elif media_type in ("application/x-tar", "application/tar"):
        with tempfile.TemporaryFile() as file:
            await _save(request, file)
            limit = request.app.state.service.limits.upload_bytes
            yield lambda: _check_complete(unpack(file, limit))
    else:
        raise DataError(
            f"content-type {media_type!r:.80}: expected application/x-tar or multipart/form-data"
        )


def unpack(file: IO[bytes], limit: int) -> dict[str, bytes]:
    """The files of an adapter folder in a tar archive, read into memory.

    Only what `tar` and Python write for short names is read: regular files, folders, and extended
    headers that change neither a name nor a size. The loops and recursions in which other archives
    keep a general reader do not exist here.

    Args:
        file: The archive, not compressed.
        limit: Most bytes of all files together.

    Raises:
        DataError: It is not a tar archive, or it has files that an adapter folder does not have.
    """
    files: dict[str, bytes] = {}
    free_bytes = limit
    file.seek(0)
    for member in _members(file):
        if member.isdir() and member.size == 0:
            continue
        is_extended = member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE)
        is_regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        most_bytes = MAX_EXTENDED if is_extended else free_bytes
        if not (is_extended or is_regular) or not 0 <= member.size <= most_bytes:
            raise DataError(
                f"the archive's {member.name!r:.80} is not a regular file, or is too large"
            )
        content = _read_content(file, member.size)
        if is_extended:
            _check_extended_header(content)
            continue
        free_bytes -= member.size
        files[_check_file_name(member.name.removeprefix("./"), files)] = content
    return files


def _members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive. After each, the content must be read.

    Raises:
        DataError: A header is not valid, there are too many, or the end of the archive is missing.
    """
    for _ in range(MAX_ENTRIES):
        block = file.read(tarfile.BLOCKSIZE)
        if block and not any(block):
            return
        try:
            yield tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(f"the body is not a tar archive ({error})") from None
    raise DataError(f"the archive has more than {MAX_ENTRIES} entries")


def _read_content(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    padding = file.read(-size % tarfile.BLOCKSIZE)
    if len(content) + len(padding) < size + -size % tarfile.BLOCKSIZE:
        raise DataError("the body is not a tar archive (it is cut off)")
    return content


def _check_extended_header(content: bytes) -> None:
    """Refuses an extended header (pax) that says something else about a file than its header.

    Raises:
        DataError: It gives a name, a size or a map of a sparse file, or is not valid.
    """
    start = 0
    while start < len(content):
        record = EXTENDED_RECORD.match(content, start)
        end = start + int(record["length"]) if record else start
        if record is None or end < record.end() or content[end - 1 : end] != b"\n":
            raise DataError("the body is not a tar archive (an extended header is not valid)")
        key = record["key"]
        if key in (b"path", b"size", b"linkpath") or key.startswith(b"GNU.sparse."):
            raise DataError(
                f"the archive gives a file an extended {key.decode()!r}: names have at most 100 "
                "letters, and files are not sparse"
            )
        start = end


async def _save(request: Request, file: IO[bytes]) -> None:
    block = bytearray()
    async for part in request.stream():
        block += part
        if len(block) >= BLOCK:
            await asyncio.to_thread(file.write, block)
            block = bytearray()
    await asyncio.to_thread(file.write, block)


def _uploaded_files(parts: list[UploadFile | str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for part in parts:
        if isinstance(part, str):
            raise DataError("expected files, each with its name")
        files[_check_file_name(part.filename or "", files)] = part.file.read()
    return files


def _check_complete(files: dict[str, bytes]) -> dict[str, bytes]:
    missing = [file for file in REQUIRED_FILES if file not in files]
    if missing:
        raise DataError(f"{missing[0]} is missing: send a whole adapter folder")
    return files


def _check_file_name(name: str, files: dict[str, bytes]) -> str:
    if not ALLOWED_FILES.fullmatch(name) or ".." in name or name in files:
        raise DataError(f"{name!r:.80} does not belong in an adapter folder, or is given twice")
    return name
