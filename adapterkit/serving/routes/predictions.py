"""Routes for predictions, in the formats of TEI and of Hugging Face pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from ...errors import DataError
from ...inference.pipeline import summarize
from ...names import BASE
from ...tasks.types import Answer, Text
from ..adapter_descriptions import plain_inputs
from ..bodies.adapter_choice import NamedAdapter, chosen_adapter
from ..bodies.responses import PredictResponse
from ..bodies.schemas import PredictBody
from ..http.strict_json import StrictJsonRoute
from ..keys.api_keys import Caller
from ..middleware.auth import CallerDep, ServiceDep
from ..service import RowAnswer, Service
from .adapter_routes import adapter_route

router = APIRouter(tags=["answers"], route_class=StrictJsonRoute)
"""The routes that `FastPath` calls directly."""


@adapter_route(
    router,
    "/predict",
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
