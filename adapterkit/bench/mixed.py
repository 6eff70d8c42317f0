"""Mixed inference: one batch of many tenants, against our plain backbone, bounds and peers."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..backbone.load_options import LoadOptions
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from .guest import Guest
from .machine import machine
from .systems import (
    BASE,
    FLOOR,
    OWN,
    PEAK,
    PEAK_FLOPS,
    PEFT,
    PRODUCTS,
    System,
    bare_forward,
    guest_job,
    guest_systems,
    linear_flops,
    own_systems,
    peer_systems,
)
from .timing import ratio, spread, take_turns
from .workload import Kind, bench_rows, checkpoint


@dataclass(frozen=True)
class MixedBench:
    """One batch of token ids through every system; ours computes the tenants' logits as well.

    Attributes:
        backbone: minilm, a folder or a hub name, or a shape with random weights: base
            (BERT-base's), or `random:` and a model type or a folder with a `config.json`.
        rows: short or long.
        count: Number of rows; as many as the kind has if omitted.
        length: Tokens of every row; as the kind has them if omitted.
        load_options: Dtype, quantization and device of all systems; with a quantization, our plain
            backbone in float32 is measured too.
        tenants: Numbers of tenants.
        rounds: Number of rounds that count.
        peers: Also measure transformers, and PEFT if it is installed.
        guests: Commands of systems in other environments (see `guest`).
        clock: Whether times are those of a clock on the wall, or of the processors for this
            process. Other programs on the machine hardly change the latter.

    Raises:
        AdapterkitError: A number is less than one, or the processor time would lack a guest's.
    """

    backbone: str = "minilm"
    rows: Kind = "short"
    count: int | None = None
    length: int | None = None
    load_options: LoadOptions = field(default_factory=LoadOptions)
    tenants: tuple[int, ...] = (1, 16, 64)
    rounds: int = 7
    peers: bool = True
    guests: tuple[str, ...] = ()
    clock: Literal["wall", "cpu"] = "wall"

    def __post_init__(self) -> None:
        if not self.tenants or min(*self.tenants, self.rounds, self.count or 1) < 1:
            raise AdapterkitError(
                "tenants, rounds and count must be at least 1, got "
                f"{self.tenants}, {self.rounds} and {self.count}"
            )
        if self.length is not None and self.length < 2:
            raise AdapterkitError(f"length must be at least 2 tokens, got {self.length}")
        if self.guests and self.clock == "cpu":
            raise AdapterkitError("clock: 'cpu' is the time of this process, without its guests")

    def run(self) -> dict[str, Any]:
        """Measures every system.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each `system`, `batch` and number of
            `tenants` the median `ms` with `min` and `max`, `tokens_per_second`, `base_over_it`,
            `floor_over_it`, and `faster_than_peft`: the time of PEFT's LoRA on query and value with
            as many tenants, divided by its own. On a CPU also `products_over_it`: the time of the
            linears and of the products of attention, divided by its own. On a GPU also `of_peak`:
            the operations a second of the linears, divided by those of one large product.

        Raises:
            AdapterkitError: The backbone or a guest cannot be used.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(checkpoint(self.backbone))
            backbone = Backbone.load_with(str(folder), self.load_options)
            systems, n_tokens = self.systems(folder, backbone, stack)
            runs = {system.label: system.run for system in systems}
            # On a GPU a shape of batch is computed twice before its CUDA graph is replayed.
            warm_up = 1 if backbone.device.type == "cpu" else 3
            with torch.inference_mode():
                clock = time.perf_counter if self.clock == "wall" else time.process_time
                times = take_turns(runs, self.rounds, warm_up, clock)
        settings = asdict(self)
        settings |= settings.pop("load_options")  # every setting is a key of its own
        return {
            "bench": "mixed",
            "settings": settings,
            "machine": machine(),
            "rows": result_rows(systems, times, n_tokens, linear_flops(backbone)),
        }

    def systems(
        self, folder: Path, backbone: Backbone, stack: ExitStack
    ) -> tuple[list[System], int]:
        """Every system, ready to run, and the number of tokens in the batch.

        Args:
            folder: The backbone's checkpoint.
            backbone: The backbone.
            stack: Ends the guest processes on exit.
        """
        inputs = bench_rows(self.rows, backbone, self.count, self.length)
        systems = list(own_systems(backbone, inputs, self.tenants))
        options = self.load_options
        if options.quantization != "none":
            plain = Backbone.load(str(folder), device=options.device)
            systems.append(System(OWN, "no adapters, float32", 0, bare_forward(plain, inputs)))
        if self.peers:
            systems += peer_systems(folder, backbone, inputs, self.tenants, options)
        job = guest_job(folder, options.dtype, inputs, max(self.tenants))
        for command in self.guests:
            systems += guest_systems(stack.enter_context(Guest(shlex.split(command), job)))
        return systems, sum(map(len, inputs))


def result_rows(
    systems: Sequence[System], times: Mapping[str, Sequence[float]], n_tokens: int, flops: int
) -> list[dict[str, Any]]:
    """Builds a result row for each system.

    Args:
        systems: The systems.
        times: Milliseconds of each round, by label.
        n_tokens: Number of tokens in the batch.
        flops: Operations of the backbone's linears for one token.
    """

    def times_of(batch: str) -> Sequence[float]:
        """Times of our system with a batch; empty if it was not measured."""
        return next((times[s.label] for s in systems if s.batch == batch), [])

    base, floor, products, peak = map(times_of, (BASE, FLOOR, PRODUCTS, PEAK))
    peft = {s.tenants: times[s.label] for s in systems if s.system == PEFT}
    rows = []
    for system in systems:
        if system.batch == PEAK:
            continue
        measured = times[system.label]
        line: dict[str, Any] = {
            "system": system.system,
            "batch": system.batch,
            "tenants": system.tenants,
            **spread(measured, "ms"),
        }
        line["tokens_per_second"] = round(1000 * n_tokens / line["ms"])
        line["base_over_it"] = ratio(base, measured)
        line["floor_over_it"] = ratio(floor, measured)
        if products:
            line["products_over_it"] = ratio(products, measured)
        other = peft.get(system.tenants)
        line["faster_than_peft"] = None if other is None else ratio(other, measured)
        if peak:
            line["of_peak"] = ratio(
                [time * flops * n_tokens / PEAK_FLOPS for time in peak], measured
            )
        rows.append(line)
    return rows
