"""Merged checkpoints against transformers: every method, task and family is equal or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.store import Store
from adapterkit.atomic import DRAFT
from adapterkit.backbone.families.base import families, family_of
from adapterkit.backbone.geometry import NORM_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.formats import FORMATS
from adapterkit.export.plain_task import with_plain_task
from adapterkit.export.verification import load_checkpoint, transformers_outputs
from adapterkit.inference.forward import forward
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.base import methods
from adapterkit.tasks.base import tasks
from helpers.adapters import METHODS, MakeAdapter, of_method
from helpers.command_line import assert_refused, run_command
from helpers.families import MODEL_TYPES, save_family
from helpers.sequences import logits_of, tokenise
from helpers.task_adapters import random_task_adapter, read_example, request_row


def checkpoint(root: Path, model_type: str, kind: str, tiny_folder: Path) -> Backbone:
    """A random backbone, with the head for masked language modelling if the task needs it."""
    has_head = kind == "masked_language_modelling" and family_of(model_type).lm_head
    auto = "AutoModelForMaskedLM" if has_head else "AutoModel"
    folder = root / f"{model_type} {auto}"
    if not folder.exists():
        save_family(folder, model_type, tiny_folder, auto)
    return Backbone.load(str(folder), device="cpu", prepared=False)


def task_settings(backbone: Backbone, kind: str) -> dict[str, Any]:
    """Settings by which the head of a task is that of the family in transformers."""
    head = backbone.geometry.sequence_head
    if not hasattr(tasks()[kind], "pooling") or kind == "embedding" or head is None:
        return {}
    if kind == "multiple_choice" or head.dense is None:
        return {"pooling": head.pooling}
    return {"pooling": head.pooling, "hidden_activation": head.activation}


def assert_nothing_half_written(folder: Path) -> None:
    assert not [path for path in folder.iterdir() if path.name.startswith(DRAFT)]


def outcome(adapter: Adapter, backbone: Backbone, folder: Path) -> str:
    """`equal`, or why the adapter was refused; fails if the checkpoint answers otherwise."""
    try:
        FORMATS["merged"](adapter, backbone, folder)
    except AdapterError as error:
        return str(error)
    finally:
        assert_nothing_half_written(folder.parent)
    plain = with_plain_task(adapter)
    model = load_checkpoint(folder, plain)
    for inputs in read_example(backbone, plain, request_row(plain)).inputs:
        with torch.inference_mode():
            expected = forward(backbone, [(plain, inputs)])[0].values
            found = transformers_outputs(model, plain, backbone, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return "equal"


WITHOUT_BIASES = {
    "bitfit": ("modernbert", "eurobert", "nomic_bert", "gte"),
    "ln_tuning": ("modernbert", "eurobert"),
}
"""Families whose linears, or norms, have no biases, by the method that adds to them."""


def cases(model_type: str) -> Iterator[tuple[str, str, str]]:
    """Task, method and the expected outcome, or a part of it, in a family."""
    family = family_of(model_type)
    for kind in sorted(tasks()):
        for method in METHODS:
            yield kind, method, expected(family, kind, method)


def expected(family: Any, kind: str, method: str) -> str:
    if kind == "masked_language_modelling":
        has_head = bool(family.lm_head)
    elif kind == "embedding":
        has_head = True
    elif kind == "multiple_choice":
        has_head = family.sequence_head is not None and family.sequence_head.dense is None
    elif kind == "question_answering":
        has_head = family.sequence_head is not None and (
            tasks()[kind].peft_task_type in family.sequence_head.linear_models
        )
    else:
        has_head = family.sequence_head is not None
    if not has_head:
        return "as no task model of transformers of type"
    if method in ("prefix", "bottleneck", "biased_lora"):
        return f"a {method} adapter does more than change weights"
    if method != "head" and family.type == "albert":
        return "its layers share their weights but not their adapters"
    if family.type in WITHOUT_BIASES.get(method, ()):
        return "which the model has not"
    return "equal"


def check_family(
    model_type: str,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    root: Path,
    chosen: Callable[[str, str], bool] = lambda task, method: True,
) -> list[tuple[str, str, str]]:
    """Checks the cases of a family, and returns them with what came out."""
    found = []
    for kind, method, words in cases(model_type):
        if not chosen(kind, method):
            continue
        backbone = checkpoint(root, model_type, kind, tiny_folder)
        if kind == "masked_language_modelling" and backbone.lm_head is None:
            continue  # narrow word embeddings: the task itself is refused
        adapter = random_task_adapter(backbone, kind, root, **task_settings(backbone, kind))
        adapter = of_method(adapter, method, backbone)
        result = outcome(adapter, backbone, root / f"{model_type} {kind} {method}")
        assert words in result, (model_type, kind, method, result)
        found.append((kind, method, result))
    return found


def test_the_table_names_every_method_and_family() -> None:
    assert set(METHODS) == {name for name in methods() if "example" not in name}
    assert {family_of(name).type for name in MODEL_TYPES} == {
        family.type for family in families().values() if "example" not in family.type
    }


QUICK = ("classification", "regression", "question_answering", "masked_language_modelling")


def test_lora_is_equal(tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    rows = check_family(
        "bert",
        tiny_folder,
        make_adapter,
        tmp_path,
        lambda task, method: method == "lora" and task in QUICK,
    )
    assert [result for _, _, result in rows] == ["equal"] * len(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_method_and_task_is_equal_or_refused(
    model_type: str,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    report: Callable[[str], None],
) -> None:
    rows = check_family(model_type, tiny_folder, make_adapter, tmp_path)
    equal = [f"{kind} by {method}" for kind, method, result in rows if result == "equal"]
    report(f"{model_type}: {len(equal)} of {len(rows)} equal, the others refused")


def test_what_transformers_cannot_say_is_refused(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)

    def refused(adapter: Adapter, words: str) -> None:
        assert words in outcome(adapter, tiny, tmp_path / "out")

    lora = make_adapter(tiny, "lora", pooling="pooler")
    refused(make_adapter(tiny, "lora"), "its head reads the mean of all states")
    refused(make_adapter(tiny, "prefix", pooling="pooler"), "a prefix adapter does more")
    refused(replace(lora, extra_members=(lora.members[0],)), "an ensemble of 2 members")  # type: ignore[arg-type]
    for kind, words in (
        ("bottleneck", "a bottleneck adapter"),
        ("ia3", "ia3 multiplies what other"),
    ):
        refused(replace(lora, on_top_of=make_adapter(tiny, kind, name="a/b")), words)
    # LoRA on LoRA is one change of the weights.
    parent = make_adapter(tiny, "lora", name="a/b", seed=3, r=2, targets=("value", "ffn_down"))
    assert outcome(replace(lora, on_top_of=parent), tiny, tmp_path / "stack") == "equal"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ia3", {"targets": ("query", "attention_output"), "feedforward": ("attention_output",)}),
        ("bitfit", {"layers": (0, 2)}),
        ("ln_tuning", {"targets": (*NORM_SITES, "entry"), "layers": (1,)}),
    ],
)
def test_factors_and_biases_become_parameters(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path, kind: str, settings: Any
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    adapter = make_adapter(tiny, kind, pooling="pooler", **settings)
    assert outcome(adapter, tiny, tmp_path / "out") == "equal"


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    texts = ["where is my card", "rain and sun"]
    for pooling, dimensions in (("mean", None), ("cls", 6)):
        adapter = random_task_adapter(
            tiny, "embedding", tmp_path, pooling=pooling, dimensions=dimensions
        )
        folder = FORMATS["merged"](adapter, tiny, tmp_path / pooling)
        found = SentenceTransformer(str(folder), device="cpu").encode(texts)
        answers = Predictor(tiny, [adapter]).predict(adapter.name, [{"text": t} for t in texts])
        expected = torch.tensor([answer["vector"] for answer in answers])
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)


def test_the_command_writes_what_a_pipeline_of_transformers_reads(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    from transformers import pipeline

    adapter = make_adapter(tiny, "lora", labels=("no", "yes", "其他"), pooling="pooler")
    Store("adapters").publish(replace(adapter, backbone=str(tiny_folder)), tiny.geometry)
    text = "where is my card"
    run = run_command("export", "acme/intent", "--format", "merged", "--output", "out", "--json")
    assert run.json == {"folder": "out", "format": "merged"}
    answer = run_command("predict", "acme/intent", text, "--json").json[0]
    classify: Any = pipeline("text-classification", model="out", device="cpu")
    (scores,) = classify([text], top_k=None)
    found = {score["label"]: score["score"] for score in scores}
    assert found == pytest.approx(answer["scores"], abs=1e-5)
    arguments = ("export", "acme/intent", "--output", "out", "--format")
    assert_refused(*arguments, "merged", words="something is there already")
    assert_refused(*arguments, "tf", words="there is no format 'tf'")


def test_the_command_writes_a_folder_of_peft(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    adapter = random_task_adapter(tiny, "regression", tmp_path, pooling="pooler")
    adapter = replace(adapter, backbone=str(tiny_folder))
    folder = FORMATS["peft"](adapter, tiny, tmp_path / "number")
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers in an old way
        auto: Any = AutoPeftModelForSequenceClassification
        model = auto.from_pretrained(folder, num_labels=1).eval()
    (row,) = tokenise(tiny, ["where is my card"], ["rain"], 50)
    with torch.inference_mode():
        found = model(
            input_ids=torch.tensor([row.input_ids]),
            token_type_ids=torch.tensor([row.token_type_ids]),
        ).logits
    task: Any = adapter.task
    expected = logits_of(tiny, adapter, [row]) * task.spread + task.center
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for method, pooling, words in (
        ("bottleneck", "pooler", "PEFT has no method 'bottleneck'"),
        ("lora", "mean", "its head reads the mean of all states"),
    ):
        with pytest.raises(AdapterError, match=words):
            FORMATS["peft"](make_adapter(tiny, method, pooling=pooling), tiny, tmp_path / "no")
