"""Timings as ratios of medians, measured side by side in one run.

Rows are seeded: everyone who runs a bench times the same lengths. Systems take turns, so that a
machine whose speed drifts slows all of them alike.
"""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from .adapter import Adapter
from .backbone import Backbone
from .batch import Inputs
from .forward import forward
from .geometry import LINEAR_SITES
from .method import methods
from .task import tasks

Kind = Literal["short", "long"]
Rows = list[tuple[Adapter | None, Inputs]]

LENGTHS = {"short": (2.6, 0.45, 4, 60, 64), "long": (4.3, 0.7, 16, 384, 32)}
"""Log-normal mu and sigma, shortest, longest and number of rows."""

MIXES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "lora q+v": [("lora", {})],
    "lora all six": [("lora", {"targets": LINEAR_SITES})],
    "prefix 20": [("prefix", {})],
    "bottleneck 16": [("bottleneck", {"size": 16})],
    "three methods": [("lora", {}), ("prefix", {}), ("bottleneck", {"size": 16})],
}


def bench_rows(kind: Kind) -> list[Inputs]:
    """Seeded token ids with the bench's spread of lengths."""
    mu, sigma, low, high, n = LENGTHS[kind]
    rng = random.Random(0)
    lengths = [max(low, min(high, int(rng.lognormvariate(mu, sigma)))) for _ in range(n)]
    words = random.Random(1)
    return [
        Inputs([101, *(words.randrange(1000, 30000) for _ in range(n - 2)), 102], [0] * n)
        for n in lengths
    ]


def bench_backbone(shape: str, dtype: Any) -> Backbone:
    """`minilm`, or `base`: a randomly initialised BERT of BERT-base's shape."""
    if shape != "base":
        return Backbone.load(shape, dtype=dtype)
    import tempfile

    from transformers import AutoTokenizer, BertConfig, BertModel

    from .checkpoint import locate

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(folder)
        return Backbone.load(folder, dtype=dtype)


def bench_adapters(backbone: Backbone, mix: str, n: int) -> list[Adapter]:
    """Random adapters, their methods in turn, each with a head of its own."""
    classification: Any = tasks()["classification"]
    adapters = []
    for place in range(n):
        kind, settings = MIXES[mix][place % len(MIXES[mix])]
        method = methods()[kind](**settings)
        generator = torch.Generator().manual_seed(place)
        tensors = {
            name: torch.randn(shape, generator=generator) * 0.02
            for name, shape in method.shapes(backbone.geometry).items()
        }
        labels = tuple(f"label {i}" for i in range(2 + place % 9))
        task = classification(pooling="mean", labels=labels)
        head = task.fresh_head(backbone.geometry.hidden, generator)
        adapters.append(
            Adapter(
                name=f"tenant{place}/{kind}",
                method=method,
                task=task,
                tensors=tensors,
                head=head,
                backbone=backbone.name,
                fingerprint=backbone.fingerprint,
                lower_case=backbone.lower_case,
            )
        )
    return adapters


def take_turns(systems: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every system in every round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for name, run in systems.items():
            began = time.perf_counter()
            run()
            if turn:
                times[name].append(1000.0 * (time.perf_counter() - began))
    return times


def floor_of(backbone: Backbone, n_tokens: int) -> Callable[[], None]:
    """The backbone's own linears alone, with the best product this machine has."""
    linears: list[Any] = backbone.linears
    dtype = next(backbone.model.parameters()).dtype
    inputs = {
        linear.in_features: torch.randn(n_tokens, linear.in_features, dtype=dtype)
        for linear in linears
    }

    def run() -> None:
        for linear in linears:
            linear.forward(inputs[linear.in_features])

    return run


def bench_mixed(
    shape: str = "minilm",
    kind: Kind = "short",
    dtype: Any = "float32",
    tenants: Sequence[int] = (1, 16, 64),
    rounds: int = 7,
    peers: bool = True,
) -> dict[str, Any]:
    """Mixed inference: one batch of many tenants, against the base, the floor and the peers.

    Returns:
        `rows` (a line for each system: median milliseconds, ratios to base and floor) and where it
        was measured.
    """
    backbone = bench_backbone(shape, dtype)
    inputs = bench_rows(kind)
    systems: dict[str, Callable[[], object]] = {
        "floor": floor_of(backbone, sum(map(len, inputs))),
        "base": lambda: forward(backbone, [(None, row) for row in inputs]),
    }
    for mix in MIXES:
        for n in tenants:
            rows = _owned(inputs, bench_adapters(backbone, mix, n))
            systems[f"{mix}, {n} tenants"] = _forward_of(backbone, rows)
    if peers:
        systems |= _peers(shape, dtype, inputs, max(tenants))
    with torch.inference_mode():
        times = take_turns(systems, rounds)
    return _report(
        "mixed", times, shape=shape, kind=kind, dtype=dtype, threads=torch.get_num_threads()
    )


def _owned(inputs: Sequence[Inputs], adapters: Sequence[Adapter]) -> Rows:
    rng, n = random.Random(2), len(adapters)
    owners = [rng.randrange(n) if n < len(inputs) else i for i in range(len(inputs))]
    return [(adapters[owner], row) for owner, row in zip(owners, inputs, strict=True)]


def _forward_of(backbone: Backbone, rows: Rows) -> Callable[[], object]:
    return lambda: forward(backbone, rows)


def _peers(shape: str, dtype: str, inputs: Sequence[Inputs], n: int) -> dict[str, Any]:
    """transformers' padded batch, and PEFT's mixed batch where PEFT is installed."""
    from transformers import AutoModel, BertConfig, BertModel

    from .checkpoint import locate

    def padded() -> Any:
        torch.manual_seed(0)
        model: Any = (
            BertModel(BertConfig()) if shape == "base" else AutoModel.from_pretrained(locate(shape))
        )
        return model.to(getattr(torch, dtype)).eval()

    longest = max(map(len, inputs))
    ids = torch.zeros(len(inputs), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(inputs):
        ids[line, : len(row)] = torch.tensor(row.ids)
        mask[line, : len(row)] = 1
    plain = padded()
    systems: dict[str, Any] = {
        "transformers, padded": lambda: plain(input_ids=ids, attention_mask=mask)
    }
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return systems
    options: Any = {"r": 8, "lora_alpha": 16, "init_lora_weights": False}
    config = LoraConfig(target_modules=["query", "value"], **options)
    model: Any = get_peft_model(padded(), config, adapter_name="t0")
    for place in range(1, n):
        model.add_adapter(f"t{place}", config)
    model = model.to(getattr(torch, dtype)).eval()
    rng = random.Random(2)
    owners = [rng.randrange(n) if n < len(inputs) else i for i in range(len(inputs))]
    names = [f"t{owner}" for owner in owners]
    systems[f"PEFT lora q+v, {n} tenants"] = lambda: model(
        input_ids=ids, attention_mask=mask, adapter_names=names
    )
    return systems


def _report(name: str, times: Mapping[str, list[float]], **where: Any) -> dict[str, Any]:
    base = statistics.median(times["base"])
    floor = statistics.median(times["floor"])
    rows = []
    for system, measured in times.items():
        median = statistics.median(measured)
        rows.append(
            {
                "system": system,
                "ms": round(median, 2),
                "min": round(min(measured), 2),
                "max": round(max(measured), 2),
                "base over it": round(base / median, 3),
                "floor over it": round(floor / median, 3),
            }
        )
    return {
        "bench": name,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **where,
        "rows": rows,
    }
