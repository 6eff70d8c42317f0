"""Routes for predictions, the list of models, and the server's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .._version import __version__
from ..adapter.card import read_card
from ..backbone.model import Backbone
from ..errors import DataError, UnavailableError
from ..inference.pipeline import plain_task, summarize
from ..names import BASE
from ..tasks.types import Answer, Text
from .activity_report import activity_of, merged_activity
from .adapter_choice import ADAPTER_PARAMETERS, NamedAdapter, chosen_adapter
from .api_keys import Caller
from .auth import CallerDep, admin, service_of
from .merged_metrics import merged_text
from .responses import (
    ActivityReport,
    AdapterDetails,
    BackboneDescription,
    Info,
    ModelList,
    PredictResponse,
    Status,
)
from .schemas import Name, PredictBody
from .service import RowAnswer, Service, describe_inputs, plain_inputs
from .strict_json import StrictJsonRoute

router = APIRouter()
text_router = APIRouter(route_class=StrictJsonRoute)
"""The routes that `FastPath` calls directly."""

ServiceDep = Annotated[Service, Depends(service_of)]


@text_router.post(
    "/adapters/{name:adapter}/predict",
    tags=["answers"],
    openapi_extra=ADAPTER_PARAMETERS,
    response_model=PredictResponse,
)
@text_router.post(
    "/predict",
    tags=["answers"],
    openapi_extra=ADAPTER_PARAMETERS,
    response_model=PredictResponse,
)
async def predict(
    body: PredictBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Predict with one adapter, in the format of TEI, or with many adapters in one request.

    With `inputs`, the answer has the format of a Hugging Face pipeline for the adapter's task
    (labels with scores, entities, a span, a number); a batch is answered with a list. With
    `requests`, each answer has its `adapter_id`, its `version` and all values of the task.
    """
    if body.requests is not None:
        return await _answer_requests(body, service, caller, named)
    adapter, is_batch = chosen_adapter(body, named), body.is_batch
    if body.is_flat:
        is_batch = await _is_batch_of_texts(body.inputs, service, caller, adapter)
    rows = [(adapter, _row(text)) for text in (body.inputs if is_batch else [body.inputs])]
    answers = await service.answer(caller, rows, body.truncate)
    outputs = [_pipeline_output(answer, body) for answer in answers]
    is_nested = body.parameters is not None and all("scores" in one.values for one in answers)
    return json_response(outputs if is_batch or is_nested else outputs[0], answers)


async def _answer_requests(
    body: PredictBody, service: Service, caller: Caller, named: str | None
) -> Response:
    if named is not None:
        raise DataError("with requests, each request names its own adapter_id")
    rows = [(request.adapter_id, _row(request.inputs)) for request in body.requests or ()]
    answers = await service.answer(caller, rows, body.truncate)
    outputs = [{**_adapter_name(answer), **_values(answer)} for answer in answers]
    if body.one_line:
        for output, answer in zip(outputs, answers, strict=True):
            output["one_line"] = _one_line(answer)
    return json_response(outputs, answers)


async def _is_batch_of_texts(
    texts: Sequence[str], service: Service, caller: Caller, adapter: str | None
) -> bool:
    """Whether a flat list is a text for each row, and not the texts of one row.

    Raises:
        DataError: The adapter reads several texts a row, and other numbers than these.
    """
    loaded = await service.adapter(caller, adapter)
    inputs = plain_inputs() if loaded is None else loaded.inputs
    if len(inputs.required) == 1 and not inputs.optional:
        return True
    if not len(inputs.required) <= len(texts) <= len(inputs.required) + len(inputs.optional):
        roles = " and ".join(inputs.required)
        more = "".join(f", and perhaps {role}" for role in inputs.optional)
        raise DataError(
            f"inputs: got {len(texts)} texts, expected {roles}{more}; "
            'a batch is a list of lists: [["a"], ["b"]]'
        )
    return False


@router.get("/v1/models", tags=["models"], response_model=ModelList)
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
    first = [_base_model(service)] if not after and search.casefold() in BASE else []
    rows = [_model(model) for model in models]
    more = len(models) == limit
    return JSONResponse({"object": "list", "data": [*first, *rows], "has_more": more})


