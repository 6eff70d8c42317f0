"""data2vec for text (Baevski et al. 2022), as transformers implements it."""

from __future__ import annotations

from typing import ClassVar

from .roberta import Roberta


class Data2VecText(Roberta):
    """RoBERTa's layers, positions and head for masked language modelling."""

    type: ClassVar[str] = "data2vec-text"
    model_types: ClassVar[tuple[str, ...]] = ("data2vec-text",)
    prefix: ClassVar[str] = "data2vec_text"
