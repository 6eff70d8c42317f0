"""Splinter (Ram et al. 2021), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..sequence_head import SequenceHead
from .bert import Bert


class Splinter(Bert):
    """BERT's layers, pre-trained for question answering; there is no pooler."""

    type: ClassVar[str] = "splinter"
    model_types: ClassVar[tuple[str, ...]] = ("splinter",)
    prefix: ClassVar[str] = "splinter"
    takes_past_keys: ClassVar[bool] = False
    pooler_path: ClassVar[str | None] = None
    sequence_head: ClassVar[SequenceHead | None] = None
    lm_head: ClassVar[Mapping[str, str]] = {}
