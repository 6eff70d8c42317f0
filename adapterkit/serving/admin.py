"""Admin: publish, alias, roll back, unload, verify and delete adapters while the server answers."""

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

NEEDED = (CONFIG, WEIGHTS, CARD)
ALLOWED = re.compile(
    "|".join(map(re.escape, (*NEEDED, SUMS)))
    + rf"|{MEMBERS}/[1-9][0-9]?\.safetensors"
    + r"|README\.md|learning_curve\.png|report/[\w.-]{1,80}"
)

FOLDER = {
    "required": True,
    "content": {
        "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {file: {"type": "string", "format": "binary"} for file in NEEDED},
                "required": [*NEEDED],
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
    },
}
"""What is published, as the description tells it."""


@router.get("/adapters/{name:adapter}")
async def show(name: Name, service: ServiceDep) -> Response:
    """Versions, aliases and digests of an adapter, and whether it is in memory."""

    def look() -> dict[str, Any]:
        versions, aliases = service.store.versions(name)
        found = [service.store.find(f"{name}@{number}") for number in versions]
        return {
            "name": name,
            "versions": [{"version": v.number, "digest": v.digest} for v in found],
            "aliases": aliases,
        }

    held = {label: name in tier.names() for label, tier in service.resident.tiers.items()}
    return JSONResponse({**await service.in_thread(look), "resident": held})


@router.put("/adapters/{name:adapter}", status_code=201, openapi_extra={"requestBody": FOLDER})
async def publish(name: Name, request: Request, service: ServiceDep) -> Response:
    """Publish the next version of an adapter and make it `latest`, at once and for every caller.

    The body is an adapter folder: as `application/x-tar` (`tar -C FOLDER -c .`), or as
    `multipart/form-data` with a part for each of its files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind == "multipart/form-data":
        files = await _parts(request)
    elif kind in ("application/x-tar", "application/tar"):
        files = await service.in_thread(unpack, await request.body(), service.limits.upload_bytes)
    else:
        raise DataError(
            f"content-type {kind!r:.80}: expected application/x-tar or multipart/form-data"
        )
    missing = [file for file in NEEDED if file not in files]
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
    version: Annotated[int | None, Query(ge=1, description="All versions where left out")] = None,
) -> Response:
    """Delete a version, or an adapter with all its versions."""
    await service.in_thread(service.store.delete, name, version)
    if version is None:
        service.resident.unload(name)
    return JSONResponse({"name": name, "deleted": version or "all versions"})


@router.put("/aliases/{alias}/{name:adapter}")
async def point(alias: Alias, name: Name, body: VersionBody, service: ServiceDep) -> Response:
    """Point an alias (`stable`, or `latest`) at a version."""
    await service.in_thread(service.store.alias, name, alias, body.version)
    return JSONResponse({"name": name, "aliases": service.store.versions(name)[1]})


@router.delete("/aliases/{alias}/{name:adapter}")
async def forget(alias: Alias, name: Name, service: ServiceDep) -> Response:
    """Remove an alias."""
    await service.in_thread(service.store.alias, name, alias, None)
    return JSONResponse({"name": name, "aliases": service.store.versions(name)[1]})


@router.post("/rollback/{name:adapter}")
async def roll_back(name: Name, service: ServiceDep) -> Response:
    """Make the version before `latest` the latest again."""
    version = await service.in_thread(service.store.roll_back, name)
    return JSONResponse({"name": name, "version": version.number, "digest": version.digest})


@router.post("/unload/{name:adapter}")
async def unload(name: Name, service: ServiceDep) -> Response:
    """Let an adapter go from memory; the next request loads it again."""
    return JSONResponse({"name": name, "unloaded": service.resident.unload(check_name(name))})


@router.get("/verify/{name:adapter}")
async def verify(name: Name, service: ServiceDep) -> Response:
    """What differs between an adapter's files and the checksums they were published with."""
    return JSONResponse(
        {"name": name, "faults": await service.in_thread(service.store.verify, name)}
    )


def unpack(content: bytes, limit: int) -> dict[str, bytes]:
    """The files of an adapter folder from a tar archive; nothing touches the disk.

    Args:
        content: The archive, not compressed.
        limit: Most bytes of all files together.

    Raises:
        DataError: It is none, or holds anything but an adapter folder's files.
    """
    files: dict[str, bytes] = {}
    left = limit
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                # A sparse file of a few bytes may claim to be terabytes.
                if not member.isreg() or member.issparse() or member.size > left:
                    raise DataError(f"the archive's {name!r:.80} is no plain file, or too large")
                left -= member.size
                stream = archive.extractfile(member)
                files[_allowed(name, files)] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise DataError(f"the body is not a tar archive ({error})") from None
    return files


async def _parts(request: Request) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    async with request.form(max_files=64, max_fields=0) as form:
        for part in form.values():
            if isinstance(part, str):
                raise DataError("expected files, each with its name")
            files[_allowed(part.filename or "", files)] = await part.read()
    return files


def _allowed(name: str, files: dict[str, bytes]) -> str:
    if not ALLOWED.fullmatch(name) or ".." in name or name in files:
        raise DataError(f"{name!r:.80} does not belong into an adapter folder, or is there twice")
    return name
