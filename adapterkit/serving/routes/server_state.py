"""Routes for the state of the server: whether it is ready, what it has done, and its limits."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from ..._version import __version__
from ...backbone.model import Backbone
from ...errors import UnavailableError
from ..activity_report import activity_of, merged_activity
from ..bodies.responses import ActivityReport, Info, Status
from ..keys.api_keys import Caller
from ..metrics.merged_metrics import merged_text
from ..middleware.auth import CallerDep, ServiceDep, admin

router = APIRouter(tags=["server"])


@router.get("/v1/activity", response_model=ActivityReport)
async def activity(service: ServiceDep, caller: CallerDep) -> Response:
    """Report the work of the server since its start, its queue and its present latency.

    All values are sums over all callers: seconds since the start; answered requests, rows, tokens
    and batches; the median seconds of the requests of the last ten seconds; waiting rows and
    tokens; adapters in memory and their bytes. Replicas of one service are summed; the latency is
    that of the slowest.
    """
    reports = await service.group.reports(with_metrics=False)
    if reports:
        return JSONResponse(merged_activity(one.activity for one in reports.values()))
    return JSONResponse(activity_of(service))


@router.get("/info", response_model=Info)
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


@router.get("/health", response_model=Status)
async def health() -> Response:
    """Report that the process is alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", response_model=Status)
async def ready(service: ServiceDep) -> Response:
    """Report whether the server accepts requests; 503 while it shuts down."""
    if service.engine.closing:
        raise UnavailableError("the server is closing")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
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


def _backbone_facts(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "max_input_length": backbone.geometry.positions,
        "bytes": backbone.n_bytes,
    }
