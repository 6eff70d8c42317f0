"""Routes for the tokens of texts, in the format of TEI: from texts to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json

from ...backbone.model import Backbone
from ...backbone.tokenizer import Token
from ...errors import DataError, TooLargeError
from ..bodies.adapter_choice import NamedAdapter, chosen_adapter
from ..bodies.responses import TokenItem
from ..bodies.schemas import DecodeBody, TokenizeBody
from ..engine.tokenizing import estimate_tokens
from ..http.strict_json import StrictJsonRoute
from ..middleware.auth import CallerDep, ServiceDep
from ..service import share_of
from .adapter_routes import adapter_route

MAX_CHARACTERS = 100_000
"""Most characters of all texts of a request. A token takes many times the bytes of its text, as an
object and as JSON."""

MAX_IDS = 100_000
"""Most token ids of a request."""

router = APIRouter(tags=["answers"], route_class=StrictJsonRoute)
"""Routes that `FastPath` calls directly, as those of `predictions.router`."""


@adapter_route(router, "/tokenize", response_model=list[list[TokenItem]])
async def tokenize(
    body: TokenizeBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """List the tokens of each text, as the backbone or that of an adapter reads it.

    Texts are not truncated. Positions count characters.
    """
    texts: list[str] = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    reference = chosen_adapter(body, named)
    await service.admit(caller, [(reference, text) for text in texts])
    n_characters = sum(map(len, texts))
    if n_characters > MAX_CHARACTERS:
        raise TooLargeError(
            f"the texts have {n_characters} characters, at most {MAX_CHARACTERS} are accepted "
            "here; send fewer or shorter texts in a request"
        )
    reader = service.backbones.for_adapter(await service.adapter(caller, reference)).reader
    estimates = [estimate_tokens(len(text)) for text in texts]
    await service.quotas.take(caller.tenant, "tokens", sum(estimates))
    calls = [partial(reader.split, text, special_tokens=body.add_special_tokens) for text in texts]
    found = await service.engine.call_tokenizers(
        share_of(caller, reference), calls, estimates, service.limits.timeout
    )
    service.quotas.correct(caller.tenant, "tokens", sum(map(len, found)) - sum(estimates))
    content = await service.in_thread(_tokens_json, found)
    return Response(content, media_type="application/json")


@adapter_route(router, "/decode", response_model=list[str])
async def decode(
    body: DecodeBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Give the text of each list of token ids of the backbone, or of that of an adapter."""
    ids: list[list[int]] = body.ids
    reference = chosen_adapter(body, named)
    sizes = list(map(len, ids))
    if sum(sizes) > MAX_IDS:
        raise TooLargeError(
            f"the request has {sum(sizes)} token ids, at most {MAX_IDS} are accepted; send fewer"
        )
    await service.admit(caller, [(reference, f"{size} token ids") for size in sizes])
    backbone = service.backbones.for_adapter(await service.adapter(caller, reference))
    _check_vocabulary(ids, backbone)
    await service.quotas.take(caller.tenant, "tokens", sum(sizes))
    skip = body.skip_special_tokens
    calls = [partial(backbone.reader.decode, one, skip_special_tokens=skip) for one in ids]
    texts = await service.engine.call_tokenizers(
        share_of(caller, reference), calls, sizes, service.limits.timeout
    )
    return JSONResponse(texts)


def _tokens_json(texts: Sequence[Sequence[Token]]) -> bytes:
    return to_json([[token._asdict() for token in tokens] for tokens in texts])


def _check_vocabulary(ids: Sequence[Sequence[int]], backbone: Backbone) -> None:
    """Raises `DataError` if a token id is none of a backbone's."""
    n_tokens = backbone.reader.n_tokens
    for number, one in enumerate(ids, 1):
        if max(one) >= n_tokens:
            raise DataError(
                f"ids: list {number} has {max(one)}, but the tokenizer of '{backbone.name}' has "
                f"the ids 0 to {n_tokens - 1}"
            )
