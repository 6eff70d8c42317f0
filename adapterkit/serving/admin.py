"""Admin routes: publish, alias, roll back, unload, verify and delete adapters at run time."""

from __future__ import annotations

import io
import re
import tarfile
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from ..adapter.card import CARD
from ..adapter.checksums import SUMS
from ..adapter.peft_format import CONFIG
from ..adapter.weights import MEMBERS, WEIGHTS
from ..errors import DataError
from ..names import check_name
from .auth import admin
from .routes import ServiceDep
from .schemas import Alias, Name, VersionBody

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(admin)])

REQUIRED_FILES = (CONFIG, WEIGHTS, CARD)
ALLOWED_FILES = re.compile(
    "|".join(map(re.escape, (*REQUIRED_FILES, SUMS)))
    + rf"|{MEMBERS}/[1-9][0-9]?\.safetensors"
    + r"|README\.md|learning_curve\.png|report/[\w.-]{1,80}"
)

FOLDER_BODY = {
    "required": True,
    "content": {
        "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    file: {"type": "string", "format": "binary"} for file in REQUIRED_FILES
                },
                "required": [*REQUIRED_FILES],
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
    },
}
"""The body of `publish` in the OpenAPI description."""


@router.get("/adapters/{name:adapter}")
async def describe(name: Name, service: ServiceDep) -> Response:
    """Return the versions, aliases and digests of an adapter, and whether it is in memory."""

    def read_versions() -> dict[str, Any]:
        numbers, aliases = service.store.versions(name)
        versions = [service.store.find(f"{name}@{number}") for number in numbers]
        return {
            "name": name,
            "versions": [{"version": v.number, "digest": v.digest} for v in versions],
            "aliases": aliases,
        }

    in_tiers = {label: name in tier.names() for label, tier in service.cache.tiers.items()}
    return JSONResponse({**await service.in_thread(read_versions), "resident": in_tiers})


@router.put("/adapters/{name:adapter}", status_code=201, openapi_extra={"requestBody": FOLDER_BODY})
async def publish(name: Name, request: Request, service: ServiceDep) -> Response:
    """Publish the next version of an adapter; from then on, `latest` means this version.

    The body is an adapter folder, either as `application/x-tar` (`tar -C FOLDER -c .`) or as
    `multipart/form-data` with one part for each file.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type == "multipart/form-data":
        files = await _uploaded_files(request)
    elif media_type in ("application/x-tar", "application/tar"):
        files = await service.in_thread(unpack, await request.body(), service.limits.upload_bytes)
    else:
        raise DataError(
            f"content-type {media_type!r:.80}: expected application/x-tar or multipart/form-data"
        )
    missing = [file for file in REQUIRED_FILES if file not in files]
    if missing:
        raise DataError(f"{missing[0]} is missing: send a whole adapter folder")
    version = await service.publish(name, files)
    return JSONResponse(
        {"name": name, "version": version.number, "digest": version.digest}, status_code=201
    )


@router.delete("/adapters/{name:adapter}")
async def delete(
    name: Name,
    service: ServiceDep,
    version: Annotated[int | None, Query(ge=1, description="All versions if omitted")] = None,
) -> Response:
    """Delete one version of an adapter, or all its versions."""
    await service.in_thread(service.store.delete, name, version)
    if version is None:
        service.cache.unload(name)
    return JSONResponse({"name": name, "deleted": version or "all versions"})


@router.put("/aliases/{alias}/{name:adapter}")
async def set_alias(alias: Alias, name: Name, body: VersionBody, service: ServiceDep) -> Response:
    """Point an alias, such as `stable` or `latest`, at a version."""
    await service.in_thread(service.store.alias, name, alias, body.version)
    return JSONResponse({"name": name, "aliases": service.store.versions(name)[1]})


@router.delete("/aliases/{alias}/{name:adapter}")
async def remove_alias(alias: Alias, name: Name, service: ServiceDep) -> Response:
    """Remove an alias."""
    await service.in_thread(service.store.alias, name, alias, None)
    return JSONResponse({"name": name, "aliases": service.store.versions(name)[1]})


@router.post("/rollback/{name:adapter}")
async def roll_back(name: Name, service: ServiceDep) -> Response:
    """Point `latest` at the version before."""
    version = await service.in_thread(service.store.roll_back, name)
    return JSONResponse({"name": name, "version": version.number, "digest": version.digest})


@router.post("/unload/{name:adapter}")
async def unload(name: Name, service: ServiceDep) -> Response:
    """Remove an adapter from memory; the next request loads it again."""
    return JSONResponse({"name": name, "unloaded": service.cache.unload(check_name(name))})


@router.get("/verify/{name:adapter}")
async def verify(name: Name, service: ServiceDep) -> Response:
    """List the differences between the files of an adapter and their checksums."""
    return JSONResponse(
        {"name": name, "faults": await service.in_thread(service.store.verify, name)}
    )


def unpack(content: bytes, limit: int) -> dict[str, bytes]:
    """The files of an adapter folder in a tar archive, read in memory.

    Args:
        content: The archive, not compressed.
        limit: Most bytes of all files together.

    Raises:
        DataError: It is not a tar archive, or it has files that an adapter folder does not have.
    """
    files: dict[str, bytes] = {}
    free_bytes = limit
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
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


async def _uploaded_files(request: Request) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    async with request.form(max_files=64, max_fields=0) as form:
        for part in form.values():
            if isinstance(part, str):
                raise DataError("expected files, each with its name")
            files[_check_file_name(part.filename or "", files)] = await part.read()
    return files


def _check_file_name(name: str, files: dict[str, bytes]) -> str:
    if not ALLOWED_FILES.fullmatch(name) or ".." in name or name in files:
        raise DataError(f"{name!r:.80} does not belong in an adapter folder, or is given twice")
    return name
