"""Compares a written checkpoint with the adapter that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.families.base import family_of
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..errors import AdapterError
from ..inference.forward import forward, text_limit
from ..quiet import quiet_transformers
from .merged_checkpoint import BARE_MODEL
from .plain_task import with_plain_task

TOLERANCE = 1e-4
"""Most difference of a logit, as a share of the largest one and absolutely."""


def check_checkpoint(folder: Path, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses a checkpoint that transformers loads with other answers than the adapter has.

    Args:
        folder: The checkpoint.
        adapter: The adapter.
        backbone: Its backbone.

    Raises:
        AdapterError: The answers to the task's example differ.
    """
    plain = with_plain_task(adapter)
    model = load_checkpoint(folder, plain)
    for inputs in example_sequences(plain, backbone):
        with torch.inference_mode():
            expected = forward(backbone, [(plain, inputs)])[0].values.cpu()
            found = transformers_outputs(model, plain, backbone, inputs)
        if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise AdapterError(
                f"'{adapter.name}' has no exact form as a checkpoint of transformers: its answers "
                f"would differ by {(found - expected).abs().max():.2g}; serve it with adapterkit"
            )


def load_checkpoint(folder: Path, adapter: Adapter) -> Any:
    """The model of transformers that answers for an adapter, from a checkpoint.

    Args:
        folder: The checkpoint.
        adapter: The adapter.
    """
    import transformers

    with quiet_transformers():
        auto = getattr(transformers, adapter.task.transformers_model or BARE_MODEL)
        return auto.from_pretrained(folder, local_files_only=True).eval()


def example_sequences(adapter: Adapter, backbone: Backbone) -> list[TokenSequence]:
    """The example of an adapter's README as tokens, with a mask if the task answers for masks."""
    task = adapter.task
    fields = adapter.fields(task.example_request(adapter.inputs.required), "example")
    (example,) = task.examples([fields], backbone.reader, text_limit(backbone, adapter))
    if task.masks_tokens:
        return [replace(inputs, masked=((1, -1),)) for inputs in example.inputs]
    return list(example.inputs)


def transformers_outputs(
    model: Any, adapter: Adapter, backbone: Backbone, inputs: TokenSequence
) -> Tensor:
    """What a model of transformers returns for a sequence, as the adapter returns it.

    Args:
        model: The model.
        adapter: The adapter, as `with_plain_task` returns it.
        backbone: Its backbone.
        inputs: The sequence.

    Returns:
        `[1, C]`, or `[t, C]` for a task that answers for tokens.
    """
    arguments = {"input_ids": _batch(inputs.input_ids, adapter)}
    config = model.config
    if family_of(config.model_type).token_types(config) > 1:
        arguments["token_type_ids"] = _batch(inputs.token_type_ids, adapter)
    output = model(**arguments)
    if "start_logits" in output:
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
    if adapter.task.masks_tokens:
        return _best_tokens(output.logits[0], inputs, forward(backbone, [(adapter, inputs)]))
    if "logits" in output:
        logits: Tensor = output.logits
        return logits[0] if adapter.task.per_token else logits.view(1, -1)
    pooled: Tensor = {
        "mean": lambda: output.last_hidden_state.mean(1),
        "cls": lambda: output.last_hidden_state[:, 0],
        "pooler": lambda: output.pooler_output,
    }[getattr(adapter.task, "pooling", "mean")]()
    projection = adapter.head.get("projection.weight")
    return pooled if projection is None else pooled @ projection.T


def _batch(numbers: Sequence[int], adapter: Adapter) -> Tensor:
    """Numbers of the tokens of a sequence, `[1, t]`, or `[1, 1, t]` as one of several choices."""
    batch = torch.tensor([list(numbers)])
    has_choices = "MultipleChoice" in (adapter.task.transformers_model or "")
    return batch[None] if has_choices else batch


def _best_tokens(logits: Tensor, inputs: TokenSequence, outputs: Sequence[Any]) -> Tensor:
    """The columns of `LMHead.top_tokens` with log-probabilities of other logits.

    Args:
        logits: Of every token, `[t, V]`.
        inputs: The sequence.
        outputs: What the adapter returns for it, which says the tokens of the columns.
    """
    columns = outputs[0].values.cpu()
    top = columns.shape[1] // 2
    places = torch.tensor([place for place, _ in inputs.masked])
    scores = logits[places].log_softmax(-1).gather(1, columns[:, 1 + top :].long())
    return torch.cat([columns[:, :1], scores, columns[:, 1 + top :]], dim=1)
