"""A padded model as a graph of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import AdapterError
from ..quiet import quiet_warnings
from .padded_model import OWNERS, PaddedModel

OUTPUT = "logits"


def write_onnx_graph(model: PaddedModel, file: Path) -> None:
    """Writes an ONNX file with the inputs of a model and the output `logits`.

    Args:
        model: The model.
        file: The new file.

    Raises:
        AdapterError: It is larger than an ONNX file can be.
    """
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=model.limit)}
    example = {
        name: torch.tensor([0, 1]) if name == OWNERS else torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
        for name in model.inputs
    }
    shapes = tuple({0: axes[0]} if name == OWNERS else axes for name in model.inputs)
    arguments = tuple(example.values())
    model(*arguments)  # what adapters compute once and keep must be numbers, not a part of a graph
    with quiet_warnings():
        program: Any = torch.onnx.export(
            model,
            arguments,
            input_names=list(model.inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    graph.graph.ClearField("value_info")  # some of the optimiser's shapes are those before it
    try:
        file.write_bytes(graph.SerializeToString())
    except ValueError:
        raise AdapterError("the model is larger than 2 GB, which an ONNX file cannot be") from None
