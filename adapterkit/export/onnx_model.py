"""An adapter as a model of ONNX: backbone, adapter and head in one file."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.families.base import family_of
from ..backbone.model import Backbone
from ..errors import AdapterError
from ..inference.forward import forward
from .plain_task import with_plain_task
from .verification import TOLERANCE, example_sequences, load_checkpoint

MODEL = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SEQUENCE_CLASSIFIERS = "AutoModelForSequenceClassification"


class Logits(nn.Module):
    """A sequence classifier of transformers, from the rows of a padded batch to its logits.

    Args:
        model: The classifier.
        inputs: Names of the inputs, in order.
    """

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *rows: Tensor) -> Tensor:
        """`[n, t]` each to `[n, C]`."""
        logits: Tensor = self.model(**dict(zip(self.inputs, rows, strict=True))).logits
        return logits


def check_onnx(adapter: Adapter) -> None:
    """Refuses what is not written as ONNX.

    Raises:
        AdapterError: The task has another head, or a library is missing.
    """
    if adapter.task.transformers_model != SEQUENCE_CLASSIFIERS:
        raise AdapterError(
            f"'{adapter.name}': only classifiers of texts and regressions are written as ONNX, not "
            f"{adapter.task.type}; export it as merged"
        )
    for library in ("onnxscript", "onnxruntime"):
        try:
            import_module(library)
        except ImportError:
            raise AdapterError(
                f"the format 'onnx' needs {library}: pip install 'adapterkit[onnx]'"
            ) from None


def onnx_model(checkpoint: Path, adapter: Adapter, backbone: Backbone) -> bytes:
    """The content of an ONNX file that computes what a merged checkpoint computes.

    Args:
        checkpoint: The checkpoint (`merged_checkpoint`).
        adapter: The adapter.
        backbone: Its backbone.
    """
    names = _input_names(backbone)
    model = load_checkpoint(checkpoint, adapter)
    # The second text is padded, or transformers would leave the mask out of what is traced.
    example = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    axes = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("tokens", max=backbone.geometry.positions),
    }
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # torch's own, about names of axes
        program: Any = torch.onnx.export(
            Logits(model, names),
            tuple(example.clone() for _ in names),  # equal objects would become one input
            input_names=list(names),
            output_names=["logits"],
            dynamic_shapes=((axes,) * len(names),),
            dynamo=True,
            verbose=False,
        )
        program.save(Path(folder) / MODEL)
        return (Path(folder) / MODEL).read_bytes()


def check_onnx_model(folder: Path, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an ONNX file that ONNX Runtime answers with otherwise than the adapter.

    Args:
        folder: The folder with the file.
        adapter: The adapter.
        backbone: Its backbone.

    Raises:
        AdapterError: The logits of the task's example differ, alone or padded in a batch.
    """
    plain = with_plain_task(adapter)
    (inputs, *_) = example_sequences(plain, backbone)
    with torch.inference_mode():
        expected = forward(backbone, [(plain, inputs)])[0].values.cpu()
    ids, types, length = list(inputs.input_ids), list(inputs.token_type_ids), len(inputs)
    pad = backbone.tokenizer.pad_token_id or 0
    longer = min(length + 3, backbone.geometry.positions)
    for padding in {0, longer - length}:
        rows = {
            "input_ids": [ids + [pad] * padding],
            "attention_mask": [[1] * length + [0] * padding],
            "token_type_ids": [types + [0] * padding],
        }
        found = onnx_logits(folder, {name: rows[name] for name in _input_names(backbone)})
        if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise AdapterError(
                f"'{adapter.name}' has no exact form as ONNX: its answers would differ by "
                f"{(found - expected).abs().max():.2g}; serve it with adapterkit"
            )


def onnx_logits(folder: Path, rows: dict[str, list[list[int]]]) -> Tensor:
    """The logits of a padded batch by ONNX Runtime, `[n, C]`.

    Args:
        folder: The folder with the file.
        rows: Name of an input to its numbers, `[n, t]`.
    """
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    feeds = {name: torch.tensor(row).numpy() for name, row in rows.items()}
    return torch.from_numpy(session.run(None, feeds)[0])


def _input_names(backbone: Backbone) -> tuple[str, ...]:
    """The inputs of a backbone's models in transformers."""
    config: Any = backbone.model.config
    has_types = family_of(config.model_type).token_types(config) > 1
    return INPUTS if has_types else INPUTS[:2]
