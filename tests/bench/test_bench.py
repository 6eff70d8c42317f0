"""What all benchmarks share: turns, ratios of medians, the workload, guests, the command line."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest
import torch

from adapterkit.backbone.model import Backbone
from adapterkit.bench.guest import Guest
from adapterkit.bench.machine import machine, peak_bytes, resident_bytes
from adapterkit.bench.mixed import result_rows as mixed_rows
from adapterkit.bench.swap import result_rows as swap_rows
from adapterkit.bench.systems import BASE, FLOOR, OWN, PEAK, PEAK_FLOPS, PEFT, PRODUCTS, System
from adapterkit.bench.table import result_text
from adapterkit.bench.timing import ratio, spread, take_turns
from adapterkit.bench.training import FLOOR as TRAINING_FLOOR
from adapterkit.bench.training import PEFT as TRAINER
from adapterkit.bench.training import rates
from adapterkit.bench.training import result_rows as training_rows
from adapterkit.bench.workload import (
    LENGTHS,
    assign_owners,
    bench_adapters,
    bench_rows,
    labelled_rows,
    lengths,
    owners_of,
)
from adapterkit.errors import AdapterkitError
from helpers.command_line import assert_one_line, run_command
from helpers.guest import GUEST


def nothing() -> None:
    """A run that does nothing."""


def test_systems_run_in_turns() -> None:
    runs: list[str] = []
    systems = {name: (lambda name=name: runs.append(name)) for name in "abcd"}
    times = take_turns(systems, 5)
    assert {name: len(measured) for name, measured in times.items()} == dict.fromkeys("abcd", 5)
    turns = ["".join(runs[first : first + 4]) for first in range(0, len(runs), 4)]
    assert len(turns) == 6  # one to warm up
    assert all(sorted(turn) == list("abcd") for turn in turns)
    assert len(set(turns)) > 1


def test_times_are_read_from_the_clock() -> None:
    readings = iter([1.0, 1.5, 7.0, 7.25, 9.0, 11.0])
    assert take_turns({"a": nothing}, 2, clock=lambda: next(readings)) == {"a": [250.0, 2000.0]}


def test_ratios_are_of_medians() -> None:
    assert ratio([100, 1, 3], [2, 2, 900]) == 1.5
    assert spread([100, 1, 3], "ms") == {"ms": 3, "min": 1, "max": 100}
    assert ratio([1], [3]) == 0.3333


def test_a_mixed_row_is_compared_with_peft_at_as_many_tenants() -> None:
    systems = [
        System(OWN, FLOOR, 0, nothing),
        System(OWN, PRODUCTS, 0, nothing),
        System(OWN, BASE, 0, nothing),
        System(OWN, "lora q+v", 64, nothing),
        System(PEFT, "lora q+v", 1, nothing),
        System(PEFT, "lora q+v", 64, nothing),
    ]
    measured = (
        [30, 40, 90],
        [45, 45, 40],
        [50, 50, 9],
        [80, 100, 1000],
        [1, 1, 1],
        [400, 300, 500],
    )
    times = {system.label: list(times) for system, times in zip(systems, measured, strict=True)}
    rows = mixed_rows(systems, times, 900, 0)
    assert rows[3] == {
        "system": OWN,
        "batch": "lora q+v",
        "tenants": 64,
        "ms": 100,
        "min": 80,
        "max": 1000,
        "tokens_per_second": 9000,
        "base_over_it": 0.5,
        "floor_over_it": 0.4,
        "products_over_it": 0.45,
        "faster_than_peft": 4.0,
    }
    assert [row["faster_than_peft"] for row in rows] == [None, None, None, 4.0, 1.0, 1.0]


def test_on_a_gpu_a_mixed_row_is_compared_with_one_large_product() -> None:
    systems = [System("torch", PEAK, 0, nothing)]
    systems += [System(OWN, batch, 0, nothing) for batch in (FLOOR, BASE)]
    times = dict(zip([system.label for system in systems], [[2.0], [4.0], [8.0]], strict=True))
    rows = mixed_rows(systems, times, 1000, PEAK_FLOPS // 1000)
    assert [row["batch"] for row in rows] == [FLOOR, BASE]
    assert [row["of_peak"] for row in rows] == [0.5, 0.25]


def test_a_training_row_is_compared_with_peft_and_the_floor() -> None:
    def runs(*measured: tuple[float, float]) -> list[dict[str, float]]:
        return [{"rows_per_second": rate, "peak_mb": peak} for rate, peak in measured]

    rows = training_rows(
        {
            (TRAINING_FLOOR, ""): runs((400, 1), (100, 1), (500, 1)),
            (OWN, "lora"): runs((300, 600), (300, 500), (10, 550)),
            (TRAINER, "lora"): runs((60, 2000), (70, 1100), (50, 1000)),
            (OWN, "bottleneck"): runs((200, 600)),
        }
    )
    assert rows[1] == {
        "system": OWN,
        "method": "lora",
        "rows_per_second": 300,
        "min": 10,
        "max": 300,
        "peak_mb": 550,
        "it_over_floor": 0.75,
        "faster_than_peft": 5.0,
        "peak_over_peft": 0.5,
    }
    assert rows[3]["faster_than_peft"] is None


def test_the_first_quarter_of_the_steps_does_not_count() -> None:
    reply = {"step_seconds": [50.0, 9.0, *[0.5] * 6], "peak_bytes": 2_000_000}
    assert rates(reply) == {"rows_per_second": 64.0, "peak_mb": 2.0}


def test_a_swap_row_is_compared_with_the_fewest_residents() -> None:
    times = {
        ("adapterkit", "save", 1): [7.0],
        ("adapterkit", "cold load", 100): [3.0, 30.0, 2.0],
        ("adapterkit", "cold load", 1): [1.0, 2.0, 90.0],
    }
    rows = swap_rows(times)
    assert [(row["operation"], row["resident"], row["over_fewest"]) for row in rows] == [
        ("cold load", 1, 1.0),
        ("cold load", 100, 1.5),
        ("save", 1, 1.0),
    ]


@pytest.mark.parametrize("kind", ["short", "long"])
def test_rows_are_the_same_in_every_run(kind: Any, tiny: Backbone, minilm: Backbone) -> None:
    _, _, shortest, longest, n = LENGTHS[kind]
    rows = bench_rows(kind, minilm)
    assert rows == bench_rows(kind, minilm)
    assert [len(row) for row in rows] == lengths(kind)
    assert len(rows) == n
    assert len(bench_rows(kind, minilm, 3)) == 3
    assert shortest <= min(map(len, rows)) <= max(map(len, rows)) <= longest
    assert all(row.input_ids[0] == 101 and row.input_ids[-1] == 102 for row in rows)
    limit = tiny.geometry.positions - 20
    assert [len(row) for row in bench_rows(kind, tiny)] == [
        min(size, limit) for size in lengths(kind)
    ]


def test_owners_are_random_or_all_different() -> None:
    assert owners_of(64, 16) == owners_of(64, 16)
    assert len(set(owners_of(64, 16))) > 10
    assert set(owners_of(64, 16)) <= set(range(16))
    assert owners_of(64, 64) == owners_of(64, 1000) == list(range(64))


def test_a_mix_of_methods_contains_each_of_them(tiny: Backbone) -> None:
    adapters = bench_adapters(tiny, "three methods", 6)
    assert [adapter.method.type for adapter in adapters] == ["lora", "prefix", "bottleneck"] * 2
    assert len({adapter.name for adapter in adapters}) == 6
    assert all(t.abs().min() > 0 for adapter in adapters for t in adapter.tensors.values())
    rows = assign_owners(bench_rows("short", tiny), adapters)
    assert [adapter.name for adapter, _ in rows if adapter] == [
        adapters[owner].name for owner in owners_of(64, 6)
    ]


def test_labelled_rows_have_the_short_lengths_and_77_labels(minilm: Backbone) -> None:
    texts, labels = labelled_rows(minilm.tokenizer, 200)
    assert [len(ids) for ids in minilm.tokenizer(texts)["input_ids"]] == lengths("short", 200)
    assert len(set(labels)) == 77
    assert labelled_rows(minilm.tokenizer, 200) == (texts, labels)


def test_the_machine_is_described() -> None:
    description = machine()
    keys = {"processor", "instructions", "cores", "threads", "python", "torch", "transformers"}
    assert keys | {"peft"} <= set(description)
    assert torch.backends.cpu.get_cpu_capability() in description["instructions"]
    assert peak_bytes() >= (resident_bytes() or 0) > 0


def test_a_guest_replies_line_by_line() -> None:
    with Guest([sys.executable, "-c", GUEST], {"rows": [[1], [2]], "tenants": 3}) as guest:
        assert guest.first_reply == [["guest", "2 rows", 3]]
        assert guest.request(0) == guest.request(0) == "done"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "status 3"),
        ([sys.executable, "-c", "print('hello')"], "'hello"),
        (["./not-there"], "cannot be run"),
    ],
)
def test_a_guest_that_does_not_reply_is_an_error(command: list[str], words: str) -> None:
    with pytest.raises(AdapterkitError, match=words):
        Guest(command, {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mixed --tenants 1,many", "--tenants 1,many"),
        ("mixed --tenants 0", "at least 1"),
        ("mixed --rounds 0", "at least 1"),
        ("mixed --plot bars.jpg", ".png"),
        ("mixed --plot no/folder/bars.png", "there is no folder no/folder"),
        ("mixed --backbone ./nowhere", "there is no such folder"),
        ("train --method lore", "did you mean 'lora'?"),
        ("train --steps 3", "at least 4 steps"),
        ("swap --resident 0,1", "at least 1"),
        ("start --rounds 0", "at least 1"),
        ("nothing", "No such command"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(line: str, words: str) -> None:
    assert_one_line(run_command("bench", *shlex.split(line)), words)


def test_bench_without_a_command_lists_them() -> None:
    result = run_command("bench")
    assert result.code == 0
    assert all(name in result.out for name in ("mixed", "train", "swap", "start"))


def test_a_result_is_printed_as_a_table() -> None:
    result = {
        "bench": "start",
        "settings": {"rounds": 5, "peers": True},
        "machine": {"processor": "P", "gpu": None},
        "rows": [{"system": "a", "ms": 1234.5}, {"system": "b", "ms": None}],
    }
    assert result_text(result).splitlines() == [
        "bench start: rounds 5, peers True",
        "processor P",
        "",
        "system  ms",
        "a       1234.5",
        "b",
    ]
