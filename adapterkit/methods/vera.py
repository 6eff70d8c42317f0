"""VeRA: one pair of frozen random matrices, scaled by trained vectors (Kopiczko et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import LINEAR_SITES, OPTIONAL_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from ..schema import check_factor, check_least, check_share
from .base import Method, PeftReading, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .peft_folder import PeftFolder
from .peft_settings import check_settings, target_settings
from .places import check_layers, check_sites, chosen_layers, layers_setting


@dataclass(frozen=True)
class VeRA(Method):
    """`W x + b * B (d * (A x))` with trained vectors b and d.

    A and B are drawn from a seed as PEFT draws them, so an adapter is only its vectors. All linears
    of all adapters with one seed share them: each takes the first columns of A and rows of B.

    Attributes:
        r: Rank of the random matrices.
        d_initial: What all numbers of d start at; those of b start at 0.
        projection_seed: Seed of the random matrices, `projection_prng_key` in PEFT.
        dropout: Probability, in training, that a number of the input becomes zero for the
            low-rank path.
        targets: Linears to edit: query, key, value, attention_output, ffn_up, ffn_down; qkv where
            one linear computes query, key and value, as PEFT edits it; and ffn_gate where the gate
            of the feed-forward block is a linear of its own.
        layers: Layers to edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "vera"
    peft_type: ClassVar[str] = "VERA"
    learning_rate: ClassVar[float] = 1e-2
    head_prefix: ClassVar[str] = "base_model.model."
    table_order: ClassVar[int] = 14
    free_settings: ClassVar[tuple[str, ...]] = ("dropout", "d_initial")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"r": 16, "targets": LINEAR_SITES, "layers": (0, 2), "projection_seed": 3},
        {"r": 16, "dropout": 0.1},
    )

    r: int = 256
    d_initial: float = 0.1
    projection_seed: int = 0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "r")
        if not 0 <= self.projection_seed < 2**63:
            raise ValueError(f"projection_seed: expected 0 to 2^63 - 1, got {self.projection_seed}")
        check_factor(self, "d_initial")
        check_share(self, "dropout")
        check_sites("targets", self.targets, (*LINEAR_SITES, *OPTIONAL_SITES))
        check_layers(self.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    @property
    def group_key(self) -> Hashable:
        targets = tuple(sorted(self.targets))
        return (self.r, self.projection_seed, targets, self.layers, self.dropout)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        geometry.check_linears(self.targets)
        n_layers = len(chosen_layers(self.layers, geometry))
        shapes: dict[str, tuple[int, ...]] = {}
        for site in self.targets:
            shapes[f"{site}.d"] = (n_layers, self.r)
            shapes[f"{site}.b"] = (n_layers, geometry.width_out(site))
        return shapes

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """As in PEFT: a new adapter changes nothing."""
        return {
            name: torch.full(shape, self.d_initial if name.endswith(".d") else 0.0)
            for name, shape in self.shapes(geometry).items()
        }

    def projection(self, geometry: Geometry, device: torch.device | str = "cpu") -> Projection:
        """The random matrices for the widest of the targets."""
        return draw_projection(
            self.projection_seed,
            self.r,
            max(geometry.width_in(site) for site in self.targets),
            max(geometry.width_out(site) for site in self.targets),
            torch.device(device),
        )

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first, geometry = members[0][0], group.geometry
        matrices = first.projection(geometry, group.segments.device)
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            product = _Product(
                matrices.down[:, : geometry.width_in(site)],
                matrices.up[: geometry.width_out(site)],
                ScaleAndShift(group.segments, [tensors[f"{site}.d"] for _, tensors in members]),
                ScaleAndShift(group.segments, [tensors[f"{site}.b"] for _, tensors in members]),
            )
            for index, layer in enumerate(chosen_layers(first.layers, geometry)):
                deltas[layer, site] = partial(_delta, product, group, first.dropout, index)
        return GroupEdits(deltas)

    def weight_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        geometry = weights.geometry
        down, up = self.projection(geometry)
        changes = {}
        for index, layer in enumerate(chosen_layers(self.layers, geometry)):
            for site in self.targets:
                inner, outer = (tensors[f"{site}.{part}"][index, :, None] for part in ("d", "b"))
                own_down = inner * down[:, : geometry.width_in(site)]
                changes[layer, site] = (outer * up[: len(outer)]) @ own_down
        return changes

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "r": self.r,
            "d_initial": self.d_initial,
            "projection_prng_key": self.projection_seed,
            "save_projection": False,
            "vera_dropout": self.dropout,
            **target_settings(self.targets, self.layers, geometry),
            "init_weights": True,
            "bias": "none",
            "fan_in_fan_out": False,
        }

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`, if the folder's random matrices are those of its seed.

        Linears without vectors get zeros for b.
        """
        known = ("r", "d_initial", "projection_prng_key", "save_projection", "vera_dropout")
        check_settings(folder.config, known)
        config, geometry = folder.config, folder.backbone.geometry
        found: dict[tuple[int, str], dict[str, Tensor]] = {}
        for path, tensors in folder.modules({"vera_lambda_d", "vera_lambda_b"}).items():
            places = folder.places(path)
            if not places or places[0].columns is not None:
                raise ValueError(f"'{path}' is trained, which is no linear of the layers")
            if len(tensors.get("vera_lambda_d", ())) != config["r"]:
                raise ValueError(f"'{path}': vera_lambda_d has not r = {config['r']!r:.80} numbers")
            found |= {(place.layer, place.site): tensors for place in places}
        layers = tuple(sorted({layer for layer, _ in found}))
        method = cls(
            r=int(config["r"]),
            d_initial=float(config.get("d_initial") or 0.1),
            projection_seed=int(config["projection_prng_key"]),
            dropout=float(config.get("vera_dropout") or 0.0),
            targets=tuple(s for s in geometry.sites if any(site == s for _, site in found)),
            layers=layers_setting(layers, geometry),
        )
        stacked = {name: torch.zeros(shape) for name, shape in method.shapes(geometry).items()}
        for (layer, site), tensors in found.items():
            for part in ("d", "b"):
                vector = tensors[f"vera_lambda_{part}"]
                row = stacked[f"{site}.{part}"][layers.index(layer)]
                if vector.shape != row.shape:
                    raise ValueError(
                        f"vera_lambda_{part} has shape {list(vector.shape)}, expected "
                        f"{list(row.shape)}"
                    )
                row.copy_(vector)
        matrices = method.projection(geometry)
        for name, own in (("vera_A", matrices.down), ("vera_B", matrices.up)):
            theirs = folder.tensors.get(name)
            if theirs is not None and not torch.equal(theirs.float(), own):
                raise ValueError(f"{name} is not what projection_prng_key draws here")
        return PeftReading(method, stacked)

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.vera_lambda_{part}": (
                f"{site}.{part}",
                index,
            )
            for index, layer in enumerate(chosen_layers(self.layers, geometry))
            for site in self.targets
            for part in ("d", "b")
        }


class Projection(NamedTuple):
    """The random matrices of VeRA.

    Attributes:
        down: A, `[r, in]`.
        up: B, `[out, r]`.
    """

    down: Tensor
    up: Tensor


@lru_cache(maxsize=32)
def draw_projection(seed: int, r: int, n_in: int, n_out: int, device: torch.device) -> Projection:
    """The random matrices of a seed, bit for bit those of PEFT: Kaiming uniform, A and then B.

    Args:
        seed: `projection_prng_key` in PEFT.
        r: Their rank.
        n_in: Columns of A.
        n_out: Rows of B.
        device: Where they are used; they are drawn on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):  # training may use them after inference drew them
        drawn = []
        for shape in ((r, n_in), (n_out, r)):
            bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
            drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
        return Projection(drawn[0].to(device), drawn[1].to(device))


class _Product(NamedTuple):
    """The path beside one linear: its parts of the random matrices, and what scales them."""

    down: Tensor
    up: Tensor
    inner: ScaleAndShift
    outer: ScaleAndShift


def _delta(
    product: _Product, group: Group, dropout: float, index: int, y: Tensor, x: Tensor
) -> Tensor:
    inner = F.linear(group.drop(x, dropout), product.down.to(x.dtype))
    scaled = product.inner.add(torch.zeros_like(inner), inner, index)
    return product.outer.add(y, F.linear(scaled, product.up.to(x.dtype)), index)
