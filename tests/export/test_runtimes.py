"""Models for ONNX Runtime and OpenVINO, where they are installed, against the adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.runtime_folder import ADAPTERS, RUNTIMES, write_runtime_folder
from adapterkit.tasks.base import tasks
from helpers.adapters import METHODS, MakeAdapter, of_method
from helpers.command_line import assert_refused, run_command
from helpers.families import MODEL_TYPES, save_family
from helpers.task_adapters import random_task_adapter

ROWS = [(None, text, f"row {n}") for n, text in enumerate(["where is my card", "a", "rain sun"])]


def require(kind: str) -> Any:
    """The runtime; without its libraries the test is skipped."""
    runtime = RUNTIMES[kind]
    for library in (*runtime.libraries, *runtime.int8_libraries):
        pytest.importorskip(library, reason=f"the extra {kind} is not installed")
    return runtime


@pytest.mark.parametrize("kind", RUNTIMES)
def test_what_is_missing_is_named(
    kind: str, tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = RUNTIMES[kind].libraries[-1]
    for name in RUNTIMES[kind].libraries:
        monkeypatch.setitem(sys.modules, name, tiny)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(AdapterError, match=rf"needs {library}: pip install 'adapterkit\[{kind}\]'"):
        write_runtime_folder(RUNTIMES[kind], [make_adapter(tiny)], tiny, Path("out"))
    for name in (*RUNTIMES[kind].libraries, *RUNTIMES[kind].int8_libraries):
        monkeypatch.setitem(sys.modules, name, tiny)
    with pytest.raises(AdapterError, match="give --rows FILE to measure the change"):
        write_runtime_folder(RUNTIMES[kind], [make_adapter(tiny)], tiny, Path("out"), int8=True)
    assert not Path("out").exists()


def test_other_formats_take_one_adapter() -> None:
    arguments = ("export", "acme/intent", "--output", "out", "--format", "merged")
    words = "takes one adapter, and neither --int8 nor --rows; those are for onnx and openvino"
    assert_refused(*arguments, "--int8", words=words)
    assert_refused(*arguments, "acme/other", words=words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.parametrize("int8", [False, True])
def test_a_file_of_every_method_answers_as_the_adapters(
    kind: str,
    int8: bool,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    report: Callable[[str], None],
) -> None:
    runtime = require(kind)
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    adapters = [make_adapter(tiny, name, name=f"t/{name}", **METHODS[name]) for name in METHODS]
    found = write_runtime_folder(runtime, adapters, tiny, Path("many"), ROWS, int8)
    report(f"{kind}, {'int8' if int8 else 'float32'}: {found}")
    assert found.rows == len(ROWS) * len(adapters)
    assert found.difference < (0.2 if int8 else 1e-4)
    listed = json.loads((Path("many") / ADAPTERS).read_text())["adapters"]
    assert [one["name"] for one in listed] == [adapter.name for adapter in adapters]


def write_every_method(backbone: Backbone, task: str) -> int:
    """Writes adapters of a task by every method as one ONNX file, and returns their number."""
    adapter = random_task_adapter(backbone, task, Path())
    adapters = [replace(of_method(adapter, m, backbone), name=f"t/{m}") for m in METHODS]
    return write_runtime_folder(require("onnx"), adapters, backbone, Path("onnx")).rows


# That the model of padded rows answers for every task in every family is tested without a runtime.
@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_leaves_as_onnx(
    model_type: str, tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    folder = save_family(tmp_path / "model", model_type, tiny_folder)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    n = write_every_method(backbone, "classification")
    report(f"{model_type}: {n} methods equal in ONNX Runtime")


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name, task in tasks().items() if not task.masks_tokens])
def test_every_task_leaves_as_onnx(
    task: str, tiny_folder: Path, report: Callable[[str], None]
) -> None:
    n = write_every_method(Backbone.load(str(tiny_folder), device="cpu", prepared=False), task)
    report(f"{task}: {n} methods equal in ONNX Runtime")


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNTIMES)
def test_the_command_writes_a_model(
    kind: str, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    require(kind)
    for seed, name in enumerate(("acme/intent", "acme/other")):
        adapter = make_adapter(tiny, "bottleneck", name=name, seed=seed, pooling="cls")
        Store("adapters").publish(replace(adapter, backbone=str(tiny_folder)), tiny.geometry)
    Path("rows.csv").write_text("text,adapter\nwhere is my card,acme/other\nrain,acme/intent\n")
    names = ("export", "acme/intent", "acme/other")
    arguments = ("--format", kind, "--output", "out", "--rows", "rows.csv", "--json")
    run = run_command(*names, *arguments)
    assert run.json["largest_probability_difference"] < 1e-4
    assert (run.json["rows"], run.json["same_answers"]) == (2, 2)
