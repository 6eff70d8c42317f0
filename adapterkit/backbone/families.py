"""Where an adapter may act in a backbone, under canonical names, and how wide it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import BackboneError, did_you_mean

LINEAR_SITES = ("query", "key", "value", "attention_output", "ffn_up", "ffn_down")
"""The six linears of a layer: an edit reads the linear's input and adds to its output."""

HIDDEN_SITES = ("after_attention", "after_ffn", "ffn_norm", "ffn_residual")
"""Places in the residual stream, all as wide as the hidden state.

`after_attention`, `after_ffn`
    The output of the attention block or feed-forward block before its residual sum: an edit reads
    it and adds to it.
`ffn_norm`
    The sum that enters the layer's last norm: an edit reads the normed sum and adds to the sum.
`ffn_residual`
    The feed-forward block's own input on its way to the residual sum: an edit reads it and adds
    to it, which places the edit in parallel to the feed-forward block.
"""


Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "8bit", "4bit"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Family:
    """Module paths of one family of models whose layers are BERT's.

    Attributes:
        prefix: Name of the backbone inside transformers' task models (`bert.encoder...`).
        layers: Path of the list of layers inside the backbone.
        linears: Canonical site to path inside a layer.
        activation: Path, inside a layer, of what follows the linear `ffn_up`.
        block: Path, inside a layer, of the module that sums feed-forward and residual.
        norm: Path, inside a layer, of the layer's last norm.
        offset: First position id is the padding id plus this (0: positions start at 0).
    """

    prefix: str
    layers: str = "encoder.layer"
    linears: Mapping[str, str] = field(
        default_factory=lambda: {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "attention_output": "attention.output.dense",
            "ffn_up": "intermediate.dense",
            "ffn_down": "output.dense",
        }
    )
    activation: str = "intermediate.intermediate_act_fn"
    block: str = "output"
    norm: str = "output.LayerNorm"
    offset: int = 0


FAMILIES = {
    "bert": Family(prefix="bert"),
    "roberta": Family(prefix="roberta", offset=1),
    "xlm-roberta": Family(prefix="roberta", offset=1),
    "camembert": Family(prefix="roberta", offset=1),
    "electra": Family(prefix="electra"),
}


def family(model_type: str) -> Family:
    """The family of a transformers `model_type`.

    Raises:
        BackboneError: The model type has no row in the table.
    """
    if model_type not in FAMILIES:
        hint = did_you_mean(model_type, FAMILIES)
        raise BackboneError(f"backbones of type '{model_type}' are not supported: {hint}")
    return FAMILIES[model_type]


@dataclass(frozen=True)
class Geometry:
    """The measures of one backbone: all that shapes of adapter tensors depend on.

    Attributes:
        family: Module paths.
        layers: Number of layers, L.
        hidden: Width of the hidden state, h.
        intermediate: Width inside the feed-forward block.
        heads: Number of attention heads.
        positions: Most tokens a text may have, special tokens included.
        first_position: Position id of a text's first token when no prefix stands before it.
    """

    family: Family
    layers: int
    hidden: int
    intermediate: int
    heads: int
    positions: int
    first_position: int = 0

    def width_in(self, site: str) -> int:
        """Width of what an edit at the site reads."""
        return self.intermediate if site == "ffn_down" else self.hidden

    def width_out(self, site: str) -> int:
        """Width of what an edit at the site adds to."""
        return self.intermediate if site == "ffn_up" else self.hidden

    def path(self, layer: int, site: str) -> str:
        """Path of a linear site inside the backbone: `encoder.layer.3.attention.self.query`."""
        return f"{self.family.layers}.{layer}.{self.family.linears[site]}"
