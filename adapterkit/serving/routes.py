"""Routes for predictions, vectors and similarities, the list of models, and the server's state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .._version import __version__
from ..adapter.card import read_card
from ..errors import DataError, UnavailableError
from ..inference.pipeline import plain_task, summarize
from ..names import BASE
from ..tasks.types import Answer
from .auth import CallerDep, admin, service_of
from .schemas import EmbedBody, Name, PredictBody, SimilarityBody
from .service import RowAnswer, Service, describe_inputs

router = APIRouter()
text_router = APIRouter()
"""The routes that `FastPath` calls directly."""

ServiceDep = Annotated[Service, Depends(service_of)]


@text_router.post("/predict", tags=["answers"])
async def predict(body: PredictBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Predict with one adapter, in the format of TEI, or with many adapters in one request.

    With `inputs`, the answer has the format of a Hugging Face pipeline for the adapter's task
    (labels with scores, entities, a span, a number); a batch is answered with a list. With
    `requests`, each answer has its `adapter_id`, its `version` and all values of the task.
    """
    answers = await service.answer(caller, body.rows(), body.truncate)
    if body.requests is not None:
        rows = [{**_adapter_name(answer), **_values(answer)} for answer in answers]
        if body.one_line:
            rows = [
                {**row, "one_line": _one_line(answer)}
                for row, answer in zip(rows, answers, strict=True)
            ]
        return _json(rows, answers)
    outputs = [_pipeline_output(answer) for answer in answers]
    return _json(outputs if body.is_batch else outputs[0], answers)


@text_router.post("/embed", tags=["answers"])
async def embed(body: EmbedBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Embed each text with the plain backbone or with an embedding adapter."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    rows = [(body.adapter_id, text) for text in texts]
    answers = await service.answer(caller, rows, body.truncate)
    vectors = [_vector(answer) for answer in answers]
    return _json([_unit(v) for v in vectors] if body.normalize else vectors, answers)


@text_router.post("/similarity", tags=["answers"])
async def similarity(body: SimilarityBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Compute the cosine similarity of one sentence to each of the others."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    rows = [(body.adapter_id, text) for text in texts]
    answers = await service.answer(caller, rows, body.truncate)
    first, *others = (_unit(_vector(answer)) for answer in answers)
    return _json([sum(a * b for a, b in zip(first, v, strict=True)) for v in others], answers)


@router.get("/v1/models", tags=["models"])
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
    models = await service.models(caller, after, limit, search)
    base = {
        "id": BASE,
        "object": "model",
        "owned_by": "adapterkit",
        "parent": None,
        **describe_inputs(plain_task()),
    }
    first = [base] if not after and search.casefold() in BASE else []
    rows = [_model(model, service.backbone.name) for model in models]
    more = len(models) == limit
    return JSONResponse({"object": "list", "data": [*first, *rows], "has_more": more})


@router.get("/v1/models/{name:adapter}", tags=["models"])
async def model(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Describe one adapter: task and its settings, labels, scores, versions and aliases."""
    version = await service.find(caller, name)
    description = await service.in_thread(service.describe, version)
    card = await service.in_thread(read_card, version.folder)
    versions, aliases = await service.in_thread(service.store.versions, version.name)
    more = {"settings": card["task"], "versions": versions, "aliases": aliases}
    return JSONResponse({**_model(description, service.backbone.name), **more})


@router.get("/v1/activity", tags=["server"])
async def activity(service: ServiceDep, caller: CallerDep) -> Response:
    """Report the work of the server since its start, its queue and its present latency.

    All values are sums over all callers: seconds since the start; answered requests, rows, tokens
    and batches; the median seconds of the requests of the last ten seconds; waiting rows and
    tokens; adapters in memory and their bytes.
    """
    queue, memory = service.engine.queue, service.cache.memory
    waiting = {"queue_rows": queue.parts, "queue_tokens": queue.tokens}
    cached = {"adapters": len(memory), "bytes": memory.bytes}
    return JSONResponse({**service.metrics.activity.snapshot(), **waiting, **cached})


@router.get("/info", tags=["server"])
async def info(service: ServiceDep) -> Response:
    """Report the backbone and the limits of the server."""
    geometry, limits = service.backbone.geometry, service.limits
    return JSONResponse(
        {
            "model_id": service.backbone.name,
            "model_sha": service.backbone.fingerprint,
            "model_dtype": str(service.backbone.dtype).removeprefix("torch."),
            "model_type": {"adapters": {}},
            "max_input_length": geometry.positions,
            "max_batch_tokens": service.engine.max_batch_tokens,
            "max_client_batch_size": limits.rows,
            "max_body_bytes": limits.body_bytes,
            "max_row_characters": limits.row_characters,
            "version": __version__,
        }
    )


@router.get("/health", tags=["server"])
async def health() -> Response:
    """Report that the process is alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", tags=["server"])
async def ready(service: ServiceDep) -> Response:
    """Report whether the server accepts requests; 503 while it shuts down."""
    if service.engine.closing:
        raise UnavailableError("the server is closing")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    tags=["server"],
    dependencies=[Depends(admin)],
    response_class=PlainTextResponse,
    responses={status: {"content": {"application/json": {}}} for status in (401, 403)},
)
async def metrics(service: ServiceDep) -> Response:
    """Report queue, batches, latencies, rows by adapter, loads and evictions to Prometheus."""
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _unit(vector: Sequence[float]) -> list[float]:
    """The vector scaled to length 1."""
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]


def _json(content: Any, answers: Sequence[RowAnswer]) -> Response:
    """A response with the number of truncated texts in a header, because the formats of TEI have no
    field for it."""
    n_truncated = sum("truncated" in answer.values for answer in answers)
    headers = {"x-truncated": str(n_truncated)} if n_truncated else None
    return JSONResponse(content, headers=headers)


def _adapter_name(answer: RowAnswer) -> dict[str, Any]:
    if answer.loaded is None:
        return {"adapter_id": BASE}
    return {"adapter_id": answer.loaded.version.name, "version": answer.loaded.version.number}


def _one_line(answer: RowAnswer) -> dict[str, Any]:
    adapter = None if answer.loaded is None else answer.loaded.adapter
    return summarize(adapter, answer.values)._asdict()


def _values(answer: RowAnswer) -> Answer:
    return {key: value for key, value in answer.values.items() if key != "adapter"}


def _pipeline_output(answer: RowAnswer) -> Any:
    values = {key: value for key, value in _values(answer).items() if key != "truncated"}
    return values if answer.loaded is None else answer.loaded.adapter.task.to_hf_pipeline(values)


def _vector(answer: RowAnswer) -> list[float]:
    if "vector" not in answer.values:
        name = answer.loaded.version.name if answer.loaded else BASE
        raise DataError(f"'{name}' gives no vectors; use an embedding adapter or the backbone")
    vector: list[float] = answer.values["vector"]
    return vector


def _model(description: dict[str, Any], parent: str) -> dict[str, Any]:
    name = str(description["name"])
    return {"id": name, "object": "model", "owned_by": name.partition("/")[0], "parent": parent} | {
        key: value for key, value in description.items() if key != "name"
    }
