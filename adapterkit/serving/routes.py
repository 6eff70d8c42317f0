"""What callers ask: predictions, vectors, similarities, and which models there are."""

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
from .service import Answered, Service, inputs_of

router = APIRouter()
direct = APIRouter()

ServiceDep = Annotated[Service, Depends(service_of)]


@direct.post("/predict", tags=["answers"])
async def predict(body: PredictBody, service: ServiceDep, caller: CallerDep) -> Response:
    """Answers of one adapter in the shape of TEI, or of many adapters in one request.

    With `inputs`: what the adapter's task says, as Hugging Face pipelines give it (labels with
    scores, entities, a span, a number); a batch is answered with a list. With `requests`: for each
    its `adapter_id`, `version` and the whole answer.
    """
    said = await service.answer(caller, body.asked(), body.truncate)
    if body.requests is not None:
        rows = [{**_name(one), **_bare(one.answer)} for one in said]
        if body.one_line:
            rows = [
                {**row, "one_line": _one_line(one)} for row, one in zip(rows, said, strict=True)
            ]
        return _json(rows, said)
    shaped = [_shaped(one) for one in said]
    return _json(shaped if body.is_batch else shaped[0], said)


@direct.post("/embed", tags=["answers"])
async def embed(body: EmbedBody, service: ServiceDep, caller: CallerDep) -> Response:
    """A vector for each text: the plain backbone's, or an embedding adapter's."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    said = await service.answer(caller, [(body.adapter_id, t) for t in texts], body.truncate)
    vectors = [_vector(one) for one in said]
    return _json([unit(v) for v in vectors] if body.normalize else vectors, said)


@direct.post("/similarity", tags=["answers"])
async def similarity(body: SimilarityBody, service: ServiceDep, caller: CallerDep) -> Response:
    """The cosine of one sentence with each of several."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    said = await service.answer(caller, [(body.adapter_id, t) for t in texts], body.truncate)
    first, *others = (unit(_vector(one)) for one in said)
    return _json([sum(a * b for a, b in zip(first, v, strict=True)) for v in others], said)


@router.get("/v1/models", tags=["models"])
async def models(
    service: ServiceDep,
    caller: CallerDep,
    after: Annotated[str, Query(max_length=200, description="Go on after this name")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    search: Annotated[str, Query(max_length=200, description="Only names that hold this")] = "",
) -> Response:
    """The plain backbone and the adapters the caller may ask, in the shape of OpenAI."""
    found = await service.models(caller, after, limit, search)
    base = {
        "id": BASE,
        "object": "model",
        "owned_by": "adapterkit",
        "parent": None,
        **inputs_of(plain_task()),
    }
    first = [base] if not after and search.casefold() in BASE else []
    rows = [_model(one, service.backbone.name) for one in found]
    more = len(found) == limit
    return JSONResponse({"object": "list", "data": [*first, *rows], "has_more": more})


@router.get("/v1/models/{name:adapter}", tags=["models"])
async def model(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """One adapter: its task and that task's settings, labels, scores, versions and aliases."""
    version = await service.find(caller, name)
    about = await service.in_thread(service.describe, version)
    card = await service.in_thread(read_card, version.folder)
    versions, aliases = await service.in_thread(service.store.versions, version.name)
    more = {"settings": card["task"], "versions": versions, "aliases": aliases}
    return JSONResponse({**_model(about, service.backbone.name), **more})


@router.get("/v1/activity", tags=["server"])
async def activity(service: ServiceDep, caller: CallerDep) -> Response:
    """What the server has answered since it began, what waits, and how fast it is now.

    Sums over all callers, without a name: seconds since the start, requests, rows, tokens and
    batches answered, the median seconds of a request over the last ten seconds, rows and tokens
    that wait, adapters in memory and their bytes.
    """
    queue, memory = service.engine.queue, service.resident.memory
    held = {"adapters": len(memory), "bytes": memory.bytes}
    waits = {"queue_rows": queue.rows, "queue_tokens": queue.tokens}
    return JSONResponse({**service.metrics.activity.told(), **waits, **held})


@router.get("/info", tags=["server"])
async def info(service: ServiceDep) -> Response:
    """The backbone and the limits of this server."""
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
            "version": __version__,
        }
    )


@router.get("/health", tags=["server"])
async def health() -> Response:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", tags=["server"])
async def ready(service: ServiceDep) -> Response:
    """Whether it takes requests: 503 while it drains."""
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
    """Queue, batches, latency by stage, rows by adapter, loads and evictions, for Prometheus."""
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def unit(vector: Sequence[float]) -> list[float]:
    """A vector of length 1."""
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]


def _json(content: Any, said: Sequence[Answered]) -> Response:
    """An answer; TEI's shapes have no place for it, so a header says how many texts were cut."""
    cut = sum("truncated" in one.answer for one in said)
    return JSONResponse(content, headers={"x-truncated": str(cut)} if cut else None)


def _name(one: Answered) -> dict[str, Any]:
    if one.held is None:
        return {"adapter_id": BASE}
    return {"adapter_id": one.held.version.name, "version": one.held.version.number}


def _one_line(one: Answered) -> dict[str, Any]:
    return summarize(None if one.held is None else one.held.adapter, one.answer)._asdict()


def _bare(answer: Answer) -> Answer:
    return {key: value for key, value in answer.items() if key != "adapter"}


def _shaped(one: Answered) -> Any:
    bare = {key: value for key, value in _bare(one.answer).items() if key != "truncated"}
    return bare if one.held is None else one.held.adapter.task.to_hf_pipeline(bare)


def _vector(one: Answered) -> list[float]:
    if "vector" not in one.answer:
        name = one.held.version.name if one.held else BASE
        raise DataError(f"'{name}' gives no vectors; ask an embedding adapter or the backbone")
    vector: list[float] = one.answer["vector"]
    return vector


def _model(about: dict[str, Any], parent: str) -> dict[str, Any]:
    name = str(about["name"])
    return {"id": name, "object": "model", "owned_by": name.partition("/")[0], "parent": parent} | {
        key: value for key, value in about.items() if key != "name"
    }
