"""The systems of a mixed batch: our forward, the floor under it, the peers, and guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..backbone.families import Dtype, Quantization
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..inference.lanes import lanes_of
from ..inference.pipeline import compute_outputs
from ..tasks.types import Example
from .guest import Guest
from .machine import has_peft
from .peers import PaddedBatch, hushed, peft_model, plain_model
from .timing import Run
from .workload import LORA, MIXES, Rows, bench_adapters, owned, owners_of

OWN, TRANSFORMERS, PEFT = "adapterkit", "transformers", "PEFT"
FLOOR, BASE, PADDED = "linears alone (floor)", "no adapters (base)", "no adapters, padded"

PEAK, SIDE = "one large product (peak)", 8192
"""What a GPU's matrix units do at best: a product of two square matrices."""

PEAK_FLOPS = 2 * SIDE**3


class System(NamedTuple):
    """Who runs what once in a round.

    Attributes:
        system: Who.
        batch: Which adapters the rows are answered by.
        tenants: How many; 0 where there are none.
        run: Runs the batch.
    """

    system: str
    batch: str
    tenants: int
    run: Run

    @property
    def label(self) -> str:
        """What it is called."""
        return f"{self.system}: {self.batch}" + (f", {self.tenants}" if self.tenants else "")


def own_systems(
    backbone: Backbone, inputs: Sequence[TokenSequence], tenants: Sequence[int]
) -> Iterator[System]:
    """The floor, our bare forward, and our forward with every mix of adapters."""
    if backbone.device.type == "cuda":
        yield System("torch", PEAK, 0, peak_of(backbone))
    yield System(OWN, FLOOR, 0, floor_of(backbone, sum(map(len, inputs))))
    yield System(OWN, BASE, 0, bare(backbone, inputs))
    for mix in MIXES:
        for n in tenants:
            rows = owned(inputs, bench_adapters(backbone, mix, n))
            yield System(OWN, mix, n, ours(backbone, rows))


def bare(backbone: Backbone, inputs: Sequence[TokenSequence]) -> Run:
    """Our forward without adapters."""
    return ours(backbone, [(None, row) for row in inputs])


def ours(backbone: Backbone, rows: Rows) -> Run:
    """Our forward as a predictor runs it: in the lanes of this process."""
    examples = [(adapter, Example((inputs,))) for adapter, inputs in rows]
    return partial(compute_outputs, backbone, examples, lanes=lanes_of(backbone.device))


def floor_of(backbone: Backbone, n_tokens: int) -> Run:
    """The backbone's own linears alone, each by the best product it has."""
    linears = _linears(backbone)
    inputs = {
        linear.in_features: torch.randn(
            n_tokens, linear.in_features, dtype=backbone.dtype, device=backbone.device
        )
        for linear in linears
    }

    def run() -> None:
        for linear in linears:
            linear.forward(inputs[linear.in_features])

    plain = backbone.device.type == "cpu" or backbone.quantization != "none"
    return run if plain else _replayed(run)


def _replayed(run: Callable[[], None]) -> Run:
    """What a GPU runs, without the time to launch it."""
    graph = torch.cuda.CUDAGraph()
    run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def peak_of(backbone: Backbone) -> Run:
    """One large product in the backbone's dtype."""
    x = torch.randn(SIDE, SIDE, dtype=backbone.dtype, device=backbone.device)
    return partial(torch.matmul, x, x)


def flops_of(backbone: Backbone) -> int:
    """What the backbone's linears compute for one token."""
    return sum(2 * linear.in_features * linear.out_features for linear in _linears(backbone))


def _linears(backbone: Backbone) -> list[Any]:
    return backbone.linears


def peer_systems(
    folder: Path,
    backbone: Backbone,
    inputs: Sequence[TokenSequence],
    tenants: Sequence[int],
    dtype: Dtype,
    quantization: Quantization,
) -> Iterator[System]:
    """transformers' padded batch, and PEFT's with the adapters of our own first mix.

    Args:
        folder: The backbone's checkpoint.
        backbone: Our backbone of the same checkpoint, on the device to measure on.
        inputs: The rows.
        tenants: Numbers of tenants.
        dtype, quantization: Of the peers' weights.
    """
    batch = PaddedBatch.of(inputs, backbone.device)

    def plain() -> Any:
        return plain_model(folder, dtype, quantization, backbone.device)

    with hushed():
        alone = plain()
    yield System(TRANSFORMERS, PADDED, 0, partial(batch.through, alone))
    if not has_peft():
        return
    for n in tenants:
        with hushed():
            model = peft_model(plain(), bench_adapters(backbone, LORA, n), backbone)
        names = [f"t{owner}" for owner in owners_of(len(inputs), n)]
        yield System(PEFT, LORA, n, partial(batch.through, model, adapter_names=names))


def guest_systems(guest: Guest) -> Iterator[System]:
    """What a guest can run: it answered its job with `[system, batch, tenants]` for each.

    It is asked for one by its place in that list, and answers when the batch is done.
    """
    for place, (system, batch, tenants) in enumerate(guest.said):
        yield System(system, batch, tenants, partial(guest.tell, place))


def job(
    folder: Path, dtype: Dtype, inputs: Sequence[TokenSequence], tenants: int
) -> dict[str, Any]:
    """What a guest is told: the same backbone, rows and owners, and how many threads we use."""
    return {
        "bench": "mixed",
        "model": str(folder),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "rows": [list(row.input_ids) for row in inputs],
        "tenants": tenants,
        "owners": owners_of(len(inputs), tenants),
    }
