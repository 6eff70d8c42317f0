"""The systems of a mixed batch: our forward pass, its bounds, the peers, and guests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ..backbone.load_options import Dtype, LoadOptions
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..inference.lanes import lanes_of
from ..inference.pipeline import compute_outputs
from ..quiet import quiet_warnings
from ..tasks.types import Example
from .attention_products import attention_alone
from .guest import Guest
from .machine import has_peft
from .peers import PaddedBatch, peft_model, plain_model
from .timing import Computation
from .workload import LORA, MIXES, Rows, assign_owners, bench_adapters, owners_of

OWN, TRANSFORMERS, PEFT = "adapterkit", "transformers", "PEFT"
FLOOR, PRODUCTS = "linears alone (floor)", "products alone"
BASE, PADDED = "no adapters (base)", "no adapters, padded"

PEAK, SIDE = "one large product (peak)", 8192
"""The peak of a GPU's matrix units: a product of two square matrices of this side."""

PEAK_FLOPS = 2 * SIDE**3


class System(NamedTuple):
    """A system and the batch that it runs once in a round.

    Attributes:
        system: Name of the system.
        batch: Name of the mix of adapters.
        tenants: Number of adapters; 0 without adapters.
        run: Runs the batch.
    """

    system: str
    batch: str
    tenants: int
    run: Computation

    @property
    def label(self) -> str:
        """Name of the system, the mix and the number of adapters."""
        return f"{self.system}: {self.batch}" + (f", {self.tenants}" if self.tenants else "")


def own_systems(
    backbone: Backbone, inputs: Sequence[TokenSequence], tenants: Sequence[int]
) -> Iterator[System]:
    """The bounds, our forward pass without adapters, and with every mix of adapters."""
    if backbone.device.type == "cuda":
        yield System("torch", PEAK, 0, large_product(backbone))
    yield System(OWN, FLOOR, 0, linears_alone(backbone, sum(map(len, inputs))))
    if backbone.device.type == "cpu":
        yield System(OWN, PRODUCTS, 0, products_alone(backbone, inputs))
    yield System(OWN, BASE, 0, bare_forward(backbone, inputs))
    for mix in MIXES:
        for n in tenants:
            rows = assign_owners(inputs, bench_adapters(backbone, mix, n))
            yield System(OWN, mix, n, own_forward(backbone, rows))


def bare_forward(backbone: Backbone, inputs: Sequence[TokenSequence]) -> Computation:
    """Our forward pass without adapters."""
    return own_forward(backbone, [(None, row) for row in inputs])


def own_forward(backbone: Backbone, rows: Rows) -> Computation:
    """Our forward pass as a predictor runs it: in the lanes of this process."""
    examples = [(adapter, Example((inputs,))) for adapter, inputs in rows]
    return partial(compute_outputs, backbone, examples, lanes=lanes_of(backbone.device))


def linears_alone(backbone: Backbone, n_tokens: int) -> Computation:
    """The floor: only the backbone's linears, each by its fastest product."""
    linears: list[Any] = backbone.computed_linears
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
    return run if plain else _as_cuda_graph(run)


def products_alone(backbone: Backbone, inputs: Sequence[TokenSequence]) -> Computation:
    """The linears, and after them the matrix products of attention, on a CPU.

    On a GPU they would be no bound: its attention is faster than products that write all scores.
    """
    lengths = [len(row) for row in inputs]
    linears, attention = linears_alone(backbone, sum(lengths)), attention_alone(backbone, lengths)

    def run() -> None:
        linears()
        attention()

    return run


def _as_cuda_graph(run: Callable[[], None]) -> Computation:
    """The run as a CUDA graph, so that the time to launch kernels does not count."""
    graph = torch.cuda.CUDAGraph()
    run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def large_product(backbone: Backbone) -> Computation:
    """One large product in the backbone's dtype."""
    x = torch.randn(SIDE, SIDE, dtype=backbone.dtype, device=backbone.device)
    return partial(torch.matmul, x, x)


def linear_flops(backbone: Backbone) -> int:
    """Floating-point operations of the backbone's linears for one token."""
    linears: list[Any] = backbone.computed_linears
    return sum(2 * linear.in_features * linear.out_features for linear in linears)


def peer_systems(
    folder: Path,
    backbone: Backbone,
    inputs: Sequence[TokenSequence],
    tenants: Sequence[int],
    options: LoadOptions,
) -> Iterator[System]:
    """transformers with a padded batch, and PEFT with the adapters of our first mix if it can.

    Args:
        folder: The backbone's checkpoint.
        backbone: Our backbone of the same checkpoint, on the device that is measured.
        inputs: The rows.
        tenants: Numbers of tenants.
        options: Dtype and quantization of the peers' weights.
    """
    batch = PaddedBatch.of(inputs, backbone.device)

    def plain() -> Any:
        return plain_model(folder, options, backbone.device)

    with quiet_warnings():
        alone = plain()
    yield System(TRANSFORMERS, PADDED, 0, partial(batch.through, alone))
    if not has_peft():
        return
    for n in tenants:
        with quiet_warnings():
            model = peft_model(plain(), bench_adapters(backbone, LORA, n), backbone)
        names = [f"t{owner}" for owner in owners_of(len(inputs), n)]
        try:
            batch.beginning(2).through(model, adapter_names=names)
        except ValueError as error:
            # Such as a linear that also reads positions, of which there is one row for the batch.
            tqdm.write(f"PEFT is not measured: {error}", file=sys.stderr)
            return
        yield System(PEFT, LORA, n, partial(batch.through, model, adapter_names=names))


def guest_systems(guest: Guest) -> Iterator[System]:
    """The systems of a guest, whose first reply is a list of `[system, batch, tenants]`.

    A system is run by sending its index in this list; the guest replies when the batch is done.
    """
    for index, (system, batch, tenants) in enumerate(guest.first_reply):
        yield System(system, batch, tenants, partial(guest.request, index))


def guest_job(
    folder: Path, dtype: Dtype, inputs: Sequence[TokenSequence], tenants: int
) -> dict[str, Any]:
    """The job of a guest: the same backbone, rows, owners and number of threads."""
    return {
        "bench": "mixed",
        "model": str(folder),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "rows": [list(row.input_ids) for row in inputs],
        "tenants": tenants,
        "owners": owners_of(len(inputs), tenants),
    }
