"""OpenVINO: its intermediate representation, with 8-bit weights by NNCF."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..quiet import quiet_warnings
from .runtime import Runtime, Session

MODEL = "model.xml"


class OpenVino(Runtime):
    """OpenVINO on a CPU."""

    type: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    libraries: ClassVar[tuple[str, ...]] = ("onnxscript", "openvino")
    int8_libraries: ClassVar[tuple[str, ...]] = ("nncf",)

    def write(self, graph: Path, folder: Path, int8: bool) -> None:
        openvino: Any = import_module("openvino")
        model = openvino.convert_model(graph)
        if int8:
            # NNCF prints a table and a progress bar.
            with quiet_warnings(), redirect_stdout(io.StringIO()):
                nncf: Any = import_module("nncf")
                model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(model, folder / MODEL, compress_to_fp16=False)

    def open(self, folder: Path) -> Session:
        openvino: Any = import_module("openvino")
        # By default some processors would compute in half precision.
        model = openvino.Core().compile_model(
            folder / MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )

        def run(inputs: Mapping[str, Tensor]) -> Tensor:
            feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
            return torch.from_numpy(model(feeds)[0].copy())

        return run
