"""Admin routes: publish, alias, roll out, unload, verify and delete adapters at run time.

Each needs a role and the permission for the adapter, and each is one record of the audit log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from ...adapter.aliases import ALIAS, LATEST
from ...adapter.card import CARD, read_card
from ...adapter.folder_files import REQUIRED_FILES
from ...adapter.store import Store
from ...errors import AdapterkitError, DataError, UnavailableError
from ...names import check_name
from ...tasks.answer_distribution import AnswerDistribution
from ...tasks.drift import Drift
from ..bodies.admin_responses import (
    AdapterVersions,
    Aliases,
    Deletion,
    DriftReport,
    NamedVersion,
    Unloading,
    Verification,
)
from ..bodies.schemas import MAX_VERSION, Alias, Name, RolloutBody, VersionBody
from ..bodies.uploads import received_folder
from ..http.strict_json import StrictJsonRoute
from ..imported_folder import ImportOptions
from ..keys.api_keys import Caller, Role
from ..metrics.answer_watch import KEPT_WINDOWS, WINDOW
from ..middleware.auth import CallerDep, ServiceDep, check_permission
from ..service import Service
from .audit_log import audited

DRIFT_OF_REPLICAS = (
    "each replica counts its own answers: compare adapterkit_drift_psi of each in /metrics, or "
    "give `adapterkit drift` a file of answers"
)

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
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
                    file: {"type": "string", "format": "binary"} for file in (*REQUIRED_FILES, CARD)
                },
                "required": [*REQUIRED_FILES],
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
    },
}
"""The body of `publish` in the OpenAPI description."""


class Action:
    """What an admin or a publisher does in one request.

    Args:
        request: The request.
        caller: Its caller.
    """

    def __init__(self, request: Request, caller: CallerDep) -> None:
        self.caller: Caller = caller
        self._request = request

    @contextmanager
    def on(self, name: str, verb: str, role: Role = "publisher") -> Iterator[dict[str, Any]]:
        """Checks the permission, and logs the action when it ends.

        Args:
            name: The adapter.
            verb: What is done.
            role: The role that is needed.

        Returns:
            The log record, for the version and the digest.

        Raises:
            DeniedError: The caller may not do this with the adapter.
        """
        with audited(self._request, self.caller, verb, name) as record:
            check_permission(self.caller, role, name)
            yield record


ActionDep = Annotated[Action, Depends()]


def import_options(
    labels: Annotated[
        str | None,
        Query(description="Of a folder of PEFT: label names in the order of the logits, by commas"),
    ] = None,
    problem: Annotated[
        str | None,
        Query(description="Of a folder of PEFT: transformers' `problem_type`"),
    ] = None,
    backbone: Annotated[
        str | None,
        Query(description="Of a folder of PEFT: its base model, if it is loaded by another name"),
    ] = None,
) -> ImportOptions:
    """What the caller says about a folder of PEFT."""
    return ImportOptions(labels, problem, backbone)


ImportDep = Annotated[ImportOptions, Depends(import_options)]


@router.get("/adapters/{name:adapter}", response_model=AdapterVersions)
async def describe(name: Name, service: ServiceDep, action: ActionDep) -> Response:
    """Return the versions, aliases and digests of an adapter, and whether it is in memory."""

    def read_versions() -> dict[str, Any]:
        numbers, aliases = service.store.versions(name)
        versions = [service.store.find(f"{name}@{number}") for number in numbers]
        return {
            "name": name,
            "versions": [{"version": v.number, "digest": v.digest} for v in versions],
            "aliases": aliases,
            "rollouts": _rollouts(service.store, name),
        }

    with action.on(name, "describe"):
        description = await service.in_thread(read_versions)
    in_tiers = {label: name in tier.names() for label, tier in service.cache.tiers.items()}
    return JSONResponse({**description, "resident": in_tiers})


@router.put(
    "/adapters/{name:adapter}",
    status_code=201,
    openapi_extra={"requestBody": FOLDER_BODY},
    response_model=NamedVersion,
)
async def publish(
    name: Name,
    request: Request,
    service: ServiceDep,
    action: ActionDep,
    options: ImportDep,
) -> Response:
    """Publish the next version of an adapter; from then on, `latest` means this version.

    The body is an adapter folder, either as `application/x-tar` (`tar -C FOLDER -c .`) or as
    `multipart/form-data` with one part for each file. A folder of PEFT, which has no card, becomes
    an adapter of the loaded backbone that it names, or is refused.
    """
    with action.on(name, "publish") as record:
        async with received_folder(request) as read_files, request.app.state.one_upload:
            files = await service.in_thread(read_files)
            version = await service.publish(action.caller, name, files, options)
        record |= {"version": version.number, "digest": version.digest}
    return JSONResponse(
        {"name": name, "version": version.number, "digest": version.digest}, status_code=201
    )


@router.delete("/adapters/{name:adapter}", response_model=Deletion)
async def delete(
    name: Name,
    service: ServiceDep,
    action: ActionDep,
    version: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="All versions if omitted")
    ] = None,
) -> Response:
    """Delete one version of an adapter, or all its versions."""
    with action.on(name, "delete", "admin") as record:
        if version is None:
            record["digests"] = await service.in_thread(_digests, service.store, name)
        else:
            digest = await service.in_thread(_digest, service.store, name, version)
            record |= {"version": version, "digest": digest}
        await service.in_thread(service.store.delete, name, version)
    if version is None:
        service.cache.unload(name)
        with suppress(UnavailableError):  # it only takes memory there
            await service.group.unload(name)
    return JSONResponse({"name": name, "deleted": version or "all versions"})


@router.put("/aliases/{alias}/{name:adapter}", response_model=Aliases)
async def set_alias(
    alias: Alias, name: Name, body: VersionBody, service: ServiceDep, action: ActionDep
) -> Response:
    """Point an alias, such as `stable` or `latest`, at a version."""
    with action.on(name, "set alias") as record:
        record |= {"alias": alias, "version": body.version}
        await service.in_thread(service.store.alias, name, alias, body.version)
        record["digest"] = await service.in_thread(_digest, service.store, name, body.version)
    return await _aliases(service, name)


@router.delete("/aliases/{alias}/{name:adapter}", response_model=Aliases)
async def remove_alias(
    alias: Alias, name: Name, service: ServiceDep, action: ActionDep
) -> Response:
    """Remove an alias."""
    with action.on(name, "remove alias") as record:
        record["alias"] = alias
        await service.in_thread(service.store.alias, name, alias, None)
    return await _aliases(service, name)


@router.put("/rollouts/{alias}/{name:adapter}", response_model=Aliases)
async def roll_out(
    alias: Alias, name: Name, body: RolloutBody, service: ServiceDep, action: ActionDep
) -> Response:
    """Divide the requests to an alias among versions, and let a shadow answer them as well.

    The same version answers a session (header `x-session-id`), or else an API key, each time.
    """
    with action.on(name, "roll out") as record:
        rollout = body.rollout()
        record |= {"alias": alias, "rollout": body.model_dump()}
        await service.in_thread(service.store.roll_out, name, alias, rollout)
    return await _aliases(service, name)


@router.post("/promote/{alias}/{name:adapter}", response_model=NamedVersion)
async def promote(
    alias: Alias,
    name: Name,
    service: ServiceDep,
    action: ActionDep,
    version: Annotated[
        int | None,
        Query(ge=1, le=MAX_VERSION, description="If omitted, the one beside the main version"),
    ] = None,
) -> Response:
    """End a rollout: the alias means one of its versions alone."""
    with action.on(name, "promote") as record:
        record["alias"] = alias
        found = await service.in_thread(service.store.promote, name, alias, version)
        record |= {"version": found.number, "digest": found.digest}
    return JSONResponse({"name": name, "version": found.number, "digest": found.digest})


@router.post("/rollback/{name:adapter}", response_model=NamedVersion)
async def roll_back(
    name: Name,
    service: ServiceDep,
    action: ActionDep,
    alias: Annotated[str, Query(pattern=f"^{ALIAS.pattern}$")] = LATEST,
) -> Response:
    """End the rollout of an alias at its main version; point an alias without one, such as
    `latest`, at the version before."""
    with action.on(name, "roll back") as record:
        record["alias"] = alias
        version = await service.in_thread(service.store.roll_back, name, alias)
        record |= {"version": version.number, "digest": version.digest}
    return JSONResponse({"name": name, "version": version.number, "digest": version.digest})


@router.post("/unload/{name:adapter}", response_model=Unloading)
async def unload(name: Name, service: ServiceDep, action: ActionDep) -> Response:
    """Remove an adapter from memory; the next request loads it again.

    Of several replicas, `unloaded` counts the versions of one; the others follow within seconds.
    """
    with action.on(name, "unload", "admin"):
        unloaded = service.cache.unload(check_name(name))
        await service.group.unload(name)
    return JSONResponse({"name": name, "unloaded": unloaded})


@router.get("/verify/{name:adapter}", response_model=Verification)
async def verify(name: Name, service: ServiceDep, action: ActionDep) -> Response:
    """List the differences between the files of an adapter and their checksums."""
    with action.on(name, "verify"):
        faults = await service.in_thread(service.store.verify, name)
    return JSONResponse({"name": name, "faults": faults})


@router.get("/drift/{name:adapter}", response_model=DriftReport)
async def drift(
    name: Name,
    service: ServiceDep,
    action: ActionDep,
    version: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="If omitted, the latest version")
    ] = None,
    since: Annotated[
        int, Query(ge=1, le=WINDOW * KEPT_WINDOWS, description="Seconds, in steps of ten minutes")
    ] = WINDOW * KEPT_WINDOWS,
) -> Response:
    """Compare the answers of a version with those of its training: labels, scores, abstentions.

    They are counted since the start of the server, for a day at most. `reference` is null for an
    adapter whose card does not have the distribution of its answers. Replicas count their own
    answers, so none of them can say it for all.
    """
    with action.on(name, "drift"):
        if service.group.name:
            raise DataError(DRIFT_OF_REPLICAS)
        reference = name if version is None else f"{name}@{version}"
        found = await service.find(action.caller, reference)
        training = (await service.in_thread(read_card, found.folder))["training"]
    windows = service.metrics.answers.windows(name, found.number)
    observed = AnswerDistribution() if windows is None else windows.since(since)
    trained = training.get("answers")
    compared = None if trained is None else AnswerDistribution.from_plain(trained)
    drifted = None
    if compared is not None and observed.rows:
        drifted = Drift.between(compared, observed).plain()
    return JSONResponse(
        {
            "name": name,
            "version": found.number,
            "observed": observed.plain(),
            "reference": trained,
            "drift": drifted,
        }
    )


async def _aliases(service: Service, name: str) -> Response:
    """The aliases of a name, after a change of them."""
    _, aliases = await service.in_thread(service.store.versions, name)
    rollouts = await service.in_thread(_rollouts, service.store, name)
    return JSONResponse({"name": name, "aliases": aliases, "rollouts": rollouts})


def _rollouts(store: Store, name: str) -> dict[str, Any]:
    return {alias: rollout.to_json() for alias, rollout in store.rollouts(name).items()}


def _digests(store: Store, name: str) -> dict[int, str]:
    """Digest by number of the versions that can be read."""
    numbers: Sequence[int] = ()
    with suppress(AdapterkitError, OSError):
        numbers = store.versions(name)[0]
    digests = ((number, _digest(store, name, number)) for number in numbers)
    return {number: digest for number, digest in digests if digest is not None}


def _digest(store: Store, name: str, number: int) -> str | None:
    """Digest of a version; None if it cannot be read."""
    with suppress(AdapterkitError, OSError):
        return store.find(f"{name}@{number}").digest
    return None
