"""ONNX Runtime: an ONNX file, with 8-bit weights by its dynamic quantisation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..quiet import quiet_warnings
from .runtime import Runtime, Session

MODEL = "model.onnx"


class OnnxRuntime(Runtime):
    """ONNX Runtime on a CPU."""

    type: ClassVar[str] = "onnx"
    title: ClassVar[str] = "ONNX Runtime"
    libraries: ClassVar[tuple[str, ...]] = ("onnxscript", "onnxruntime")

    def write(self, graph: Path, folder: Path, int8: bool) -> None:
        if not int8:
            shutil.copy(graph, folder / MODEL)
            return
        quantisation: Any = import_module("onnxruntime.quantization")
        onnx: Any = import_module("onnx")
        model = onnx.load(graph)
        _copy_shared_weights(model.graph)
        with quiet_warnings():
            quantisation.quantize_dynamic(
                model,
                folder / MODEL,
                per_channel=True,  # half of the loss of one scale for a whole weight
                weight_type=quantisation.QuantType.QInt8,
            )

    def open(self, folder: Path) -> Session:
        runtime: Any = import_module("onnxruntime")
        session = runtime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])

        def run(inputs: Mapping[str, Tensor]) -> Tensor:
            feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
            return torch.from_numpy(session.run(None, feeds)[0])

        return run


def _copy_shared_weights(graph: Any) -> None:
    """Gives every linear a weight of its own: the quantiser transposes them in place, so one that
    several share would be transposed several times.

    Args:
        graph: The graph of an ONNX model, which is changed.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    used: set[str] = set()
    for node in graph.node:
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in used and name in weights:
            copied = graph.initializer.add()
            copied.CopyFrom(weights[name])
            copied.name = node.input[1] = f"{name}_of_{node.name}"
        used.add(name)
