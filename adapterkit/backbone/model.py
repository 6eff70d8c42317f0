"""The frozen model: loaded once, given its hooks once, called with a packed batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BackboneError
from ..ops.attention import uses_flash_attention
from ..ops.dropout import Dropout
from ..ops.frozen_linear import fuse_gelu, prepack, use_int8
from .attention_shape import AttentionShape
from .checkpoint import Checkpoint, locate
from .checkpoint_heads import lm_head_of, pooler_of
from .cuda_graphs import GraphCache
from .edits import Edits
from .families.base import Family
from .fingerprint import fingerprint
from .frozen_weights import FrozenWeights
from .geometry import Geometry
from .hooks import EditHooks
from .load_options import Device, DeviceMap, Dtype, LoadOptions, Quantization
from .malloc import keep_freed_memory
from .packing import EncoderOutput, Packed, Pooling
from .pretrained import load_pretrained
from .recomputation import Recomputation
from .shards import Shards
from .tokenizer import TextEncoder


class Backbone:
    """A frozen encoder that computes packed batches; nothing about it changes after loading.

    Build one with `Backbone.load`. Any number of threads may call it at the same time.

    Attributes:
        name: The name it was loaded by.
        model: The transformers model, in evaluation mode and without gradients.
        fingerprint: sha256 of everything that answers depend on: the source weights, whatever dtype
            they are loaded in, the settings of the model, and the tokenizer.
        weights_fingerprint: sha256 of the source weights alone, which version 0.1.0 recorded.
        geometry: Its measures.
        tokenizer: The transformers tokenizer.
        reader: The same, for any number of threads.
        pooling: The pooling that suits it.
        lower_case: Whether its tokenizer lower-cases.
        declares_lower_case: Whether `tokenizer_config.json` says so, which version 0.1.0 recorded.
        quantization: How its linears are quantised.
        lm_head: Its word embeddings as a decoder; None if they are narrower than its states.
        graphs: Its CUDA graphs; None where it uses none.
        layers: Its layers in the order in which they are computed.
        frozen_weights: The weights of the layers, as adapter methods read them.
        shards: The weights of its layers, if they are divided among processes; else None.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        checkpoint: Checkpoint,
        quantization: Quantization = "none",
        shards: Shards | None = None,
    ) -> None:
        config: Any = model.config
        family = checkpoint.family
        _check_fingerprint(family, model)
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.reader = TextEncoder(tokenizer)
        self.weights_fingerprint = checkpoint.weights_fingerprint
        self.fingerprint = fingerprint(
            checkpoint.weights_fingerprint, family.settings(config), self.reader
        )
        self.geometry: Geometry = family.geometry(config)
        self.pooling: Pooling = checkpoint.pooling
        self.lower_case = self.reader.lower_case
        self.declares_lower_case = checkpoint.declares_lower_case
        self.quantization = quantization
        self.shards = shards
        self.lm_head = lm_head_of(family, model, self.geometry, checkpoint)
        self._family = family
        self.layers: Sequence[nn.Module] = family.layers(model)
        self.frozen_weights = FrozenWeights(self.layers, self.geometry)
        self._pool = pooler_of(family, model, self.geometry, checkpoint)
        self._hooks = EditHooks(model, family, self.geometry)
        width = self.geometry.hidden // self.geometry.heads
        whole = quantization == "none" and not self.has_stored_layers
        fits_graphs = family.uses_graphs and whole
        flash = uses_flash_attention(self.device, self.dtype, width)
        self.graphs = GraphCache(self.compute_states) if fits_graphs and flash else None

    def __repr__(self) -> str:
        size = f"{self.geometry.layers} layers of {self.geometry.hidden}"
        quantized = "" if self.quantization == "none" else f", quantised to {self.quantization}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Backbone({self.name!r}, {size}, {dtype} on {self.device}{quantized})"

    @classmethod
    def load(
        cls,
        model: str = "minilm",
        *,
        dtype: Dtype = "float32",
        quantization: Quantization = "none",
        device: Device = "auto",
        device_map: DeviceMap | None = None,
        revision: str | None = None,
        prepared: bool = True,
    ) -> Backbone:
        """Loads a checkpoint from safetensors, never from pickle.

        Args:
            model: `minilm` (embedded), a local folder or a hub name.
            dtype: Dtype of weights and hidden states.
            quantization: `8bit` or `4bit` keep the layers' linears quantised by bitsandbytes, for
                memory; they need dtype bfloat16 or float16, and float32 is then taken as bfloat16.
                `int8` computes them in 8 bits on a CPU, for speed; the weights stay as they are.
            device: `auto` is the GPU if there is one.
            device_map: For a backbone that is larger than the memory of its device: where the
                weights of each layer lie (`device_map`). Batches are computed on `device`.
            revision: Branch, tag or commit of a hub model.
            prepared: On a CPU, lay out the frozen linears for this processor if that is faster,
                and keep memory that one batch frees for the next (`malloc`).

        Raises:
            BackboneError: The checkpoint is missing, damaged or not supported.
        """
        options = LoadOptions(dtype, quantization, device, device_map)
        return cls.load_with(model, options, revision=revision, prepared=prepared)

    @classmethod
    def load_with(
        cls,
        model: str,
        options: LoadOptions,
        *,
        revision: str | None = None,
        prepared: bool = True,
    ) -> Backbone:
        """Loads a checkpoint as `load` does, with dtype, quantization and device as one value.

        Args:
            model: As in `load`.
            options: Dtype, quantization and device.
            revision: As in `load`.
            prepared: As in `load`.

        Raises:
            BackboneError: As in `load`.
        """
        device = _torch_device(options)
        checkpoint = Checkpoint.read(locate(model, revision))
        shards = Shards(device) if options.sharded else None
        network, tokenizer = load_pretrained(checkpoint, options, device, shards)
        backbone = cls(model, network, tokenizer, checkpoint, options.quantization, shards)
        if prepared and device == "cpu":
            keep_freed_memory()
        if options.quantization == "int8":
            use_int8(backbone.linears)
        elif prepared:
            prepack(backbone.linears)
            backbone.fuse_activations()
        return backbone

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of hidden states."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def has_pooler(self) -> bool:
        """Whether its checkpoint has what the pooling `pooler` computes with."""
        return self._pool is not None

    @property
    def has_stored_layers(self) -> bool:
        """Whether the weights of some layers lie elsewhere than on the device (`device_map`), or
        are divided among processes."""
        return any(parameter.is_meta for parameter in self.model.parameters())

    def settle(self) -> None:
        """Gathers the divided weights that other processes need, until none needs any.

        Every process calls it before any other exchange with them, since who waits in that would
        keep its part of the weights from the others.
        """
        if self.shards is not None:
            self.shards.settle()

    @property
    def computed_linears(self) -> list[nn.Module]:
        """The frozen linears of every layer, in the order in which they are computed; one that
        several layers share is there for each of them."""
        paths = dict.fromkeys(site.path for site in self.geometry.sites.values())
        return [layer.get_submodule(path) for layer in self.layers for path in paths]

    @property
    def linears(self) -> list[nn.Module]:
        """The same linears, each of them once."""
        return list(dict.fromkeys(self.computed_linears))

    @property
    def attention_shapes(self) -> Sequence[AttentionShape]:
        """What the attention of each layer multiplies."""
        return self._family.attention_shapes(self.model)

    @property
    def n_parameters(self) -> int:
        """Number of frozen weights (a packed 4-bit byte counts as two)."""
        return sum(
            p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in self.model.parameters()
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of its weights, without the copies that are laid out for this processor."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def __call__(
        self, packed: Packed, edits: Edits, entering: tuple[int, Tensor] | None = None
    ) -> EncoderOutput:
        """Hidden states of a packed batch.

        Args:
            packed: T tokens.
            edits: What the batch's adapters do.
            entering: A layer and the states that enter it, `[T, h]`, to begin there.
        """
        # No `torch.no_grad` here, though the weights need no gradient: it would also stop the
        # gradients of the edits. The caller decides (`torch.inference_mode` outside training).
        graphs = self.graphs if entering is None and packed.inputs_embeds is None else None
        if graphs is not None and edits.graph_inputs:
            tokens = graphs(packed, edits)
        else:
            first, states = entering or (0, self._embed(packed))
            states = self._through(states, packed.position_ids, edits, first, len(self.layers))
            tokens = self._family.finish(self.model, states)
        pooler_input = self._family.pooler_input(self.model.config)
        return EncoderOutput(tokens, packed, self._pool, self.lm_head, pooler_input)

    def entering(self, layer: int, packed: Packed, edits: Edits) -> Tensor:
        """Hidden states of a packed batch that enter a layer, `[T, h]`.

        Args:
            layer: The layer; the number of layers for the states that leave the last one.
            packed: T tokens.
            edits: What the batch's adapters do.
        """
        return self._through(self._embed(packed), packed.position_ids, edits, 0, layer)

    def word_embeddings(self, ids: Sequence[int]) -> Tensor:
        """Word embeddings of token ids, `[n, e]`, before positions and token types are added."""
        model: Any = self.model  # to mypy, a module's attributes may all be tensors
        embeddings: Tensor = model.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return embeddings

    def recomputation(self, dropout: Dropout | None) -> Recomputation:
        """How layers are computed again in the backward pass of a batch.

        Args:
            dropout: Draws the masks of the batch's adapters.
        """
        generators = [] if dropout is None else dropout.generators
        if self.model.training:  # trained as a whole, it draws dropout of its own
            on_gpu = self.device.type == "cuda"
            default = torch.cuda.default_generators[self.device.index or 0] if on_gpu else None
            generators.append(default or torch.default_generator)
        return Recomputation(generators)

    # The model's own forward pads sequences into rows. A packed batch has one row of many
    # sequences, so embeddings, layers and pooler are called here one by one.

    def _embed(self, packed: Packed) -> Tensor:
        ids = packed.input_ids, packed.position_ids, packed.token_type_ids
        return self._family.embed(self.model, *ids, packed.inputs_embeds)

    def _through(
        self, states: Tensor, position_ids: Tensor, edits: Edits, first: int, end: int
    ) -> Tensor:
        """States `[T, h]` through some of the layers, the first and the past-the-last given."""
        if edits.graph_inputs is not None:
            edits.graph_inputs.table.upload(states.device)
        tokens = states.shape[0]  # not `len`, which would be a constant of a recorded graph
        if tokens < edits.padded_tokens:
            # Filled up once with copies of the last token, and not at every product.
            filler = edits.padded_tokens - tokens
            states = torch.cat([states, states[-1:].expand(filler, -1)])
            position_ids = torch.cat([position_ids, position_ids[-1:].expand(filler)])
        arguments = self._family.layer_arguments(self.model, position_ids)
        states = states[None]
        for index in range(first, end):
            layer = partial(self.layers[index], edits=edits.layers[index], **arguments[index])
            if edits.recomputation is not None and torch.is_grad_enabled():
                states = edits.recomputation.run(layer, states)
            else:
                states = layer(states)
        return states.squeeze(0)[:tokens]

    def compute_states(self, rows: Tensor, edits: Edits) -> Tensor:
        """Hidden states `[R, h]` of ids, positions and token types `[3, R]`, filled up already."""
        input_ids, position_ids, token_type_ids = rows
        states = self._family.embed(self.model, input_ids, position_ids, token_type_ids, None)
        states = self._through(states, position_ids, edits, 0, len(self.layers))
        return self._family.finish(self.model, states)

    def fuse_activations(self) -> None:
        """Makes the GELU of every layer part of the product before it."""
        site, activation = self.geometry.sites["ffn_up"], self._family.activation_path
        exact = self._family.uses_gelu(self.model.config)
        if site.columns is not None or activation is None or not exact:
            return
        for layer in dict.fromkeys(self.layers):
            fuse_gelu(
                layer.get_submodule(site.path),
                layer.get_submodule(activation),
                lambda: self._hooks.edits_at("ffn_up"),
            )


def _torch_device(options: LoadOptions) -> str:
    """The device that a backbone is loaded on, such as `cpu` or `cuda:0`.

    Raises:
        BackboneError: There is no such device, or the quantization is not for it.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BackboneError("device: 'cuda' was asked for but torch sees no GPU; use cpu or auto")
    if options.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    if options.quantization == "int8":
        raise BackboneError("quantization: 'int8' is for the CPU; use 8bit on a GPU")
    return f"cuda:{torch.cuda.current_device()}"


def _check_fingerprint(family: Family, model: nn.Module) -> None:
    """Refuses a family whose fingerprint leaves out weights: two models could then share one.

    Raises:
        BackboneError: It leaves out a weight that is not the pooler's.
    """
    for name, _ in model.named_parameters():
        if not family.is_backbone_weight(name) and not family.is_pooler_weight(name):
            raise BackboneError(
                f"the family '{family.type}' leaves the weight '{name}' out of the fingerprint, so "
                "that two models could have the same one; its is_backbone_weight must accept it"
            )
