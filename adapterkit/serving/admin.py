"""Admin routes: publish, alias, roll back, unload, verify and delete adapters at run time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from ..names import check_name
from .auth import admin
from .routes import ServiceDep
from .schemas import MAX_VERSION, Alias, Name, VersionBody
from .strict_json import StrictJsonRoute
from .uploads import REQUIRED_FILES, received_folder

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(admin)],
    route_class=StrictJsonRoute,
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
    async with received_folder(request) as read_files, request.app.state.one_upload:
        version = await service.publish(name, await service.in_thread(read_files))
    return JSONResponse(
        {"name": name, "version": version.number, "digest": version.digest}, status_code=201
    )


@router.delete("/adapters/{name:adapter}")
async def delete(
    name: Name,
    service: ServiceDep,
    version: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="All versions if omitted")
    ] = None,
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
