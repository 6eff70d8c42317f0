"""Routes for the list of models, in the format of OpenAI, and for one of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from ...adapter.card import read_card
from ...inference.pipeline import plain_task
from ...names import BASE
from ..adapter_descriptions import describe_inputs, plain_inputs
from ..bodies.responses import AdapterDetails, BackboneDescription, ModelList
from ..bodies.schemas import Name
from ..middleware.auth import CallerDep, ServiceDep
from ..service import Service

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", response_model=ModelList)
async def models(
    service: ServiceDep,
    caller: CallerDep,
    after: Annotated[str, Query(max_length=200, description="Last name of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    search: Annotated[
        str, Query(max_length=200, description="Only names that contain this text")
    ] = "",
) -> Response:
    """List the plain backbone and the adapters that the caller may use, in the format of OpenAI."""
    rows = await service.in_thread(service.descriptions.page, caller.may_use, after, limit, search)
    first = [_base_model(service)] if not after and search.casefold() in BASE else []
    models = [_model(row) for row in rows]
    more = len(rows) == limit
    return JSONResponse({"object": "list", "data": [*first, *models], "has_more": more})


@router.get(
    "/{name:adapter}",
    response_model=AdapterDetails | BackboneDescription,
)
async def model(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Describe one adapter: task and its settings, labels, scores, versions and aliases; or
    `base`, the plain backbone."""
    if name == BASE:
        return JSONResponse(_base_model(service))
    version = await service.find(caller, name)
    description = await service.in_thread(service.descriptions.of_version, version)
    card = await service.in_thread(read_card, version.folder)
    versions, aliases = await service.in_thread(service.store.versions, version.name)
    rollouts = await service.in_thread(service.store.rollouts, version.name)
    more = {
        "settings": card["task"],
        "versions": versions,
        "aliases": aliases,
        "rollouts": service.rollouts.counter.to_json(version.name, rollouts),
    }
    return JSONResponse({**_model(description), **more})


def _base_model(service: Service) -> dict[str, Any]:
    """The plain backbone in the list of models: the first of several."""
    backbone = service.backbones.default
    return {
        "id": BASE,
        "object": "model",
        "owned_by": "adapterkit",
        "parent": None,
        "backbone": {
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "loaded": True,
        },
        **describe_inputs(plain_task(), plain_inputs()),
    }


def _model(description: dict[str, Any]) -> dict[str, Any]:
    name, parent = str(description["name"]), description["backbone"]["name"]
    return {"id": name, "object": "model", "owned_by": name.partition("/")[0], "parent": parent} | {
        key: value for key, value in description.items() if key != "name"
    }