@router.get(
    "/v1/models/{name:adapter}",
    tags=["models"],
    response_model=AdapterDetails | BackboneDescription,
)
async def model(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Describe one adapter: task and its settings, labels, scores, versions and aliases; or
    `base`, the plain backbone."""
    if name == BASE:
        return JSONResponse(_base_model(service))
    version = await service.find(caller, name)
    description = await service.in_thread(service.describe, version)
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


@router.get("/v1/activity", tags=["server"], response_model=ActivityReport)
async def activity(service: ServiceDep, caller: CallerDep) -> Response:
    """Report the work of the server since its start, its queue and its present latency.

    All values are sums over all callers: seconds since the start; answered requests, rows, tokens
    and batches; the median seconds of the requests of the last ten seconds; waiting rows and
    tokens; adapters in memory and their bytes. Replicas of one service are summed; the latency is
    that of the slowest.
    """
    reports = await service.group.reports()
    if reports:
        return JSONResponse(merged_activity(one.activity for one in reports.values()))
    return JSONResponse(activity_of(service))


@router.get("/info", tags=["server"], response_model=Info)
async def info(service: ServiceDep) -> Response:
    """Report the backbones and the limits of the server.

    `model_id`, `model_sha`, `model_dtype` and `max_input_length` are those of the first backbone.
    """
    limits = service.limits
    backbones = [_backbone_facts(backbone) for backbone in service.backbones]
    return JSONResponse(
        {
            "model_id": backbones[0]["name"],
            "model_sha": backbones[0]["fingerprint"],
            "model_dtype": backbones[0]["dtype"],
            "model_type": {"adapters": {}},
            "max_input_length": backbones[0]["max_input_length"],
            "backbones": backbones,
            "max_batch_tokens": service.engine.max_batch_tokens,
            "max_client_batch_size": limits.rows,
            "max_body_bytes": limits.body_bytes,
            "max_row_characters": limits.row_characters,
            "version": __version__,
        }
    )


@router.get("/health", tags=["server"], response_model=Status)
async def health() -> Response:
    """Report that the process is alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", tags=["server"], response_model=Status)
async def ready(service: ServiceDep) -> Response:
    """Report whether the server accepts requests; 503 while it shuts down."""
    if service.engine.closing:
        raise UnavailableError("the server is closing")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: ServiceDep, caller: Annotated[Caller, Depends(admin)]) -> Response:
    """Report queue, batches, latencies, rows by adapter, loads and evictions to Prometheus.

    Rows are reported of the adapters that the key may use. Of several replicas, each sample has the
    label `replica`.
    """
    if service.group.name:
        reports = await service.group.reports()
        packed = {name: one.metrics for name, one in reports.items() if one.metrics is not None}
        text = await service.in_thread(merged_text, packed, caller.may_use)
    else:
        text = service.metrics.text(caller.may_use)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _row(inputs: Any) -> Text:
    """One row in the form that tasks read: a list of one text becomes that text."""
    text: Text = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    return text


def json_response(content: Any, answers: Sequence[RowAnswer]) -> Response:
    """A response with the number of truncated texts in a header, because the formats of TEI have no
    field for it.

    Args:
        content: What is sent, or its bytes.
        answers: The answers to all texts.
    """
    n_truncated = sum("truncated" in answer.values for answer in answers)
    headers = {"x-truncated": str(n_truncated)} if n_truncated else None
    if isinstance(content, bytes):
        return Response(content, media_type="application/json", headers=headers)
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


def _pipeline_output(answer: RowAnswer, options: PredictBody) -> Any:
    """An answer in the format of Hugging Face pipelines.

    Raises:
        DataError: The adapter has no answers of the kind that an option is for.
    """
    values = {key: value for key, value in _values(answer).items() if key != "truncated"}
    task = None if answer.loaded is None else answer.loaded.adapter.task
    output: Any = values if task is None else task.to_hf_pipeline(values)
    function = None if task is None else task.score_function
    if options.function_to_apply not in (None, function):
        raise DataError(
            f"function_to_apply: {options.function_to_apply!r}, but the scores of this adapter are "
            + (f"those of {function}" if function else "no probabilities of labels")
        )
    if options.top_k is not None and "scores" in values:
        output = output[: options.top_k]
    elif options.top_k not in (None, 1):
        raise DataError(f"top_k: {options.top_k}, but this adapter gives one answer for a text")
    if options.ignore_labels is not None:
        if "entities" not in values:
            raise DataError("ignore_labels: this adapter does not answer with entities")
        output = [one for one in output if one["entity_group"] not in options.ignore_labels]
    return output


def _backbone_facts(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "max_input_length": backbone.geometry.positions,
        "bytes": backbone.n_bytes,
    }


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
