"""What PEFT computes with the folders of adapterkit, by what they and their READMEs say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import forward
from adapterkit.tasks.base import tasks
from helpers.adapters import MakeAdapter
from helpers.peft_readme import as_the_readme_says
from helpers.sequences import logits_of, tokenise

TEXTS = ["where is my card", "a", "i want to close the account"]
PAIRS = ["the card is lost", "rain", "fast help"]


def outputs(model: Any, backbone: Backbone) -> list[Any]:
    """What PEFT's model returns for each pair of texts, as the only choice if it takes choices."""
    has_choices = "MultipleChoice" in type(model.get_base_model()).__name__
    found = []
    for row in tokenise(backbone, TEXTS, list(PAIRS), 50):
        ids, types = (torch.tensor([n]) for n in (row.input_ids, row.token_type_ids))
        ids, types = (ids[None], types[None]) if has_choices else (ids, types)
        with torch.inference_mode():
            found.append(model(input_ids=ids, token_type_ids=types))
    return found


def of_task(adapter: Adapter, kind: str, **settings: Any) -> Adapter:
    """The adapter with another task, and a random head for it."""
    task = tasks()[kind](**settings)
    hidden = next(iter(adapter.head.values())).shape[-1]
    head = task.fresh_head(hidden, torch.Generator().manual_seed(2))
    return replace(adapter, task=task, head={n: t + 0.1 for n, t in head.items()})


LABELS = ("no", "yes", "其他")
SAME: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "classification": ("classification", {"labels": LABELS, "pooling": "pooler"}, "SEQ_CLS"),
    "multi-label": ("multi_label", {"labels": LABELS, "pooling": "pooler"}, "SEQ_CLS"),
    "number": ("regression", {"pooling": "pooler", "center": 0.0, "spread": 1.0}, "SEQ_CLS"),
    "tagging": ("tagging", {"labels": LABELS}, "TOKEN_CLS"),
    "questions": ("question_answering", {"unanswerable": True}, None),
    "choices": ("multiple_choice", {"pooling": "pooler"}, None),
}


@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("name", SAME)
def test_peft_answers_the_same_where_the_folder_says_so(
    name: str,
    kind: str,
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path: Path,
) -> None:
    task, settings, task_type = SAME[name]
    adapter = of_task(make_adapter(tiny, kind), task, **settings)
    folder = save_adapter(
        replace(adapter, backbone=str(tiny_folder)), tmp_path / "a", tiny.geometry
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    if kind == "prefix" and task_type is None:  # PEFT has prefixes only in its own task models
        assert config["task_type"] == "FEATURE_EXTRACTION"
        return
    assert config["task_type"] == task_type
    if "labels" in settings:
        assert "`no`, `yes`, `其他`" in (folder / "README.md").read_text()
    again = load_adapter(folder, tiny)
    assert all(torch.equal(again.head[n], adapter.head[n]) for n in adapter.head)
    rows = tokenise(tiny, TEXTS, list(PAIRS), 50)
    for row, output in zip(rows, outputs(as_the_readme_says(folder), tiny), strict=True):
        logits = (
            torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
            if "start_logits" in output
            else output.logits[0]
        )
        expected = logits_of(tiny, adapter, [row]).view(logits.shape)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


OTHER: dict[str, tuple[str, dict[str, Any], str]] = {
    "mean": ("classification", {"labels": LABELS, "pooling": "mean"}, "the mean of all states"),
    "hidden layer": (
        "classification",
        {"labels": LABELS, "pooling": "cls", "hidden_activation": "gelu"},
        "the state of the first token",
    ),
    "units": (
        "regression",
        {"pooling": "pooler", "center": 2.5, "spread": 0.5},
        "the number is 0.5 times its output, plus 2.5",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_peft_computes_the_states_where_it_has_no_such_head(
    name: str, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    task, settings, words = OTHER[name]
    adapter = of_task(make_adapter(tiny, "lora"), task, **settings)
    folder = save_adapter(
        replace(adapter, backbone=str(tiny_folder)), tmp_path / "a", tiny.geometry
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("FEATURE_EXTRACTION", None)
    assert words in (folder / "README.md").read_text()
    again = load_adapter(folder, tiny)
    assert all(torch.equal(again.head[n], adapter.head[n]) for n in adapter.head)
    vectors = of_task(adapter, "embedding", pooling="mean")
    rows = tokenise(tiny, TEXTS, list(PAIRS), 50)
    for row, output in zip(rows, outputs(as_the_readme_says(folder), tiny), strict=True):
        (piece,) = forward(tiny, [(replace(vectors, head={}), row)])
        states = output.last_hidden_state[0].mean(0)
        torch.testing.assert_close(states, piece.values[0], rtol=1e-5, atol=1e-5)
