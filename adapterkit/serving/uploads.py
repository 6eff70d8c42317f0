"""Adapter folders in the bodies of requests, which are kept on disk until they are published."""

from __future__ import annotations

import asyncio
import re
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO

from fastapi import Request
from starlette.datastructures import UploadFile

from ..adapter.card import CARD
from ..adapter.checksums import SUMS
from ..adapter.peft_format import CONFIG
from ..adapter.weights import MEMBERS, WEIGHTS
from ..errors import DataError

REQUIRED_FILES = (CONFIG, WEIGHTS, CARD)
ALLOWED_FILES = re.compile(
    "|".join(map(re.escape, (*REQUIRED_FILES, SUMS)))
    + rf"|{MEMBERS}/[1-9][0-9]?\.safetensors"
    + r"|README\.md|learning_curve\.png|report/[\w.-]{1,80}"
)

MAX_ENTRIES = 256
"""Most files and folders of an archive."""

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

    Args:
        file: The archive, not compressed.
        limit: Most bytes of all files together.

    Raises:
        DataError: It is not a tar archive, or it has files that an adapter folder does not have.
    """
    files: dict[str, bytes] = {}
    free_bytes = limit
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_ENTRIES:
                    raise DataError(f"the archive has more than {MAX_ENTRIES} entries")
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                # A sparse file takes a few bytes in the archive and may expand to terabytes.
                if not member.isreg() or member.issparse() or member.size > free_bytes:
                    raise DataError(
                        f"the archive's {name!r:.80} is not a regular file, or is too large"
                    )
                free_bytes -= member.size
                stream = archive.extractfile(member)
                files[_check_file_name(name, files)] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise DataError(f"the body is not a tar archive ({error})") from None
    return files


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
