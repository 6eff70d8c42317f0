"""ONNX Runtime as a guest of `adapterkit bench mixed`: one model, as if one adapter were merged.

It has no tenants: it shows the best that a single merged model can do on a CPU. PyTorch exports
the graph, and ONNX Runtime's own optimiser fuses it. It runs in float32 and in dynamic int8, over
batches of rows of similar length; the fastest number of batches is found by trying. README.md in
this folder has the commands.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import AutoModel

NAME = f"ONNX Runtime {onnxruntime.__version__}"
CUTS = (1, 2, 4, 8)
"""Numbers of batches to try."""

Feeds = list[dict[str, Any]]


class Hidden(torch.nn.Module):
    """The model as a function from token ids and mask to the last hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return output


def export(model: Any, folder: Path) -> dict[str, Path]:
    """Exports the model as fused graphs in float32 and int8."""
    axes = {0: "rows", 1: "tokens"}
    example = torch.ones(2, 8, dtype=torch.long)
    plain, fused, small = (folder / f"{name}.onnx" for name in ("plain", "fused", "int8"))
    torch.onnx.export(
        Hidden(model),
        (example, example.clone()),
        str(plain),
        input_names=["ids", "mask"],
        output_names=["hidden"],
        dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
        opset_version=17,
        dynamo=False,
    )
    shape = model.config
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


def feeds_of(rows: list[list[int]], cuts: int) -> Feeds:
    """The rows as padded batches of similar length.

    Args:
        rows: Token ids of each row.
        cuts: Number of batches.
    """
    rows = sorted(rows, key=len)
    size = -(-len(rows) // cuts)
    feeds = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        ids = np.zeros((len(part), len(part[-1])), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(part):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        feeds.append({"ids": ids, "mask": mask})
    return feeds


def best_run(session: Any, rows: list[list[int]]) -> Callable[[], Any]:
    """A function that computes all rows, in the number of batches that is the fastest."""

    def run(feeds: Feeds) -> list[Any]:
        return [session.run(None, feed) for feed in feeds]

    def seconds(feeds: Feeds) -> float:
        taken = []
        for _ in range(4):  # the first warms up
            began = time.perf_counter()
            run(feeds)
            taken.append(time.perf_counter() - began)
        return min(taken[1:])

    best = min((feeds_of(rows, cuts) for cuts in CUTS), key=seconds)
    return lambda: run(best)


def main() -> None:
    """Runs the job that it reads from standard input."""
    answers, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # what libraries print must not mix with the answers

    def send(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    model = AutoModel.from_pretrained(job["model"], attn_implementation="eager").eval()
    with tempfile.TemporaryDirectory() as folder:
        graphs = export(model, Path(folder))
        sessions = {name: session_of(path, job["threads"]) for name, path in graphs.items()}
        runs = [best_run(session, job["rows"]) for session in sessions.values()]
    send([[NAME, f"one merged model, {name}", 0] for name in sessions])
    for line in sys.stdin:
        runs[json.loads(line)]()
        send("done")


if __name__ == "__main__":
    main()
