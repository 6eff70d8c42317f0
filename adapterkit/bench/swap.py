"""Swapping: adapters are loaded, asked, unloaded and saved, with ever more of them in memory."""

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
from ..quiet import quiet_warnings
from .adapter_hosts import (
    CHECKS,
    OPERATIONS,
    AdapterHost,
    OwnHost,
    PeftHost,
    publish_adapters,
)
from .machine import has_peft, machine, resident_bytes
from .timing import ratio, spread, timed
from .workload import checkpoint

PEFT_LIMIT = 100
"""Most adapters that PEFT keeps in memory: each takes longer to load than the one before."""

LEAST_DIFFERENCE = 50
"""Fewest further adapters whose memory is measured: that of fewer is lost in noise."""


@dataclass(frozen=True)
class SwapBench:
    """LoRA adapters that are loaded and unloaded over one backbone.

    Every number of residents is measured twice, on the way up and on the way down, so that a
    drift of the machine's speed cancels out. Files come from the system's cache, as they do if
    adapters are swapped often. Beside the usual load, which compares files with their checksums,
    folders without checksums and folders with a signature are loaded.

    Attributes:
        backbone: minilm, base (BERT-base's shape, random weights), a folder or a hub name.
        resident: Numbers of adapters in memory; on minilm each takes 0.3 MB.
        rounds: How often each operation counts on each way.
        peers: Also measure PEFT, if it is installed, with up to 100 residents.

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
        """Measures times and memory.

        Returns:
            `bench`, `settings`, `machine`; `rows`: for each system, operation and number `resident`
            the median `ms` with `min` and `max`, and `over_fewest`, its ratio to that of the fewest
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
            measurements = Measurements(published.tensor_bytes)
            counts = sorted(set(self.resident))
            # PEFT first: ten thousand adapters of ours would leave it a fragmented heap.
            few = [n for n in counts if n <= PEFT_LIMIT]
            if few and self.peers and has_peft():
                with quiet_warnings():
                    self.measure(PeftHost(folder, published, work), few, measurements)
            self.measure(OwnHost(backbone, published, work), counts, measurements)
        return {
            "bench": "swap",
            "settings": asdict(self),
            "machine": machine(),
            "rows": result_rows(measurements.times),
            "memory": measurements.memory,
        }

    def measure(self, host: AdapterHost, counts: Sequence[int], measurements: Measurements) -> None:
        up_and_down = [*counts, *counts[-2::-1]]
        total = len(up_and_down) * (self.rounds + 1)
        with tqdm(total=total, unit="round", disable=None) as bar, torch.inference_mode():
            for n in up_and_down:
                bar.set_description(f"{host.system}, {n} resident")
                measurements.resize(host, n)
                for turn in range(self.rounds + 1):
                    for name, operation in host.operations.items():
                        milliseconds = timed(getattr(host, operation))
                        if turn:
                            measurements.record(host.system, name, n, milliseconds)
                    bar.update()


@dataclass
class Measurements:
    """Times and memory that were measured so far.

    Attributes:
        tensor_bytes: Bytes of one adapter's tensors.
        times: Milliseconds by system, operation and number of residents.
        memory: Rows of the result's `memory`.
    """

    tensor_bytes: int
    times: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    memory: list[dict[str, Any]] = field(default_factory=list)

    def record(self, system: str, operation: str, resident: int, milliseconds: float) -> None:
        """Adds one time."""
        self.times.setdefault((system, operation, resident), []).append(milliseconds)

    def resize(self, host: AdapterHost, n: int) -> None:
        """Resizes a host to n adapters and records by how much the process grew for each."""
        gc.collect()
        resident_before, before = host.n_resident, resident_bytes()
        host.resize(n)
        gc.collect()
        after = resident_bytes()
        if before is None or after is None or n - resident_before < LEAST_DIFFERENCE:
            return
        each = (after - before) / (n - resident_before)
        self.memory.append(
            {
                "system": host.system,
                "resident": n,
                "bytes_per_adapter": round(each),
                "tensor_bytes": self.tensor_bytes,
                "over_tensors": round(each / self.tensor_bytes, 3),
            }
        )


def result_rows(times: Mapping[tuple[str, str, int], Sequence[float]]) -> list[dict[str, Any]]:
    """Builds a result row for each system, operation and number of residents."""
    rows = []
    order = [*CHECKS, *OPERATIONS]
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
