"""The engine alone, in this process: what a server would answer if HTTP and queueing were free."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..adapter.folder import load_adapter
from ..adapter.store import Store
from ..backbone.families import Quantization
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..inference.predictor import Predictor
from ..names import BASE
from .traffic import Draw, Traffic

if TYPE_CHECKING:
    from ..tasks.types import Text

CALL = 1000
"""Rows of one call."""


def engine_of(
    info: Mapping[str, Any], store: str, adapters: Sequence[str], quantization: Quantization
) -> Predictor:
    """A predictor with a server's backbone, adapters and batch size.

    Args:
        info: What the server says of itself.
        store: The store it serves.
        adapters: The adapters that are asked.
        quantization: As the server was started with; it does not tell.

    Raises:
        AdapterkitError: Backbone or adapters are not here, or the backbone is another.
    """
    backbone = Backbone.load(info["model_id"], dtype=info["model_dtype"], quantization=quantization)
    if backbone.fingerprint != info["model_sha"]:
        raise AdapterkitError(
            f"{info['model_id']} has other weights here than the server says; "
            "--engine needs the server's own files"
        )
    predictor, shelf = Predictor(backbone, max_tokens=info["max_batch_tokens"]), Store(store)
    for name in adapters:
        if name != BASE:
            adapter = load_adapter(shelf.path(name), backbone)
            predictor.add(replace(adapter, name=name))
    return predictor


def offline_rate(predictor: Predictor, traffic: Traffic, seconds: float) -> float:
    """Rows a second that a predictor answers of the same rows in the same order.

    Args:
        predictor: The predictor.
        traffic: What is asked.
        seconds: For how long; a call under way is waited for.
    """
    draws = iter(traffic)
    predictor(_rows([next(draws)]))  # warms up
    answered, spent, began = 0, 0.0, time.perf_counter()
    with tqdm(desc="engine", unit="row", disable=None) as bar:
        while spent < seconds:
            rows = _rows([next(draws) for _ in range(math.ceil(CALL / traffic.rows))])
            predictor(rows)
            answered += len(rows)
            spent = time.perf_counter() - began
            bar.update(len(rows))
    return answered / spent


def _rows(draws: Sequence[Draw]) -> list[tuple[str | None, Text]]:
    return [(draw.adapter, text) for draw in draws for text in draw.texts]
