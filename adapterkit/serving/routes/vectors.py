"""Routes for vectors and similarities, in the formats of TEI and OpenAI."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from struct import pack
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic_core import to_json

from ...adapter.adapter import Adapter
from ...errors import DataError, TooLargeError
from ...names import BASE
from ...tasks.types import Example
from ..bodies.adapter_choice import NamedAdapter, chosen_adapter
from ..bodies.responses import EmbeddingsResponse, Rank, Vector
from ..bodies.schemas import (
    EmbedAllBody,
    EmbedBody,
    EmbeddingsBody,
    OpenAIErrorBody,
    RerankBody,
    SimilarityBody,
)
from ..engine.pending_row import Output
from ..http.errors import ERROR_TYPES
from ..http.strict_json import StrictJsonRoute
from ..middleware.auth import CallerDep, ServiceDep
from ..service import RowAnswer
from .adapter_routes import adapter_route
from .predictions import json_response

MAX_NUMBERS = 1_000_000
"""Most numbers of an answer with the vectors of all tokens, 20 MB as JSON."""

OPENAI_PATH = "/v1/embeddings"
"""The end of the paths in OpenAI's format."""

OPENAI_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": ERROR_TYPES[status]}
    for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503)
}
"""`responses` of the routes in OpenAI's format."""

router = APIRouter(tags=["answers"], route_class=StrictJsonRoute)
"""Routes that `FastPath` calls directly, as those of `predictions.router`."""


@adapter_route(router, "/embed", response_model=list[Vector])
async def embed(
    body: EmbedBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Embed each text with the plain backbone or with an embedding adapter."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    adapter = chosen_adapter(body, named)
    answers = await service.answer(caller, [(adapter, text) for text in texts], body.truncate)
    vectors = [_vector(answer) for answer in answers]
    _check_dimensions(vectors[0], body.dimensions)
    return json_response([_unit(v) for v in vectors] if body.normalize else vectors, answers)


@adapter_route(router, "/embed_all", response_model=list[list[Vector]])
async def embed_all(
    body: EmbedAllBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Embed each token of each text, special tokens included, in the format of TEI: the states of
    the last layer, without pooling and projection."""

    def check(adapters: Sequence[Adapter | None], examples: Sequence[Example]) -> None:
        for adapter, example in zip(adapters, examples, strict=True):
            _check_one_sequence(adapter, example)
        n_tokens = sum(len(example.inputs[0]) for example in examples)
        width = service.backbones.for_adapter(adapters[0]).geometry.hidden
        if n_tokens * width > MAX_NUMBERS:
            raise TooLargeError(
                f"the texts have {n_tokens} tokens, at most {MAX_NUMBERS // width} are accepted "
                "here; send fewer or shorter texts in a request"
            )

    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    rows = [(chosen_adapter(body, named), text) for text in texts]
    answers = await service.answer(caller, rows, body.truncate, Output.TOKEN_VECTORS, check)
    vectors = [answer.values["vectors"] for answer in answers]
    content = await service.in_thread(lambda: to_json([one.tolist() for one in vectors]))
    return json_response(content, answers)


@adapter_route(
    router,
    OPENAI_PATH,
    response_model=EmbeddingsResponse,
    responses=OPENAI_ERRORS,
)
async def openai_embeddings(
    body: EmbeddingsBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Embed each text, in the format of OpenAI: vectors of length 1.

    `model` names the adapter, or is `base` for the plain backbone.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    adapter = chosen_adapter(body, named)
    answers = await service.answer(caller, [(adapter, text) for text in texts])
    vectors = [_unit(_vector(answer)) for answer in answers]
    _check_dimensions(vectors[0], body.dimensions)
    n_tokens = sum(answer.n_tokens for answer in answers)
    content = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if body.encoding_format == "base64" else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": adapter or BASE,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return json_response(content, answers)


@adapter_route(router, "/similarity", response_model=list[float])
async def similarity(
    body: SimilarityBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Compute the cosine similarity of one sentence to each of the others."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    adapter = chosen_adapter(body, named)
    answers = await service.answer(caller, [(adapter, text) for text in texts], body.truncate)
    return json_response(_cosines(answers), answers)


@adapter_route(router, "/rerank", response_model=list[Rank])
async def rerank(
    body: RerankBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Sort texts by the cosine similarity of their vectors to that of a query, in the format of
    TEI."""
    adapter = chosen_adapter(body, named)
    rows = [(adapter, text) for text in (body.query, *body.texts)]
    answers = await service.answer(caller, rows, body.truncate)
    ranks = [{"index": index, "score": score} for index, score in enumerate(_cosines(answers))]
    if body.return_text:
        ranks = [{**rank, "text": text} for rank, text in zip(ranks, body.texts, strict=True)]
    return json_response(sorted(ranks, key=lambda rank: -rank["score"]), answers)


def _check_one_sequence(adapter: Adapter | None, example: Example) -> None:
    """Checks that the tokens of a text can be embedded.

    Raises:
        DataError: The adapter gives no vectors, or reads the text in windows, which overlap.
    """
    if adapter is None:
        return
    if "vector" not in adapter.task.tensor_keys:
        raise _no_vectors(adapter.name)
    if len(example.inputs) > 1:
        raise DataError(
            f"'{adapter.name}' reads long texts in windows, which overlap, so their tokens have no "
            "single vectors; send shorter texts"
        )


def _no_vectors(name: str) -> DataError:
    return DataError(f"'{name}' gives no vectors; use an embedding adapter or the backbone")


def _cosines(answers: Sequence[RowAnswer]) -> list[float]:
    """Cosine of the first vector to each of the others."""
    first, *others = (_unit(_vector(answer)) for answer in answers)
    return [sum(a * b for a, b in zip(first, vector, strict=True)) for vector in others]


def _vector(answer: RowAnswer) -> list[float]:
    if "vector" not in answer.values:
        name = answer.loaded.version.name if answer.loaded else BASE
        raise _no_vectors(name)
    vector: list[float] = answer.values["vector"]
    return vector


def _unit(vector: Vector) -> list[float]:
    """The vector scaled to length 1."""
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]


def _base64(vector: Vector) -> str:
    """The vector as little-endian float32 in base64."""
    return b64encode(pack(f"<{len(vector)}f", *vector)).decode()


def _check_dimensions(vector: Vector, dimensions: int | None) -> None:
    if dimensions not in (None, len(vector)):
        raise DataError(f"dimensions: {dimensions}, but the vectors here have {len(vector)}")
