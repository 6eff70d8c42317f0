"""Routes of the Open Inference Protocol (v2), in which each adapter is a model.

https://github.com/kserve/open-inference-protocol: REST, with tensors as JSON. Inputs are BYTES
tensors of texts. A single tensor may have any name, and a text in it that is a JSON object gives
values by role. Several tensors are named after roles, such as `text` and `text_pair`. Outputs are
`answer` (the whole answer as JSON) and the keys that the adapter's task declares
(`Task.tensor_keys`), such as `label`, `score` and `vector`.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, StringConstraints

from ..._version import __version__
from ...data.requests import may_be_values, parse_text
from ...errors import DataError, UnavailableError, did_you_mean
from ...names import BASE
from ...tasks.base import column_roles, tasks
from ...tasks.types import Text
from ..bodies.open_inference_responses import (
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    VersionReady,
)
from ..bodies.schemas import Name, VersionOrAlias
from ..http.strict_json import StrictJsonRoute, check_parts
from ..middleware.auth import CallerDep, ServiceDep
from ..service import RowAnswer
from ..serving_limits import ServingLimits

router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=StrictJsonRoute)

BASE_KEYS: tuple[str, ...] = ("vector",)
"""Keys of an answer of the plain backbone that are output tensors, as `Task.tensor_keys`."""

TENSORS: dict[str, dict[str, Any]] = {
    "answer": {"datatype": "BYTES", "shape": [-1]},
    "label": {"datatype": "BYTES", "shape": [-1]},
    "score": {"datatype": "FP32", "shape": [-1]},
    "vector": {"datatype": "FP32", "shape": [-1, -1]},
}
"""Data type and shape of the output tensors; a plug-in's task may have others."""

MAX_TENSORS = 16
MAX_DIMENSIONS = 8
MAX_LENGTH = 1_000_000_000
"""Largest length of a dimension."""

TensorName = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class TensorIn(BaseModel):
    """An input: a tensor of texts."""

    name: TensorName
    shape: list[Annotated[int, Field(ge=0, le=MAX_LENGTH)]] = Field(max_length=MAX_DIMENSIONS)
    datatype: Annotated[str, StringConstraints(max_length=20)] = "BYTES"
    data: list[Any]
    parameters: dict[str, Any] = {}


class TensorOut(BaseModel):
    """A requested output."""

    name: TensorName
    parameters: dict[str, Any] = {}


class InferBody(BaseModel):
    """An inference request."""

    id: Annotated[str, StringConstraints(max_length=200)] | None = None
    inputs: list[TensorIn] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: list[TensorOut] | None = Field(None, max_length=MAX_TENSORS)
    parameters: dict[str, Any] = {}


@router.get("", response_model=ServerMetadata)
async def server() -> Response:
    """Report the name, the version and the extensions of the server."""
    return JSONResponse(
        {"name": "adapterkit", "version": __version__, "extensions": ["binary_tensor_data"]}
    )


@router.get("/health/live", response_model=Live)
async def live() -> Response:
    """Report that the process is alive."""
    return JSONResponse({"live": True})


@router.get("/health/ready", response_model=Ready)
async def ready(service: ServiceDep) -> Response:
    """Report whether the server accepts requests."""
    if service.engine.closing:
        raise UnavailableError("the server is closing")
    return JSONResponse({"ready": True})


@router.post("/models/{name:adapter}/versions/{version}/infer", response_model=InferResponse)
async def infer_version(
    name: Name, version: VersionOrAlias, body: InferBody, service: ServiceDep, caller: CallerDep
) -> Response:
    """Predict with one version of an adapter, given as a number or an alias."""
    return await _infer(f"{name}@{version}", body, service, caller)


