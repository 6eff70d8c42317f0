"""Trainings that start from an adapter of another task, of other labels, or of PEFT."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit import AdapterkitError, Store, train
from adapterkit.adapter.folder import save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.tasks.tagging import Tagging
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.plan import load_rows
from adapterkit.training.recipe import Recipe
from helpers.adapters import MakeAdapter
from helpers.joint_training import recipe_for, with_changes, write_rows

LABELS = ("money", "weather", "work")


def saved_adapter(make_adapter: MakeAdapter, tiny: Backbone, *labels: str) -> Path:
    adapter = make_adapter(tiny, labels=labels or LABELS)
    return save_adapter(adapter, Path("saved").resolve(), tiny.geometry)


def start(recipe: Recipe, backbone: Backbone, store: Store | None = None) -> Any:
    return fresh_adapter(recipe, backbone, load_rows(recipe)["train"], store)


@pytest.mark.parametrize(
    ("labels", "task", "kept"),
    [
        (LABELS, {}, True),
        (("no", "yes"), {}, False),
        (("work", "weather", "money"), {"labels": list(LABELS)}, False),
        (LABELS, {"pooling": "cls"}, False),
    ],
)
def test_a_head_of_other_answers_is_drawn_anew(
    tiny: Backbone, make_adapter: MakeAdapter, labels: Any, task: Any, kept: bool
) -> None:
    folder = saved_adapter(make_adapter, tiny, *labels)
    other = make_adapter(tiny, labels=labels)
    recipe = recipe_for(
        "t", write_rows(1, 30), task={"pooling": "mean", **task}, start_from=str(folder)
    )
    found = start(recipe, tiny)
    fresh = start(with_changes(recipe, training={"start_from": None}), tiny)
    for name, tensor in other.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)
    for name, tensor in (other if kept else fresh).head.items():
        torch.testing.assert_close(found.head[name], tensor, rtol=0, atol=0)
    words = "with its head" if kept else "classification with other answers, with a new head"
    assert found.training["start"].endswith(words)


def test_an_adapter_of_another_task_is_a_start(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    other = replace(make_adapter(tiny, labels=LABELS), task=Tagging(labels=("O", "B-a", "I-a")))
    folder = save_adapter(other, Path("saved").resolve(), tiny.geometry)
    found = start(recipe_for("t", write_rows(1, 30), start_from=str(folder)), tiny)
    torch.testing.assert_close(found.tensors["query.b"], other.tensors["query.b"], rtol=0, atol=0)
    assert not torch.equal(found.head["classifier.weight"], other.head["classifier.weight"])
    words = "which was trained for tagging with other answers, with a new head"
    assert found.training["start"] == f"{folder}, {words}"


def test_the_start_is_reported_and_recorded(
    tiny: Backbone, make_adapter: MakeAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved_adapter(make_adapter, tiny, "no", "yes")
    recipe = recipe_for("t", write_rows(1, 30), epochs=1, start_from=str(folder), ensemble=2)
    with caplog.at_level("INFO", "adapterkit"):
        adapter = train(recipe, tiny, progress=False)
    assert [m for m in caplog.messages if "starts from" in m] == [
        f"t: starts from {adapter.training['start']}"
    ]
    first, second = adapter.members
    assert not torch.equal(first.head["classifier.weight"], second.head["classifier.weight"])


def test_an_adapter_of_the_store_is_named(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    store = Store("shop")
    store.publish(make_adapter(tiny, labels=LABELS, name="acme/base"), tiny.geometry)
    mean = {"pooling": "mean"}
    recipe = recipe_for("t", write_rows(1, 30), task=mean, start_from="acme/base@1")
    assert start(recipe, tiny, store).training["start"] == "acme/base@1, with its head"
    with pytest.raises(AdapterkitError, match="acme/nase"):
        start(with_changes(recipe, training={"start_from": "acme/nase"}), tiny, store)


@pytest.mark.parametrize(
    "task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", None]
)
def test_a_peft_folder_is_a_start(tiny: Backbone, tiny_folder: Path, task_type: str | None) -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    kinds = {
        "SEQ_CLS": "BertForSequenceClassification",
        "TOKEN_CLS": "BertForTokenClassification",
        "QUESTION_ANS": "BertForQuestionAnswering",
    }
    kind = getattr(transformers, kinds.get(task_type or "", "BertModel"))
    transformers.utils.logging.set_verbosity_error()
    config = LoraConfig(
        task_type=task_type, r=3, lora_alpha=6, target_modules=["query", "value"],
        init_lora_weights=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in an old way
        model = get_peft_model(kind.from_pretrained(tiny_folder), config)
        model.save_pretrained("peft")
    recipe = recipe_for(
        "t",
        write_rows(1, 30),
        {"type": "lora", "r": 3, "alpha": 6, "targets": ["value", "query"], "dropout": 0.1},
        start_from=str(Path("peft").resolve()),
    )
    found = start(recipe, tiny)
    (tensor,) = (
        tensor
        for name, tensor in model.state_dict().items()
        if ".layer.1.attention.self.query.lora_A" in name
    )
    torch.testing.assert_close(found.tensors["query.a"][1], tensor, rtol=0, atol=0)
    assert found.head["classifier.weight"].shape[0] == 3
    assert found.training["start"].endswith(f"'{tiny_folder}' as its backbone, with a new head")
    wrong = with_changes(recipe, method={"r": 4})
    with pytest.raises(AdapterkitError, match="has r: 3, the recipe r: 4; make them equal"):
        start(wrong, tiny)


def test_a_peft_folder_with_tensors_of_no_method_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved_adapter(make_adapter, tiny)
    for name in ("adapterkit.json", "SHA256SUMS"):
        (folder / name).unlink()
    file = folder / "adapter_model.safetensors"
    recipe = recipe_for("t", write_rows(1, 30), start_from=str(folder))
    assert start(recipe, tiny).training["start"].endswith("as its backbone, with a new head")
    odd = "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A"
    save_file({**load_file(file), odd: torch.ones(2)}, file)
    with pytest.raises(AdapterkitError, match=r"lora_embedding_A' does not belong here"):
        start(recipe, tiny)
