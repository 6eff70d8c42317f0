"""RoBERTa (Liu et al. 2019) and the models trained like it: XLM-R and CamemBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..lm_head import DECODER, DENSE, NORM
from ..sequence_head import SequenceHead
from .bert import Bert


class Roberta(Bert):
    """BERT's layers; positions are counted from the token after the padding token's id."""

    type: ClassVar[str] = "roberta"
    model_types: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta", "camembert")
    prefix: ClassVar[str] = "roberta"
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        linear="classifier.out_proj", dense="classifier.dense"
    )
    lm_head: ClassVar[Mapping[str, str]] = {
        "lm_head.dense": DENSE,
        "lm_head.layer_norm": NORM,
        "lm_head": DECODER,
        "lm_head.decoder": DECODER,
    }

    def first_position(self, config: Any) -> int:
        return int(config.pad_token_id) + 1
