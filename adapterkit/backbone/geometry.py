"""Where an adapter may act in a backbone, under canonical names, and how wide it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .sequence_head import SequenceHead

LINEAR_SITES = ("query", "key", "value", "attention_output", "ffn_up", "ffn_down")
"""The six linears of a layer: an edit reads the linear's input and adds to its output."""

OPTIONAL_SITES = ("qkv", "ffn_gate")
"""Linears that some families have besides: query, key and value as one, which is how PEFT edits a
linear that computes all three, and the gate of a feed-forward block if it is a linear of its own
beside `ffn_up`."""

INPUT_SITES = {"attention_output_input": "attention_output", "ffn_down_input": "ffn_down"}
"""Sites that are the input of a linear, to the linear: what attention has mixed, and what follows
the activation of the feed-forward block. An edit reads it and changes it."""

NORM_SITES = ("attention_layer_norm", "ffn_layer_norm")
"""The layer norms of the attention block and of the feed-forward block: an edit reads what is
normed, before the norm's own weights, and adds to the norm's output."""

ENTRY = "entry"
"""The site of the states that enter a layer."""

HIDDEN_SITES = (ENTRY, "after_attention", "after_ffn", "ffn_norm", "ffn_residual")
"""Sites in the residual stream, all as wide as the hidden state.

`entry`
    The states that enter the layer: an edit reads them and adds to them.
`after_attention`, `after_ffn`
    The output of the attention block or feed-forward block before its residual sum: an edit reads
    it and adds to it.
`ffn_norm`
    The input of the norm that ends a layer: an edit reads the normed input and adds to the input.
    A layer with its norms before the blocks (pre-norm) ends with a residual sum: an edit reads the
    sum and adds to it.
`ffn_residual`
    The feed-forward block's own input on its way to the residual sum, in a pre-norm layer before
    its norm: an edit reads it and adds to it, which places the edit in parallel to the feed-forward
    block.
"""


@dataclass(frozen=True)
class Site:
    """A linear of a layer, or the part of a linear that computes one of several outputs.

    Attributes:
        path: Path of the linear's module inside a layer.
        columns: First and past-the-last column of the linear's output that belong to the site;
            None for all of them. A fused linear that computes query, key and value has three sites
            of one path.
        peft_target: How PEFT's `target_modules` names the linear; its path if omitted.
        width: Width of its output, if it is another than usual, as that of `ffn_up` is in a gated
            feed-forward block.
    """

    path: str
    columns: tuple[int, int] | None = None
    peft_target: str | None = None
    width: int | None = None

    def peft_path(self, name: str) -> str:
        """Path of the site inside a layer in the names of a PEFT weights file.

        PEFT knows no part of a linear. The site's name at the end keeps the parts apart, and PEFT
        refuses such a file, since no module has that path.

        Args:
            name: Canonical name of the site.
        """
        return self.path if self.columns is None else f"{self.path}.{name}"

    def peft_name(self, name: str) -> str:
        """The site in PEFT's `target_modules`.

        Args:
            name: Canonical name of the site.
        """
        return self.peft_target or self.peft_path(name)


@dataclass(frozen=True)
class Geometry:
    """The measures of one backbone: everything that names and shapes of adapter tensors depend on.

    Attributes:
        prefix: Name of the backbone inside transformers' task models, without a dot.
        layers_path: Path of the list of layers inside the backbone.
        sites: Canonical name of each linear site to its place in a layer.
        layers: Number of layers, L.
        hidden: Width of the hidden state, h.
        intermediate: Width inside the feed-forward block.
        heads: Number of attention heads.
        key_value_heads: Number of heads of keys and values, each of which serves as many heads of
            queries (grouped-query attention, Ainslie et al. 2023); `heads` if omitted.
        positions: The most tokens a text may have, special tokens included.
        first_position: Position id of a text's first token if no prefix stands before it.
        window: Greatest distance of the tokens that local layers attend to; None if all layers
            are global.
        shared_layers: Whether layers share weights; PEFT has one adapter for all of them then.
        norms: Canonical name of each layer norm to its path in a layer.
        entry_norm: Path inside the backbone of the layer norm whose output enters the first layer;
            None if there is none, or if more follows it.
        takes_past_keys: Whether its model in transformers takes keys and values that stand before
            those of a text, as PEFT's prefixes do.
        sequence_head: The head of its sequence classifiers in transformers, if it is known.

    Raises:
        ValueError: A measure is not a positive integer.
    """

    prefix: str
    layers_path: str
    sites: Mapping[str, Site]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    positions: int
    key_value_heads: int | None = None
    first_position: int = 0
    window: int | None = None
    shared_layers: bool = False
    norms: Mapping[str, str] = field(default_factory=dict)
    entry_norm: str | None = None
    takes_past_keys: bool = False
    sequence_head: SequenceHead | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "positions"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r:.80}")
        if self.window is not None and (type(self.window) is not int or self.window < 0):
            raise ValueError(f"window: expected 0 or more tokens, got {self.window!r:.80}")

    @property
    def key_value_width(self) -> int:
        """Width of the keys, and of the values, of a token."""
        heads = self.heads if self.key_value_heads is None else self.key_value_heads
        return self.hidden // self.heads * heads

    def check_linears(self, targets: Sequence[str]) -> None:
        """Refuses targets of an adapter that are no linears of the backbone.

        Raises:
            ValueError: There is one.
        """
        missing = [site for site in targets if site not in self.sites]
        if missing:
            raise ValueError(
                f"targets: the backbone has no linear '{missing[0]}', only {', '.join(self.sites)}"
            )

    def check_norms(self, targets: Sequence[str]) -> None:
        """Refuses targets of an adapter that are layer norms which the backbone does not name.

        Raises:
            ValueError: There is one.
        """
        for site in targets:
            if site in NORM_SITES and site not in self.norms:
                raise ValueError(f"targets: the backbone names no layer norm '{site}'")

    def width_in(self, site: str) -> int:
        """Width of what an edit at the site reads."""
        return self.intermediate if INPUT_SITES.get(site, site) == "ffn_down" else self.hidden

    def width_out(self, site: str) -> int:
        """Width of what an edit at the site adds to."""
        if site in INPUT_SITES:
            return self.width_in(site)
        linear = self.sites.get(site)
        if linear is not None and linear.columns is not None:
            first, end = linear.columns
            return end - first
        if linear is not None and linear.width is not None:
            return linear.width
        if site in ("key", "value"):
            return self.key_value_width
        return self.intermediate if site in ("ffn_up", "ffn_gate") else self.hidden

    def peft_path(self, layer: int, site: str) -> str:
        """Path of a linear site inside the backbone, as a PEFT weights file names it."""
        return f"{self.layers_path}.{layer}.{self.sites[site].peft_path(site)}"
