"""Prefix tuning: trained keys and values before every text, in every layer (Li and Liang 2021)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.geometry import Geometry
from ..schema import check_least
from .base import Method, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .peft_settings import check_settings

PEFT_SETTINGS = frozenset(
    (
        *("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads"),
        "num_transformer_submodules",
        # Width and MLP of the training; files hold the MLP's result.
        *("encoder_hidden_size", "prefix_projection"),
        "shift_positions",  # of this format alone
    )
)
"""Settings of PEFT's prefix tuning."""


@dataclass(frozen=True)
class Prefix(Method):
    """P virtual tokens; every token of the text attends to their keys and values too.

    As in PEFT, the position ids of the text start at P, so it may be `positions - P` tokens long,
    unless `shift_positions` is false.

    Attributes:
        num_virtual_tokens: P, the number of trained tokens before every text.
        projection: Train the prefix through a two-layer MLP; the file holds only the result. The
            output of the MLP is added to a prefix that is trained directly (as in residual prompt
            tuning, Razdaibiedina et al. 2023), so training can continue from a saved prefix.
        projection_size: Width inside the MLP; the hidden width of the backbone if omitted.
        init_std: Standard deviation of a new prefix.
        shift_positions: Whether the position ids of a text start after the prefix, as in PEFT, or
            as without a prefix, as in AdapterHub's library.
    """

    type: ClassVar[str] = "prefix"
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    learning_rate: ClassVar[float] = 1e-2
    low_rank_only: ClassVar[bool] = True
    head_prefix: ClassVar[str] = "base_model."
    free_settings: ClassVar[tuple[str, ...]] = ("projection", "projection_size", "init_std")
    table_order: ClassVar[int] = 20
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"num_virtual_tokens": 5},
        {"num_virtual_tokens": 4, "projection": True, "projection_size": 6},
        {"num_virtual_tokens": 3, "shift_positions": False},
    )

    num_virtual_tokens: int = 20
    projection: bool = False
    projection_size: int | None = None
    init_std: float = 0.2
    shift_positions: bool = True

    def __post_init__(self) -> None:
        check_least(self, 1, "num_virtual_tokens", "projection_size")
        check_least(self, 0, "init_std")

    @property
    def position_offset(self) -> int:
        return self.num_virtual_tokens if self.shift_positions else 0

    @property
    def sites(self) -> tuple[str, ...]:
        return ()

    @property
    def group_key(self) -> Hashable:
        return ()

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        if self.position_offset > geometry.positions - 3:
            raise ValueError(
                f"num_virtual_tokens: {self.position_offset} leave no room for a text; "
                f"the backbone has {geometry.positions} positions"
            )
        width = geometry.layers * 2 * geometry.key_value_width
        return {"prefix": (self.num_virtual_tokens, width)}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        prefix = torch.randn(self.shapes(geometry)["prefix"], generator=generator) * self.init_std
        return self.init_from({"prefix": prefix}, geometry, generator)

    def init_from(
        self, tensors: Tensors, geometry: Geometry, generator: torch.Generator
    ) -> Tensors:
        """The prefix, and with `projection` the MLP; its last layer starts at zero."""
        tensors = super().init_from(tensors, geometry, generator)
        if self.projection:
            hidden, size = geometry.hidden, self.projection_size or geometry.hidden
            out = geometry.layers * 2 * geometry.key_value_width
            tensors |= {
                "embedding": torch.randn(self.num_virtual_tokens, hidden, generator=generator),
                "inner": torch.randn(size, hidden, generator=generator) / hidden**0.5,
                "inner_bias": torch.zeros(size),
                "outer": torch.zeros(out, size),
                "outer_bias": torch.zeros(out),
            }
        return tensors

    def finalize(self, tensors: Tensors) -> tuple[Self, Tensors]:
        if not self.projection:
            return self, tensors
        finished = replace(self, projection=False, projection_size=None)
        return finished, {"prefix": _prefix(tensors)}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        layers, width = group.geometry.layers, group.geometry.key_value_width
        return GroupEdits(
            prefixes=[
                _prefix(tensors).view(-1, layers, 2, width).permute(1, 2, 0, 3)
                for _, tensors in members
            ]
        )

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "num_virtual_tokens": self.num_virtual_tokens,
            # As in PEFT, those of keys and values.
            "token_dim": geometry.key_value_width,
            "num_layers": geometry.layers,
            "num_attention_heads": geometry.key_value_heads or geometry.heads,
            "num_transformer_submodules": 1,
            "encoder_hidden_size": geometry.key_value_width,
            "prefix_projection": False,
            **({} if self.shift_positions else {"shift_positions": False}),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        check_settings(config, PEFT_SETTINGS)
        measures = {"token_dim": geometry.key_value_width, "num_layers": geometry.layers}
        for setting, expected in measures.items():
            if config.get(setting, expected) != expected:
                raise ValueError(f"{setting} is {config[setting]}, the backbone has {expected}")
        return cls(
            num_virtual_tokens=int(config["num_virtual_tokens"]),
            shift_positions=bool(config.get("shift_positions", True)),
        )

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {"prompt_embeddings": ("prefix", None)}


def _prefix(tensors: Tensors) -> Tensor:
    """The prefix for keys of width w, `[P, L * 2 * w]`, key before value, with the output of the
    MLP if there is one."""
    prefix = tensors["prefix"]
    if "embedding" not in tensors:
        return prefix
    inner = torch.tanh(F.linear(tensors["embedding"], tensors["inner"], tensors["inner_bias"]))
    return prefix + F.linear(inner, tensors["outer"], tensors["outer_bias"])