@router.post("/models/{name:adapter}/infer", response_model=InferResponse)
async def infer(name: Name, body: InferBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Predict with an adapter, or with `base`, the plain backbone."""
    return await _infer(name, body, service, caller)


@router.get("/models/{name:adapter}/versions/{version}/ready", response_model=VersionReady)
async def version_is_ready(
    name: Name, version: VersionOrAlias, service: ServiceDep, caller: CallerDep
) -> Response:
    """Report whether one version of an adapter can be used."""
    found = await service.find_usable(caller, f"{name}@{version}")
    return JSONResponse({"name": name, "version": str(found.number), "ready": True})


@router.get("/models/{name:adapter}/ready", response_model=ModelReady)
async def is_ready(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Report whether an adapter can be used."""
    if name != BASE:
        await service.find_usable(caller, name)
    return JSONResponse({"name": name, "ready": True})


@router.get("/models/{name:adapter}/versions/{version}", response_model=ModelMetadata)
async def describe_version(
    name: Name, version: VersionOrAlias, service: ServiceDep, caller: CallerDep
) -> Response:
    """Describe the inputs and outputs of one version."""
    return await _describe(f"{name}@{version}", service, caller)


@router.get("/models/{name:adapter}", response_model=ModelMetadata)
async def describe(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Describe the inputs and outputs of an adapter."""
    return await _describe(name, service, caller)


async def _describe(reference: str, service: ServiceDep, caller: CallerDep) -> Response:
    if reference == BASE:
        name, versions, roles, keys = BASE, [1], ["text"], BASE_KEYS
    else:
        version = await service.find(caller, reference)
        description = await service.in_thread(service.descriptions.of_version, version)
        versions, _ = await service.in_thread(service.store.versions, version.name)
        task = tasks().get(description["task"])
        name, roles = version.name, list(description["reads"] or ["text"])
        keys = () if task is None else task.tensor_keys
    return JSONResponse(
        {
            "name": name,
            "versions": [str(number) for number in versions],
            "platform": "adapterkit",
            "inputs": [{"name": role, "datatype": "BYTES", "shape": [-1]} for role in roles],
            "outputs": [
                {"name": key, **TENSORS[key]} for key in ("answer", *keys) if key in TENSORS
            ],
        }
    )


async def _infer(
    reference: str, body: InferBody, service: ServiceDep, caller: CallerDep
) -> Response:
    rows = [(reference, row) for row in _rows(body.inputs, service.limits)]
    answers = await service.answer(caller, rows)
    outputs = _outputs(answers)
    if body.outputs is not None:
        known = {str(output["name"]): output for output in outputs}
        unknown = [wanted.name for wanted in body.outputs if wanted.name not in known]
        if unknown:
            raise DataError(
                f"there is no output {unknown[0]!r:.80}; the outputs are {', '.join(known)}"
            )
        names = [wanted.name for wanted in body.outputs]
        if len(set(names)) < len(names):
            raise DataError("outputs: an output is requested twice")
        outputs = [known[name] for name in names]
    loaded = answers[0].loaded
    content: dict[str, Any] = {
        "model_name": loaded.version.name if loaded else BASE,
        "model_version": str(loaded.version.number) if loaded else "1",
        "outputs": outputs,
    }
    return JSONResponse({**content, "id": body.id} if body.id is not None else content)


def _rows(inputs: list[TensorIn], limits: ServingLimits) -> list[Text]:
    """The rows of a request: the texts of one tensor, or of several that are named after roles."""
    columns: dict[str, list[str]] = {}
    for tensor in inputs:
        if tensor.datatype != "BYTES" or not all(isinstance(text, str) for text in tensor.data):
            raise DataError(f"input {tensor.name!r:.80}: expected texts with datatype BYTES")
        if tensor.name in columns:
            raise DataError(f"input {tensor.name!r:.80} is given twice")
        if math.prod(tensor.shape) != len(tensor.data):
            n_texts = len(tensor.data)
            raise DataError(
                f"input {tensor.name!r:.80}: shape {tensor.shape} does not match {n_texts} texts"
            )
        columns[tensor.name] = tensor.data
    for texts in columns.values():
        limits.check_rows(len(texts))
    if len(columns) == 1:
        texts = next(iter(columns.values()))
        check_parts([text.encode() for text in texts if may_be_values(text)])
        return [parse_text(text) for text in texts]
    roles = column_roles()
    for name in columns:
        if name not in roles:
            raise DataError(
                f"input {name!r:.80}: there is no such role; {did_you_mean(name, roles)}"
            )
    if len({len(texts) for texts in columns.values()}) > 1:
        raise DataError(
            "inputs: expected one tensor, or tensors of equal length that are named after roles"
        )
    return [dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)]


def _outputs(answers: list[RowAnswer]) -> list[dict[str, Any]]:
    outputs = [
        _tensor("answer", [json.dumps(answer.values, ensure_ascii=False) for answer in answers])
    ]
    loaded = answers[0].loaded
    for key in BASE_KEYS if loaded is None else loaded.adapter.task.tensor_keys:
        if all(key in answer.values for answer in answers):
            outputs.append(_tensor(key, [answer.values[key] for answer in answers]))
    return outputs


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    """An output tensor with a text, a number or a vector for each row."""
    shape, data = [len(values)], values
    if isinstance(values[0], list):
        shape, data = [len(values), len(values[0])], [x for vector in values for x in vector]
    datatype = "BYTES" if isinstance(data[0], str) else "FP32"
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
