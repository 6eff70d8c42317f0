"""ERNIE (Sun et al. 2019 and 2020), as transformers implements it."""

from __future__ import annotations

from typing import ClassVar

from .bert import Bert


class Ernie(Bert):
    """BERT's layers; a model with task types gives every text the first, as transformers does."""

    type: ClassVar[str] = "ernie"
    model_types: ClassVar[tuple[str, ...]] = ("ernie",)
    prefix: ClassVar[str] = "ernie"
