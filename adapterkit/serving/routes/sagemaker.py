"""Routes that Amazon SageMaker calls in a container: one to answer, one to see that it is alive.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. The body of an
invocation is that of the container; here it has the format of TEI, whose container answers as its
model does: with vectors, or with labels.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from ...errors import DataError
from ...names import BASE
from ..bodies.adapter_choice import ADAPTER_PARAMETERS, NamedAdapter, chosen_adapter
from ..bodies.responses import PredictResponse, Status, Vector
from ..bodies.schemas import EmbedBody, InvocationBody
from ..http.strict_json import StrictJsonRoute
from ..middleware.auth import CallerDep, ServiceDep
from .predictions import predict
from .server_state import ready
from .vectors import embed

router = APIRouter(tags=["server"])

invocation_router = APIRouter(tags=["answers"], route_class=StrictJsonRoute)
"""The route that `FastPath` calls directly, as those of `predictions.router`."""


@router.get("/ping", response_model=Status)
async def ping(service: ServiceDep) -> Response:
    """Report to Amazon SageMaker whether the server accepts requests, as `/ready` does."""
    return await ready(service)


@invocation_router.post(
    "/invocations",
    openapi_extra=ADAPTER_PARAMETERS,
    response_model=PredictResponse | list[Vector],
)
async def invocations(
    body: InvocationBody, service: ServiceDep, caller: CallerDep, named: NamedAdapter
) -> Response:
    """Answer as `/embed` does if the adapter gives vectors, as the plain backbone does, and as
    `/predict` does otherwise: the route that Amazon SageMaker calls."""
    reference = chosen_adapter(body, named)
    if body.requests is None:
        adapter = await service.adapter(caller, reference)
        if adapter is None or "vector" in adapter.task.tensor_keys:
            return await embed(_embed_body(body), service, caller, named)
    if body.normalize is not None:
        raise DataError(f"normalize: '{reference or BASE}' gives no vectors")
    return await predict(body, service, caller, named)


def _embed_body(body: InvocationBody) -> EmbedBody:
    """The body for `/embed`.

    Raises:
        RequestValidationError: It has keys or values that `/embed` does not know.
    """
    try:
        return EmbedBody.model_validate(
            body.model_dump(exclude_unset=True, exclude={"parameters"}, exclude_none=True)
        )
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(details) from None
