"""ELECTRA (Clark et al. 2020), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..sequence_head import SequenceHead
from .bert import Bert


class Electra(Bert):
    """BERT's layers over embeddings that may be narrower than the states; there is no pooler."""

    type: ClassVar[str] = "electra"
    model_types: ClassVar[tuple[str, ...]] = ("electra",)
    prefix: ClassVar[str] = "electra"
    pooler_path: ClassVar[str | None] = None
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        linear="classifier.out_proj", dense="classifier.dense", activation="gelu"
    )
    lm_head: ClassVar[Mapping[str, str]] = {}

    def entry_norm(self, config: Any) -> str | None:
        is_narrow = config.embedding_size != config.hidden_size
        return None if is_narrow else super().entry_norm(config)

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        states = super().embed(model, input_ids, position_ids, token_type_ids, inputs_embeds)
        if hasattr(model, "embeddings_project"):  # only if the two widths differ
            states = model.embeddings_project(states)
        return states
