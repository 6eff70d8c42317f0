"""Swapping: loading, asking another, unloading and saving, with ever more adapters resident."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbone.model import Backbone
from ..errors import AdapterkitError
from .holders import OPERATIONS, Holder, OwnHolder, PeftHolder, publish_adapters
from .machine import has_peft, machine, resident_bytes
from .peers import hushed
from .timing import ratio, spread, timed
from .workload import checkpoint

PEFT_LIMIT = 100
"""Most adapters PEFT is asked to hold: each takes it longer to load than the one before."""

ENOUGH = 50
"""Fewest adapters whose memory can be told from the noise of everything else."""


@dataclass(frozen=True)
class SwapBench:
    """LoRA adapters coming and going over one backbone.

    Every number of residents is measured twice, on the way up and on the way down, so that a
    drift of the machine's speed cancels out. Files come from the system's cache, as they do where
    adapters are swapped often.

    Attributes:
        backbone: minilm, base (BERT-base's shape, random weights), a folder or a hub name.
        resident: Numbers of adapters; on minilm each takes 0.3 MB.
        rounds: Times each operation counts on each way.
        peers: Measure PEFT, where it is installed, at up to 100 residents.

    Raises:
        AdapterkitError: A number is less than one.
    """

    backbone: str = "minilm"
    resident: tuple[int, ...] = (1, 100, 1000, 10000)
    rounds: int = 20
    peers: bool = True

    def __post_init__(self) -> None:
        if not self.resident or min(self.resident) < 1 or self.rounds < 1:
            raise AdapterkitError(
                f"resident and rounds must be at least 1, got {self.resident} and {self.rounds}"
            )

    def run(self) -> dict[str, Any]:
        """Times, memory, and ratios of medians.

        Returns:
            `bench`, `settings`, `machine`; `rows`: for each system, operation and number `resident`
            the median `ms` with `min` and `max`, and `over_fewest`, its ratio to the fewest
            residents; `memory`: for each system and number `resident` the `bytes_per_adapter` by
            which the process grew, `tensor_bytes`, and the ratio `over_tensors`.

        Raises:
            AdapterkitError: The backbone cannot be used.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(checkpoint(self.backbone))
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            backbone = Backbone.load(str(folder), device="cpu")
            published = publish_adapters(backbone, work / "store")
            ledger = Ledger(published.tensor_bytes)
            counts = sorted(set(self.resident))
            # PEFT first: what ten thousand adapters leave of the heap would not help it.
            few = [n for n in counts if n <= PEFT_LIMIT]
            if few and self.peers and has_peft():
                with hushed():
                    self.measure(PeftHolder(folder, published, work), few, ledger)
            self.measure(OwnHolder(backbone, published, work), counts, ledger)
        return {
            "bench": "swap",
            "settings": asdict(self),
            "machine": machine(),
            "rows": compared(ledger.times),
            "memory": ledger.memory,
        }

    def measure(self, holder: Holder, counts: Sequence[int], ledger: Ledger) -> None:
        way = [*counts, *counts[-2::-1]]
        total = len(way) * (self.rounds + 1)
        with tqdm(total=total, unit="round", disable=None) as bar, torch.inference_mode():
            for n in way:
                bar.set_description(f"{holder.system}, {n} resident")
                ledger.resize(holder, n)
                for turn in range(self.rounds + 1):
                    for name, operation in OPERATIONS.items():
                        milliseconds = timed(getattr(holder, operation))
                        if turn:
                            ledger.note(holder.system, name, n, milliseconds)
                    bar.update()


@dataclass
class Ledger:
    """What was measured so far.

    Attributes:
        tensor_bytes: Bytes of one adapter's tensors.
        times: System, operation and residents to milliseconds.
        memory: Lines of the result's `memory`.
    """

    tensor_bytes: int
    times: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    memory: list[dict[str, Any]] = field(default_factory=list)

    def note(self, system: str, operation: str, resident: int, milliseconds: float) -> None:
        """Keeps one time."""
        self.times.setdefault((system, operation, resident), []).append(milliseconds)

    def resize(self, holder: Holder, n: int) -> None:
        """Lets a holder hold n adapters, and keeps by how much the process grew for each."""
        gc.collect()
        held, before = holder.held, resident_bytes()
        holder.resize(n)
        gc.collect()
        after = resident_bytes()
        if before is None or after is None or n - held < ENOUGH:
            return
        each = (after - before) / (n - held)
        self.memory.append(
            {
                "system": holder.system,
                "resident": n,
                "bytes_per_adapter": round(each),
                "tensor_bytes": self.tensor_bytes,
                "over_tensors": round(each / self.tensor_bytes, 3),
            }
        )


def compared(times: Mapping[tuple[str, str, int], Sequence[float]]) -> list[dict[str, Any]]:
    """A line for each system, operation and number of residents, operation by operation."""
    rows = []
    order = list(OPERATIONS)
    for key in sorted(times, key=lambda key: (key[0], order.index(key[1]), key[2])):
        system, operation, resident = key
        fewest = min(n for other, name, n in times if (other, name) == (system, operation))
        rows.append(
            {
                "system": system,
                "operation": operation,
                "resident": resident,
                **spread(times[key], "ms"),
                "over_fewest": ratio(times[key], times[system, operation, fewest]),
            }
        )
    return rows
