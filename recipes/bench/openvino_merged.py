"""OpenVINO as a guest of `adapterkit bench mixed`: one model, as if one adapter were merged.

It has no tenants: it shows the best that a single merged model can do on a CPU. OpenVINO converts
the model itself. It runs in float32, with 8-bit weights (NNCF compresses them, and products are
computed in 8 bits), and in int8 throughout (NNCF quantises weights and activations over the rows),
over batches of rows of similar length; the fastest number of batches is found by trying. README.md
in this folder has the commands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import nncf
import openvino
import torch
from padded_batches import Hidden, Run, batches_of, serve

CALIBRATION_BATCHES = 8


def models_of(hidden: Hidden, rows: list[list[int]]) -> dict[str, Any]:
    """OpenVINO's models by precision."""
    example = torch.ones(2, 8, dtype=torch.long)

    def converted() -> Any:
        with torch.no_grad():
            model = openvino.convert_model(
                hidden, example_input={"ids": example, "mask": example.clone()}
            )
        model.reshape({port: openvino.PartialShape([-1, -1]) for port in model.inputs})
        return model

    batches = nncf.Dataset(batches_of(rows, CALIBRATION_BATCHES))
    return {
        "float32": converted(),
        "int8 weights": nncf.compress_weights(converted(), mode=nncf.CompressWeightsMode.INT8_ASYM),
        "int8": nncf.quantize(
            converted(),
            batches,
            subset_size=CALIBRATION_BATCHES,
            model_type=nncf.ModelType.TRANSFORMER,
        ),
    }


def runs_of(hidden: Hidden, folder: Path, job: dict[str, Any]) -> Mapping[str, Run]:
    """The functions that compute a batch, by precision."""
    settings = {"INFERENCE_NUM_THREADS": job["threads"], "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    return {
        precision: core.compile_model(model, "CPU", settings)
        for precision, model in models_of(hidden, job["rows"]).items()
    }


if __name__ == "__main__":
    serve(f"OpenVINO {openvino.__version__.split('-')[0]}", runs_of, "sdpa")
