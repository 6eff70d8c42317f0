"""What a family of models declares about itself, so that any adapter can act in it.

A new family is one new file in this package, or in a package of your own that names it in the
entry-point group `adapterkit.families`, with one class that extends `Family`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...errors import BackboneError
from ...registry import discover
from ..attention_shape import AttentionShape
from ..geometry import Geometry
from ..sequence_head import SequenceHead
from ..stored_names import StoredNames

BUFFERS = ("position_ids", "token_type_ids")
"""Last parts of the names of tensors that old checkpoints hold beside the weights."""


def word_arguments(input_ids: Tensor, inputs_embeds: Tensor | None) -> dict[str, Tensor | None]:
    """Arguments of transformers' embeddings: token ids, or word embeddings in their place.

    Args:
        input_ids: As in `Family.embed`.
        inputs_embeds: As in `Family.embed`.
    """
    if inputs_embeds is None:
        return {"input_ids": input_ids[None], "inputs_embeds": None}
    return {"input_ids": None, "inputs_embeds": inputs_embeds[None]}


class Family(ABC):
    """One family of models whose layers have the sites of `geometry`.

    Layers are called one by one with the states of a packed batch, `[1, T, h]`, and `edits=...`,
    the `LayerEdits` of the layer, and return states of that shape. They hand `edits` on, as a
    keyword, to transformers' attention interface, or call its `attend`. Layers that transformers
    implements in another way are replaced by `prepare`.
    """

    type: ClassVar[str]
    """Name of the family."""

    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` of every transformers configuration that belongs to it."""

    prefix: ClassVar[str]
    """Name of the backbone inside transformers' task models, without a dot."""

    layers_path: ClassVar[str]
    """Path of the list of layers inside the backbone."""

    activation_path: ClassVar[str | None]
    """Path, inside a layer, of the activation module that alone follows the linear `ffn_up`; None
    if more follows it, as in a gated feed-forward block."""

    residual_path: ClassVar[str | None]
    """Path, inside a layer, of the module that is called with the inner states of the feed-forward
    block and its residual, and sums them; None if the layer itself sums the output of the block and
    the input of its linear `ffn_up`, and calls the module at `norm_path` with the sum."""

    norm_path: ClassVar[str | None]
    """Path, inside a layer, of the layer norm that ends it; None for a layer that ends with a
    residual sum (pre-norm)."""

    pooler_path: ClassVar[str | None] = None
    """Path of the pooler inside the backbone; None for a family without one."""

    takes_past_keys: ClassVar[bool] = False
    """Whether the model of transformers takes keys and values that stand before those of a text."""

    stored_names: ClassVar[StoredNames] = {}
    """What checkpoints call otherwise than the model: transformers writes the names of the files
    that a model was published with."""

    unused_weights: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that checkpoints may hold in vain, for models that have them or not."""

    uses_graphs: ClassVar[bool] = True
    """Whether a batch may become a CUDA graph. It may not if attention adds to the scores: then it
    is computed in groups of rows, which are others in every batch."""

    divisible: ClassVar[bool] = True
    """Whether the weights of layers may lie elsewhere (`device_map`). They may not if `prepare`
    computes with them."""

    sequence_head: ClassVar[SequenceHead | None] = None
    """The head of the family's sequence classifiers in transformers. None if it is another: PEFT
    adapters with a head are refused then."""

    lm_head: ClassVar[Mapping[str, str]] = {}
    """Modules of the head for masked language modelling in a checkpoint, to the names in
    `lm_head`; empty for a family without such a head."""

    pools_by_head: ClassVar[bool] = False
    """Whether task models pool by the dense layer, GELU and norm of the head for masked language
    modelling, instead of a pooler."""

    @abstractmethod
    def geometry(self, config: Any) -> Geometry:
        """The measures of one model.

        Args:
            config: Its transformers configuration.
        """

    def stored_layers(self, config: Any) -> int:
        """Number of layers with weights of their own: by default all.

        Args:
            config: The model's transformers configuration.
        """
        return self.geometry(config).layers

    def layers(self, model: Any) -> Sequence[nn.Module]:
        """The layers in the order in which they are computed: by default those at `layers_path`.

        Args:
            model: The backbone.

        Returns:
            As many modules as the geometry has layers. Layers with shared weights are one module
            several times.
        """
        return list(model.get_submodule(self.layers_path))

    @abstractmethod
    def uses_gelu(self, config: Any) -> bool:
        """Whether the activation module computes the exact GELU, not its tanh approximation."""

    @abstractmethod
    def norm_eps(self, config: Any) -> float:
        """The epsilon of the layer norms."""

    def token_types(self, config: Any) -> int:
        """Number of token types (segments) that a text can have; by default `type_vocab_size`.

        Args:
            config: The model's transformers configuration.
        """
        return int(getattr(config, "type_vocab_size", 2))

    def settings(self, config: Any) -> Mapping[str, Any]:
        """What changes the answers of a model beside its weights, for the fingerprint.

        By default the number of heads, the first position, and activation and epsilon as far as
        the other methods say. A family with other settings, such as those of rotary positions,
        adds them.

        Args:
            config: The model's transformers configuration.

        Returns:
            Values that JSON has, by names that never change.
        """
        geometry = self.geometry(config)
        return {
            "family": self.type,
            "heads": geometry.heads,
            "first_position": geometry.first_position,
            "norm_eps": self.norm_eps(config),
            "gelu": self.uses_gelu(config),
        }

    def setting_faults(self, settings: Mapping[str, Any]) -> list[str]:
        """What a checkpoint asks for that is not computed here, each with its setting.

        Args:
            settings: The content of its `config.json`.
        """
        faults = []
        code = settings.get("auto_map")
        if isinstance(code, Mapping) and code.keys() & {"AutoModel", "AutoConfig"}:
            faults.append(
                f"auto_map: {code.get('AutoModel', code.get('AutoConfig'))!r:.80} is an "
                f"architecture of its own, not a {settings.get('model_type')} of transformers, and "
                "code of a checkpoint is never run"
            )
        if settings.get("is_decoder") or settings.get("add_cross_attention"):
            faults.append("is_decoder: only encoders are supported, whose tokens see all others")
        if settings.get("quantization_config"):
            faults.append("quantization_config: take the weights before they were quantised")
        return faults

    def prepare(self, model: Any) -> None:
        """Replaces parts of a loaded model, with the same weights under the same names.

        By default nothing: transformers' layers are called as they are.

        Args:
            model: The backbone.
        """
        return

    @abstractmethod
    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        """The states that enter the first layer.

        Args:
            model: The backbone.
            input_ids: Token ids of a packed batch, int64 `[T]`.
            position_ids: Its positions, int64 `[T]`.
            token_type_ids: Its token types, int64 `[T]`.
            inputs_embeds: Word embeddings instead of those of `input_ids`, `[T, e]`.

        Returns:
            `[T, h]`.
        """

    def layer_arguments(self, model: Any, position_ids: Tensor) -> Sequence[Mapping[str, Any]]:
        """Keyword arguments of each layer beside its states and `edits`; none by default.

        Args:
            model: The backbone.
            position_ids: Of the tokens that the layers compute, int64 `[T]`.

        Returns:
            As many mappings as layers.
        """
        return [{}] * len(self.layers(model))

    def attention_shapes(self, model: Any) -> Sequence[AttentionShape]:
        """What the attention of each layer multiplies: by default every token with all others.

        A family whose layers attend within a window or score positions overrides it.

        Args:
            model: The backbone.

        Returns:
            As many as layers.
        """
        geometry = self.geometry(model.config)
        return [AttentionShape(geometry.heads, geometry.hidden // geometry.heads)] * geometry.layers

    def finish(self, model: Any, states: Tensor) -> Tensor:
        """Hidden states from those that leave the last layer, both `[T, h]`; by default the same.

        A model of pre-norm layers ends with a norm.
        """
        return states

    def pool(self, model: Any, first: Tensor) -> Tensor:
        """The pooler's output, `[n, h]`, for the first token's state of each sequence, `[n, h]`.

        By default the pooler is called as transformers calls it, with the states of whole
        sequences, `[n, t, h]`, of which it reads the first.
        """
        pooled: Tensor = model.get_submodule(self.pooler_path)(first[:, None])
        return pooled

    def pooler_input(self, config: Any) -> Literal["cls", "mean"]:
        """What the pooler reads: the state of the first token, or the mean of all.

        Args:
            config: The model's transformers configuration.
        """
        return "cls"

    def is_backbone_weight(self, name: str) -> bool:
        """Whether a tensor of a checkpoint belongs to the fingerprint.

        By default every tensor does, except those of the pooler. A family that accepts fewer must
        still accept every weight of the model: `Backbone` refuses it otherwise, since two different
        models could then have one fingerprint.

        Args:
            name: The tensor's name inside the backbone, without `prefix`.
        """
        return not name.endswith(BUFFERS) and not self.is_pooler_weight(name)

    def is_pooler_weight(self, name: str) -> bool:
        """Whether a tensor belongs to the pooler, which is no part of the fingerprint.

        Args:
            name: The tensor's name inside the backbone, without `prefix`.
        """
        return self.pooler_path is not None and name.startswith(f"{self.pooler_path}.")


@cache
def families() -> dict[str, Family]:
    """Every family, by the `model_type` of its configurations.

    Raises:
        AdapterkitError: A plug-in is broken, or two families claim one model type.
    """
    found: dict[str, Family] = {}
    for kind in discover("adapterkit.backbone.families", Family).values():
        family: Family = kind()
        for model_type in family.model_types:
            if model_type in found:
                raise BackboneError(
                    f"the families '{found[model_type].type}' and '{family.type}' both claim the "
                    f"model type '{model_type}'; uninstall one"
                )
            found[model_type] = family
    return found


def family_of(model_type: Any) -> Family:
    """The family of a transformers `model_type`.

    Raises:
        BackboneError: No family claims the model type.
    """
    known = families()
    if not isinstance(model_type, str) or model_type not in known:
        raise BackboneError(
            f"backbones of type {model_type!r:.80} are not supported; supported types are: "
            f"{', '.join(sorted(known))}"
        )
    return known[model_type]
