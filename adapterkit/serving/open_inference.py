"""The Open Inference Protocol (v2), one model for each adapter.

https://github.com/kserve/open-inference-protocol: REST, with tensors as JSON. Inputs are BYTES
tensors of texts: one of any name, in which a text that is a JSON object gives values by role, or
several that are named as roles, such as `text` and `text_pair`. Outputs are `answer` (the whole
answer as JSON) and what the adapter's task names besides (`Task.tensor_keys`), such as `label`,
`score` and `vector`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, StringConstraints

from .._version import __version__
from ..data.requests import parse_text
from ..errors import DataError, UnavailableError, did_you_mean
from ..tasks.base import column_roles
from ..tasks.types import Text
from .auth import CallerDep
from .routes import ServiceDep
from .schemas import Name, Which
from .service import Answered

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

TensorName = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class TensorIn(BaseModel):
    """A tensor of texts."""

    name: TensorName
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str = "BYTES"
    data: list[Any]
    parameters: dict[str, Any] = {}


class TensorOut(BaseModel):
    """An output that is asked for."""

    name: TensorName
    parameters: dict[str, Any] = {}


class InferBody(BaseModel):
    """An inference request."""

    id: str | None = None
    inputs: list[TensorIn] = Field(min_length=1)
    outputs: list[TensorOut] | None = None
    parameters: dict[str, Any] = {}


@router.get("")
async def server() -> Response:
    """Name, version and extensions of the server."""
    return JSONResponse(
        {"name": "adapterkit", "version": __version__, "extensions": ["binary_tensor_data"]}
    )


@router.get("/health/live")
async def live() -> Response:
    """Whether the process lives."""
    return JSONResponse({"live": True})


@router.get("/health/ready")
async def ready(service: ServiceDep) -> Response:
    """Whether it takes requests."""
    if service.engine.closing:
        raise UnavailableError("the server is closing")
    return JSONResponse({"ready": True})


@router.post("/models/{name:adapter}/versions/{version}/infer")
async def infer_version(
    name: Name, version: Which, body: InferBody, service: ServiceDep, caller: CallerDep
) -> Response:
    """Ask one version of an adapter (a number or an alias)."""
    return await _infer(f"{name}@{version}", body, service, caller)


@router.post("/models/{name:adapter}/infer")
async def infer(name: Name, body: InferBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Ask an adapter, or `base`, the plain backbone."""
    return await _infer(name, body, service, caller)


@router.get("/models/{name:adapter}/versions/{version}/ready")
async def version_is_ready(
    name: Name, version: Which, service: ServiceDep, caller: CallerDep
) -> Response:
    """Whether one version can be asked."""
    found = await service.find(caller, f"{name}@{version}")
    return JSONResponse({"name": name, "version": str(found.number), "ready": True})


@router.get("/models/{name:adapter}/ready")
async def is_ready(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Whether an adapter can be asked."""
    await service.find(caller, name)
    return JSONResponse({"name": name, "ready": True})


@router.get("/models/{name:adapter}/versions/{version}")
async def about_version(
    name: Name, version: Which, service: ServiceDep, caller: CallerDep
) -> Response:
    """Inputs and outputs of one version."""
    return await _about(f"{name}@{version}", service, caller)


@router.get("/models/{name:adapter}")
async def about(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Inputs and outputs of an adapter."""
    return await _about(name, service, caller)


async def _about(reference: str, service: ServiceDep, caller: CallerDep) -> Response:
    version = await service.find(caller, reference)
    versions, _ = await service.in_thread(service.store.versions, version.name)
    text = {"name": "text", "datatype": "BYTES", "shape": [-1]}
    return JSONResponse(
        {
            "name": version.name,
            "versions": [str(number) for number in versions],
            "platform": "adapterkit",
            "inputs": [text],
            "outputs": [{"name": "answer", "datatype": "BYTES", "shape": [-1]}],
        }
    )


async def _infer(
    reference: str, body: InferBody, service: ServiceDep, caller: CallerDep
) -> Response:
    said = await service.answer(caller, [(reference, text) for text in _texts(body.inputs)])
    outputs = _outputs(said)
    if body.outputs is not None:
        known = {str(output["name"]): output for output in outputs}
        unknown = [wanted.name for wanted in body.outputs if wanted.name not in known]
        if unknown:
            raise DataError(f"there is no output {unknown[0]!r:.80}; it has {', '.join(known)}")
        outputs = [known[wanted.name] for wanted in body.outputs]
    held = said[0].held
    content: dict[str, Any] = {
        "model_name": held.version.name if held else "base",
        "model_version": str(held.version.number) if held else "1",
        "outputs": outputs,
    }
    return JSONResponse({**content, "id": body.id} if body.id is not None else content)


def _texts(inputs: list[TensorIn]) -> list[Text]:
    """The rows of a request: the texts of one tensor, or of several, each named as a role."""
    columns: dict[str, list[str]] = {}
    for tensor in inputs:
        if tensor.datatype != "BYTES" or not all(isinstance(text, str) for text in tensor.data):
            raise DataError(f"input {tensor.name!r:.80}: expected texts with datatype BYTES")
        size = 1
        for edge in tensor.shape:
            size *= edge
        if size != len(tensor.data):
            raise DataError(
                f"input {tensor.name!r:.80}: shape {tensor.shape} does not hold {len(tensor.data)}"
            )
        columns[tensor.name] = tensor.data
    if len(columns) == 1:
        return [parse_text(text) for text in next(iter(columns.values()))]
    roles = column_roles()
    for name in columns:
        if name not in roles:
            raise DataError(
                f"input {name!r:.80}: there is no such role; {did_you_mean(name, roles)}"
            )
    if len({len(texts) for texts in columns.values()}) > 1:
        raise DataError("inputs: expected one tensor, or tensors of equal length named as roles")
    return [dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)]


def _outputs(said: list[Answered]) -> list[dict[str, Any]]:
    answers = [one.answer for one in said]
    whole = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    outputs = [{"name": "answer", "datatype": "BYTES", "shape": [len(said)], "data": whole}]
    held = said[0].held
    for key in ("vector",) if held is None else held.adapter.task.tensor_keys:
        if all(key in answer for answer in answers):
            outputs.append(_tensor(key, [answer[key] for answer in answers]))
    return outputs


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    """An output of texts, numbers or vectors of one length, one for each row."""
    shape, data = [len(values)], values
    if isinstance(values[0], list):
        shape, data = [len(values), len(values[0])], [x for vector in values for x in vector]
    kind = "BYTES" if isinstance(data[0], str) else "FP32"
    return {"name": name, "datatype": kind, "shape": shape, "data": data}
