"""A folder with a model for a runtime: one adapter or many, with the tokenizer and the labels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..adapter.adapter import Adapter
from ..adapter.json_file import to_json
from ..atomic import write_folder
from ..backbone.model import Backbone
from ..errors import AdapterError
from ..inference.pipeline import encode_requests
from ..schema import dump
from ..tasks.types import Text
from .comparison import Comparison, Request, compare
from .merged_checkpoint import name_labels, tokenizer_files
from .onnx_graph import write_onnx_graph
from .onnx_runtime import OnnxRuntime
from .openvino import OpenVino
from .padded_model import PaddedModel
from .runtime import Runtime

ADAPTERS = "adapters.json"
"""The adapters of a file, in the order of their numbers."""

RUNTIMES: Mapping[str, Runtime] = {runtime.type: runtime for runtime in (OnnxRuntime(), OpenVino())}
"""Every runtime by the name of its format."""

NamedRow = tuple[str | None, Text, str]
"""A row to compare: name of its adapter (None for all), its text, and how messages call it."""


def write_runtime_folder(
    runtime: Runtime,
    adapters: Sequence[Adapter],
    backbone: Backbone,
    folder: Path,
    rows: Sequence[NamedRow] = (),
    int8: bool = False,
) -> Comparison:
    """Writes a model that answers as adapters do, to a new folder.

    The file is compared with the adapters before it gets its name.

    Args:
        runtime: The runtime that reads it.
        adapters: The adapters, all of one task.
        backbone: Their backbone, in float32 and not prepared.
        folder: The new folder.
        rows: Rows to compare; the task's example for every adapter if there are none.
        int8: Whether weights become 8-bit numbers, which changes answers.

    Returns:
        How far its answers are from those of the adapters.

    Raises:
        AdapterError: It would answer otherwise, a library is missing, or the folder cannot be
            written.
    """
    runtime.require_libraries(int8)
    if int8 and not rows:
        raise AdapterError("8-bit weights change answers: give --rows FILE to measure the change")
    model = PaddedModel(adapters, backbone)
    requests = compared_requests(model, backbone, rows)
    with TemporaryDirectory() as drafts:
        graph, written = Path(drafts) / "graph.onnx", Path(drafts) / "model"
        written.mkdir()
        write_onnx_graph(model, graph)
        runtime.write(graph, written, int8)
        files = {path.name: path.read_bytes() for path in written.iterdir()}
    files |= _settings_files(model, backbone)
    found: list[Comparison] = []

    def check(draft: Path) -> None:
        found.append(compare(runtime.open(draft), model, backbone, requests, exact=not int8))

    write_folder(folder, files, check)
    return found[0]


def compared_requests(
    model: PaddedModel, backbone: Backbone, rows: Iterable[NamedRow]
) -> list[Request]:
    """The rows to compare, tokenised. A row is for every adapter of its name, of which there may be
    several versions, and one without a name is for all adapters.

    Raises:
        AdapterError: A row names an adapter that is not in the file.
        DataError: A row is not valid.
    """
    numbers: dict[str | None, list[int]] = {None: list(range(len(model.adapters)))}
    for number, adapter in enumerate(model.adapters):
        numbers.setdefault(adapter.name, []).append(number)
    named: list[tuple[int, Text, str]] = []
    for name, text, where in rows:
        if name not in numbers:
            raise AdapterError(f"{where}: '{name}' is none of the adapters that are exported")
        named += [(number, text, where) for number in numbers[name]]
    if not named:
        for number, adapter in enumerate(model.adapters):
            example = adapter.task.example_request(adapter.inputs.required)
            named.append((number, example, f"the example of '{adapter.name}'"))
    readers = [_cut_to(model.limit, adapter) for adapter in model.adapters]
    owners = [readers[number] for number, _, _ in named]
    texts, places = [text for _, text, _ in named], [where for _, _, where in named]
    examples = encode_requests(backbone, owners, texts, places)
    return [(number, example) for (number, _, _), example in zip(named, examples, strict=True)]


def _cut_to(limit: int, adapter: Adapter) -> Adapter:
    """An adapter that reads no more tokens than the tokenizer of a file gives."""
    task: Any = adapter.task
    return replace(adapter, task=replace(task, max_length=limit))


def _settings_files(model: PaddedModel, backbone: Backbone) -> dict[str, bytes]:
    """Tokenizer, settings of the backbone, and the adapters by their numbers."""
    first, *others = model.adapters
    config: Any = copy.deepcopy(backbone.model.config)
    if not others:
        name_labels(config, first)
    return {
        **tokenizer_files(first, backbone, model.limit),
        "config.json": config.to_json_string().encode(),
        ADAPTERS: to_json({"adapters": listed_adapters(model)}),
    }


def listed_adapters(model: PaddedModel) -> list[dict[str, Any]]:
    """What `adapters.json` says of each adapter: its name, task, number of logits and labels, and
    all settings of the task, such as the thresholds with which answers are made of the logits."""
    return [
        {
            "name": adapter.name,
            "task": adapter.task.type,
            "outputs": width,
            "labels": getattr(adapter.task, "labels", None),
            "settings": {key: value for key, value in dump(adapter.task).items() if key != "type"},
        }
        for adapter, width in zip(model.adapters, model.widths, strict=True)
    ]
