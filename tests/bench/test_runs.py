"""The benchmarks of training, swapping and starting run and return what they document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.backbone.model import Backbone
from adapterkit.bench.adapter_hosts import (
    CHECKS,
    OPERATIONS,
    OwnHost,
    PeftHost,
    PublishedAdapters,
    publish_adapters,
)
from adapterkit.bench.many import ManyBench
from adapterkit.bench.swap import Measurements, SwapBench
from adapterkit.bench.trainers import SYSTEMS, UnsupportedMethodError
from adapterkit.bench.training import TrainBench
from adapterkit.bench.workload import tenant_rows
from adapterkit.errors import AdapterkitError
from adapterkit.methods.base import methods
from adapterkit.quiet import quiet_warnings
from helpers.command_line import run_command
from helpers.paths import ROOT


@pytest.mark.slow
def test_bench_train_measures_rates_and_peaks(tiny_folder: Path) -> None:
    options = ("--steps", "4", "--rounds", "1", "--no-peers", "--json")
    result = run_command("bench", "train", "--backbone", tiny_folder, *options).json
    assert result.keys() == {"bench", "settings", "machine", "rows"}
    floor, own = result["rows"]
    assert (floor["system"], floor["method"]) == ("floor: the linears alone", None)
    assert (own["system"], own["method"]) == ("adapterkit", "lora")
    assert own.keys() == {
        "system",
        "method",
        "rows_per_second",
        "min",
        "max",
        "peak_mb",
        "it_over_floor",
        "faster_than_peft",
        "peak_over_peft",
    }
    assert own["peak_mb"] > 50
    assert own["faster_than_peft"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_every_trainer_takes_every_step(tiny_folder: Path, kind: str, dtype: Any) -> None:
    job = TrainBench(str(tiny_folder), steps=4, dtype=dtype).job(tiny_folder, kind)
    assert len(job["texts"]) == len(job["labels"]) == 4 * job["batch"]
    for name, trainer in SYSTEMS.items():
        with quiet_warnings():
            ends = trainer(job)
        assert len(ends) == 4, name
        assert ends == sorted(ends)


def test_a_method_that_peft_does_not_have_is_omitted(tiny_folder: Path) -> None:
    job = TrainBench(str(tiny_folder), steps=4).job(tiny_folder, "bottleneck")
    with pytest.raises(UnsupportedMethodError):
        SYSTEMS["peft"](job)


def test_every_method_can_be_measured() -> None:
    for kind in (*methods(), "all"):
        assert TrainBench(method=kind).method == kind


def test_a_method_over_saved_adapters_is_trained_over_random_ones(tiny_folder: Path) -> None:
    job = TrainBench(str(tiny_folder), steps=4).job(tiny_folder, "fusion")
    assert len(SYSTEMS["adapterkit"](job)) == 4
    with pytest.raises(AdapterkitError, match="the method 'fusion' needs saved adapters"):
        ManyBench(method="fusion")


def test_bench_swap_measures_times_and_memory(tiny_folder: Path) -> None:
    options = ("--resident", "1,12", "--rounds", "1", "--json")
    result = run_command("bench", "swap", "--backbone", tiny_folder, *options).json
    assert result.keys() == {"bench", "settings", "machine", "rows", "memory"}
    measured = {(row["system"], row["operation"], row["resident"]) for row in result["rows"]}
    assert measured == {
        (system, operation, n)
        for system, operations in (("adapterkit", [*CHECKS, *OPERATIONS]), ("PEFT", OPERATIONS))
        for operation in operations
        for n in (1, 12)
    }
    for row in result["rows"]:
        assert {"ms", "min", "max", "over_fewest"} < row.keys()
        assert row["over_fewest"] == 1.0 or row["resident"] == 12
    for line in result["memory"]:
        assert line["resident"] == 12
        assert line["bytes_per_adapter"] >= 0  # few adapters may fit into memory that was free
        assert line["tensor_bytes"] > 0


@pytest.fixture(scope="module")
def published(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> PublishedAdapters:
    return publish_adapters(tiny, tmp_path_factory.mktemp("published") / "store")


@pytest.mark.parametrize("system", ["adapterkit", "PEFT"])
def test_a_host_is_resized_and_runs_every_operation(
    system: str, tiny: Backbone, tiny_folder: Path, published: PublishedAdapters, tmp_path: Path
) -> None:
    with quiet_warnings():
        host: Any = (
            OwnHost(tiny, published, tmp_path)
            if system == "adapterkit"
            else PeftHost(tiny_folder, published, tmp_path)
        )
        for n in (1, 3, 2):
            Measurements(published.tensor_bytes).resize(host, n)
            assert host.n_resident == n
            with torch.inference_mode():
                for operation in host.operations.values():
                    getattr(host, operation)()


class Counter:
    """A host without adapters that records the sizes it is given."""

    system = "counter"
    operations = OPERATIONS

    def __init__(self) -> None:
        self.n_resident = 0
        self.sizes: list[int] = []

    def resize(self, n: int) -> None:
        self.n_resident = n
        self.sizes.append(n)

    def load(self) -> None: ...

    first_answer = answer_again = answer_by_another = unload = save = load


def test_residents_are_measured_on_the_way_up_and_down() -> None:
    counter, measurements = Counter(), Measurements(1)
    SwapBench(rounds=2).measure(counter, [1, 5, 9], measurements)
    assert counter.sizes == [1, 5, 9, 5, 1]
    for operation in OPERATIONS:
        counts = [len(measurements.times["counter", operation, n]) for n in (1, 5, 9)]
        assert counts == [4, 4, 2]


@pytest.mark.slow
def test_bench_start_measures_seconds(tiny_folder: Path) -> None:
    options = ("--rounds", "1", "--no-peers", "--json")
    result = run_command("bench", "start", "--backbone", tiny_folder, *options).json
    rows = {row["system"]: row for row in result["rows"]}
    assert list(rows) == ["python alone", "import adapterkit", "adapterkit --help", "first answer"]
    for row in rows.values():
        assert row.keys() == {"system", "seconds", "min", "max", "faster_than_peft"}
        assert row["seconds"] > 0


@pytest.mark.slow
def test_bench_many_reaches_the_same_scores_every_way(tiny_folder: Path) -> None:
    options = ("--tenants", "2", "--epochs", "1", "--batch", "16", "--json")
    result = run_command("bench", "many", "--backbone", tiny_folder, *options).json
    assert result.keys() == {"bench", "settings", "machine", "rows"}
    assert [row["system"] for row in result["rows"]] == [
        "train in turn, one process",
        "train_many, one process",
        "one command for each",
        "one command for all",
    ]
    for row in result["rows"]:
        assert row["seconds"] > 0
        assert row["most_apart"] <= 0.02
        assert row["accuracy"] == pytest.approx(result["rows"][0]["accuracy"], abs=0.01)


def test_tenants_differ_and_can_be_learnt(tiny: Backbone) -> None:
    first, second = (tenant_rows(tiny.tokenizer, tenant) for tenant in (0, 1))
    assert first == tenant_rows(tiny.tokenizer, 0) != second
    for rows in (first, second):
        assert 100 <= sum(row["split"] != "test" for row in rows) <= 300
        assert sum(row["split"] == "test" for row in rows) == 100
        labels = {
            split: {r["label"] for r in rows if r["split"] == split} for split in ("train", "test")
        }
        assert len(labels["train"]) >= 2
        assert labels["test"] <= labels["train"]


def test_bench_fanout_measures_times_and_ratios(tiny_folder: Path) -> None:
    options = ("--adapters", "3", "--texts", "4", "--epochs", "1", "--rounds", "1", "--json")
    result = run_command("bench", "fanout", "--backbone", tiny_folder, *options).json
    assert result.keys() == {"bench", "settings", "machine", "rows"}
    assert [row["system"].split(":")[0] for row in result["rows"]] == ["answering"] * 2 + [
        "training"
    ] * 2
    for row in result["rows"]:
        assert {"ms", "min", "max", "rows_per_second", "faster_than_plain"} < row.keys()
    assert [row["faster_than_plain"] for row in result["rows"][::2]] == [1.0, 1.0]


def test_the_readme_names_every_command_and_script() -> None:
    folder = ROOT / "recipes" / "bench"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("mixed", "train", "many", "fanout", "swap", "start"):
        assert f"adapterkit bench {name}" in readme
    for script in folder.glob("*.py"):
        compile(script.read_text(encoding="utf-8"), script.name, "exec")
        assert script.name in readme
