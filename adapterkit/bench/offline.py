"""The engine alone, in this process: the rate of a server if HTTP and queueing cost nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..adapter.folder import load_adapter
from ..adapter.store import Store
from ..backbone.load_options import Quantization
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..inference.predictor import Predictor
from ..names import BASE
from .traffic import LoadRequest, Traffic

if TYPE_CHECKING:
    from ..tasks.types import Text

CALL = 1000
"""Rows of one call of the predictor."""


def load_engine(
    info: Mapping[str, Any], store: str, adapters: Sequence[str], quantization: Quantization
) -> Predictor:
    """A predictor with a server's backbone, adapters and batch size.

    Args:
        info: The server's description of itself.
        store: The store that it serves.
        adapters: Names of the adapters that are asked.
        quantization: The server's quantization, which its description does not contain.

    Raises:
        AdapterkitError: The backbone or an adapter is missing here, or the backbone differs.
    """
    backbone = Backbone.load(info["model_id"], dtype=info["model_dtype"], quantization=quantization)
    if backbone.fingerprint != info["model_sha"]:
        raise AdapterkitError(
            f"{info['model_id']} has other weights here than on the server; "
            "--engine needs the server's own files"
        )
    predictor, served = Predictor(backbone, max_tokens=info["max_batch_tokens"]), Store(store)
    for name in adapters:
        if name != BASE:
            adapter = load_adapter(served.path(name), backbone)
            predictor.add(replace(adapter, name=name))
    return predictor


def offline_rate(predictor: Predictor, traffic: Traffic, seconds: float) -> float:
    """Rows a second that a predictor answers, of the same rows in the same order.

    Args:
        predictor: The predictor.
        traffic: The requests.
        seconds: Duration; the last call is completed.
    """
    requests = iter(traffic)
    predictor(_rows([next(requests)]))  # warms up
    answered, spent, began = 0, 0.0, time.perf_counter()
    with tqdm(desc="engine", unit="row", disable=None) as bar:
        while spent < seconds:
            rows = _rows([next(requests) for _ in range(math.ceil(CALL / traffic.rows))])
            predictor(rows)
            answered += len(rows)
            spent = time.perf_counter() - began
            bar.update(len(rows))
    return answered / spent


def _rows(requests: Sequence[LoadRequest]) -> list[tuple[str | None, Text]]:
    return [(request.adapter, text) for request in requests for text in request.texts]
