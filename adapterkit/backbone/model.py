"""The frozen model: loaded once, plugged once with inert hooks, called with a packed batch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BackboneError
from ..ops.attention import packed_attention, uses_flash_attention
from ..ops.frozen_linear import activate, prepare, prepare_int8
from .checkpoint import Checkpoint, locate
from .cuda_graphs import Graphs
from .edits import Edits, LayerEdits
from .families import LINEAR_SITES, Device, Dtype, Geometry, Quantization, family
from .lm_head import LMHead
from .malloc import keep_freed_memory
from .packing import EncoderOutput, Packed, Pooling
from .tokenizer import TextEncoder

ATTENTION = "adapterkit_packed"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backbone:
    """A frozen BERT that answers packed batches; nothing about it changes after loading.

    Build one with `Backbone.load`. Any number of threads may call it at the same time.

    Attributes:
        name: As it was asked for.
        fingerprint: sha256 of the source weights, the same in whatever dtype they are loaded.
        geometry: Its measures.
        tokenizer: The transformers tokenizer.
        reader: The same, for any number of threads.
        pooling: The pooling that suits it.
        lower_case: Whether its tokenizer lower-cases.
        quantization: How its linears are quantised.
        lm_head: Its word embeddings as a decoder; None where they are narrower than its states.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        checkpoint: Checkpoint,
        quantization: Quantization = "none",
    ) -> None:
        config: Any = model.config
        kin = family(config.model_type)
        first = config.pad_token_id + 1 if kin.offset else 0
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.reader = TextEncoder(tokenizer)
        self.fingerprint = checkpoint.fingerprint
        self.geometry = Geometry(
            family=kin,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            positions=config.max_position_embeddings - first,
            first_position=first,
        )
        self.pooling: Pooling = checkpoint.pooling
        self.lower_case = checkpoint.lower_case
        self.quantization = quantization
        self._pooler: Any = model.pooler if checkpoint.has_pooler else None
        self.lm_head = self._lm_head(checkpoint)
        self._at = threading.local()
        width = self.geometry.hidden // self.geometry.heads
        alike = quantization == "none" and uses_flash_attention(self.device, self.dtype, width)
        self.graphs = Graphs(self._computed) if alike else None
        self._plug()

    @classmethod
    def load(
        cls,
        model: str = "minilm",
        *,
        dtype: Dtype = "float32",
        quantization: Quantization = "none",
        device: Device = "auto",
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
            device: `auto` is the GPU where there is one.
            revision: Branch, tag or commit of a hub model.
            prepared: On a CPU, lay the frozen linears out for this processor where that is faster,
                and keep what one batch frees for the next (`heap`).

        Raises:
            BackboneError: The checkpoint is not there, not sound or not supported.
        """
        for what, value, known in (
            ("dtype", dtype, get_args(Dtype)),
            ("quantization", quantization, get_args(Quantization)),
            ("device", device, get_args(Device)),
        ):
            if value not in known:
                raise BackboneError(f"{what}: expected one of {', '.join(known)}, got '{value}'")
        if device == "cuda" and not torch.cuda.is_available():
            raise BackboneError(
                "device: 'cuda' was asked for but torch sees no GPU; use cpu or auto"
            )
        on_gpu = device != "cpu" and torch.cuda.is_available()
        where = f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu"
        checkpoint = Checkpoint.read(locate(model, revision))
        if quantization in ("8bit", "4bit") and dtype == "float32":
            dtype = "bfloat16"
        if quantization == "int8" and where != "cpu":
            raise BackboneError("quantization: 'int8' is for the CPU; use 8bit on a GPU")
        network, tokenizer = _from_pretrained(checkpoint.folder, DTYPES[dtype], quantization, where)
        backbone = cls(model, network, tokenizer, checkpoint, quantization)
        if prepared and where == "cpu":
            keep_freed_memory()
        if quantization == "int8":
            prepare_int8(backbone.linears)
        elif prepared:
            prepare(backbone.linears)
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
    def linears(self) -> list[nn.Module]:
        """The frozen linears of every layer, in the order they are computed."""
        layers: Any = self.model.get_submodule(self.geometry.family.layers)
        paths = [self.geometry.family.linears[site] for site in LINEAR_SITES]
        return [layer.get_submodule(path) for layer in layers for path in paths]

    @property
    def n_parameters(self) -> int:
        """Numbers in the frozen weights (a packed 4-bit byte counts as two)."""
        return sum(
            p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in self.model.parameters()
        )

    def __call__(
        self, packed: Packed, edits: Edits, entering: tuple[int, Tensor] | None = None
    ) -> EncoderOutput:
        """Hidden states of a packed batch.

        Args:
            packed: T tokens.
            edits: What the batch's adapters do.
            entering: A layer and the states that enter it, `[T, h]`, to begin there.
        """
        # A scope of its own for weights without gradients would also stop the edits' gradients,
        # so the caller alone decides (`torch.inference_mode` outside training).
        if (
            entering is None
            and self.graphs is not None
            and edits.whole
            and packed.inputs_embeds is None
        ):
            tokens = self.graphs(packed, edits)
        else:
            first, states = entering or (0, self._embedded(packed))
            tokens = self._through(states, edits, first, self.geometry.layers)
        pool = self._pool if self._pooler else None
        return EncoderOutput(tokens, packed, pool, self.lm_head)

    def entering(self, layer: int, packed: Packed, edits: Edits) -> Tensor:
        """Hidden states of a packed batch that enter a layer, `[T, h]`; as many layers: the last.

        Args:
            layer: The layer.
            packed: T tokens.
            edits: What the batch's adapters do.
        """
        return self._through(self._embedded(packed), edits, 0, layer)

    # The model's own forward is embeddings, then layer after layer, then a pooler over the first
    # token of each line, of which a packed batch has one; its parts are called here one by one.

    def _embedded(self, packed: Packed) -> Tensor:
        return self._embed(
            packed.input_ids, packed.position_ids, packed.token_type_ids, packed.inputs_embeds
        )

    def _embed(
        self, ids: Tensor, positions: Tensor, types: Tensor, words: Tensor | None = None
    ) -> Tensor:
        model: Any = self.model
        read = {"input_ids": ids[None]} if words is None else {"inputs_embeds": words[None]}
        states = model.embeddings(**read, token_type_ids=types[None], position_ids=positions[None])
        if hasattr(model, "embeddings_project"):  # ELECTRA, where the embeddings are thinner
            states = model.embeddings_project(states)
        embedded: Tensor = states[0]
        return embedded

    def _through(self, states: Tensor, edits: Edits, first: int, end: int) -> Tensor:
        layers: Any = self.model.get_submodule(self.geometry.family.layers)
        if edits.whole is not None:
            edits.whole.table.upload(states.device)
        tokens = len(states)
        # Filled up once with a token like the others, and not at every product; nobody sees it.
        filler = states[-1:].expand(edits.filled - tokens, -1)
        states = torch.cat([states, filler])[None]
        for layer in layers[first:end]:
            states = layer(states, None, edits=edits)
        left: Tensor = states.squeeze(0)[:tokens]
        return left

    def _computed(self, rows: Tensor, edits: Edits) -> Tensor:
        """Hidden states `[R, h]` of ids, positions and token types `[3, R]`, filled up already."""
        return self._through(self._embed(*rows), edits, 0, self.geometry.layers)

    def words(self, ids: Sequence[int]) -> Tensor:
        """Word embeddings of token ids, `[n, e]`, before positions and token types are added."""
        model: Any = self.model  # to mypy a module's attributes may all be tensors
        found: Tensor = model.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return found

    def _lm_head(self, checkpoint: Checkpoint) -> LMHead | None:
        model: Any = self.model
        weight = model.get_input_embeddings().weight
        if weight.shape[-1] != self.geometry.hidden:
            return None
        tensors = {name: tensor.to(weight.device) for name, tensor in checkpoint.lm_head.items()}
        return LMHead(weight, tensors, model.config.layer_norm_eps)

    def _pool(self, first: Tensor) -> Tensor:
        """The pooler looks at the first token of each sequence: `[n, h] -> [n, h]`."""
        pooled: Tensor = self._pooler(first[:, None])
        return pooled

    def _plug(self) -> None:
        """Installs the hooks: once, for good, and inert unless a call brings edits."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attention)
        config: Any = self.model.config
        config._attn_implementation = ATTENTION
        kin = self.geometry.family
        layers: Any = self.model.get_submodule(kin.layers)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._entering(index), with_kwargs=True)
            layer.register_forward_hook(self._leaving, always_call=True)
            for site in LINEAR_SITES:
                module = layer.get_submodule(kin.linears[site])
                module.register_forward_hook(self._linear_hook(site))
            layer.get_submodule(kin.block).register_forward_pre_hook(self._residual_hook)
            layer.get_submodule(kin.norm).register_forward_pre_hook(self._norm_hook)

    def fuse_activations(self) -> None:
        """Makes the GELU of every layer part of the product before it."""
        config: Any = self.model.config
        if config.hidden_act != "gelu":
            return
        kin = self.geometry.family

        def between() -> bool:
            return self._layer is not None and bool(self._layer.blocks.get("ffn_up"))

        layers: Any = self.model.get_submodule(kin.layers)
        for layer in layers:
            up, gelu = layer.get_submodule(kin.linears["ffn_up"]), kin.activation
            activate(up, layer.get_submodule(gelu), between)

    # The edits of the layer being computed are kept per thread, set on entering every layer and
    # cleared on leaving it, also when it raises: nothing of one call can reach another.

    def _entering(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            edits: Edits | None = kwargs.get("edits")
            self._at.layer = edits.layers[index] if edits is not None else None

        return hook

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self._at.layer = None

    @property
    def _layer(self) -> LayerEdits | None:
        return getattr(self._at, "layer", None)

    def _linear_hook(self, site: str) -> Any:
        after = {"attention_output": "after_attention", "ffn_down": "after_ffn"}.get(site)

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            layer = self._layer
            if layer is None:
                return output
            output = layer.apply(site, output, args[0])
            return output if after is None else layer.apply(after, output)

        return hook

    def _residual_hook(self, module: nn.Module, args: tuple[Tensor, Tensor]) -> Any:
        layer = self._layer
        if layer is None:
            return None
        inner, residual = args
        return inner, layer.apply("ffn_residual", residual)

    def _norm_hook(self, module: Any, args: tuple[Tensor]) -> Any:
        layer = self._layer
        if layer is None:
            return None

        def normed(x: Tensor) -> Tensor:
            return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)

        return (layer.apply("ffn_norm", args[0], read=normed),)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    edits: Edits,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over a packed batch: `[1, heads, T, d]` in, `[1, T, heads,
    d]` out."""
    heads, width = query.shape[1], query.shape[1] * query.shape[3]
    layer = edits.layers[module.layer_idx]
    q, k, v = (x.transpose(1, 2).reshape(-1, width) for x in (query, key, value))
    k, v = layer.attended(k, v, heads)
    out = packed_attention(q, k, v, layer.plan, heads, scaling)
    return out.view(1, -1, heads, width // heads), None


def _from_pretrained(
    folder: Path, dtype: torch.dtype, quantization: Quantization, device: str
) -> tuple[nn.Module, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    verbosity = chatter.get_verbosity()
    chatter.set_verbosity_error()
    options: dict[str, Any] = {}
    if quantization in ("8bit", "4bit"):
        _hush_casts()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["pooler"],
        )
        options["device_map"] = {"": device}
    try:
        config = AutoConfig.from_pretrained(folder)
        family(config.model_type)
        model = AutoModel.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        # Some tokenizer files pad and cut by themselves; a packed batch wants neither.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"{folder}: cannot be loaded as a backbone: {reason}") from error
    finally:
        chatter.set_verbosity(verbosity)
    if not options:
        model = model.to(device)
    return model, tokenizer


def _hush_casts() -> None:
    """Drops the message by which bitsandbytes tells, at every product, that it casts to float16.

    Its 8-bit quantisation always does; bfloat16 is still the better dtype around it (on a CPU
    float16 products are many times slower).
    """
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if _is_no_cast not in logger.filters:
        logger.addFilter(_is_no_cast)


def _is_no_cast(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.msg
