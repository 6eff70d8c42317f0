"""ONNX Runtime as a guest of `adapterkit bench mixed`: one model, as if one adapter were merged.

It has no tenants: it shows the best that a single merged model can do on a CPU. PyTorch exports
the graph, and ONNX Runtime's own optimiser fuses it. It runs in float32 and in dynamic int8, over
batches of rows of similar length; the fastest number of batches is found by trying. README.md in
this folder has the commands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from padded_batches import Hidden, Run, serve


def export(hidden: Hidden, folder: Path) -> dict[str, Path]:
    """Exports the model as fused graphs in float32 and int8."""
    axes = {0: "rows", 1: "tokens"}
    example = torch.ones(2, 8, dtype=torch.long)
    plain, fused, small = (folder / f"{name}.onnx" for name in ("plain", "fused", "int8"))
    torch.onnx.export(
        hidden,
        (example, example.clone()),
        str(plain),
        input_names=["ids", "mask"],
        output_names=["hidden"],
        dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
        opset_version=17,
        dynamo=False,
    )
    shape = hidden.model.config
    optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=shape.num_attention_heads,
        hidden_size=shape.hidden_size,
    ).save_model_to_file(str(fused))
    # The quantiser cannot read the types of fused operators' tensors. 1 means float.
    options = {"DefaultTensorType": 1}
    quantize_dynamic(fused, small, weight_type=QuantType.QInt8, extra_options=options)
    return {"float32": fused, "int8": small}


def session_of(path: Path, threads: int) -> Any:
    """A session with as many threads as the other systems, which do not spin during their turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runs_of(hidden: Hidden, folder: Path, job: dict[str, Any]) -> Mapping[str, Run]:
    """The functions that compute a batch, by precision."""
    sessions = {
        precision: session_of(path, job["threads"])
        for precision, path in export(hidden, folder).items()
    }
    return {precision: partial(session.run, None) for precision, session in sessions.items()}


if __name__ == "__main__":
    serve(f"ONNX Runtime {onnxruntime.__version__}", runs_of, "eager")
