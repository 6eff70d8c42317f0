"""Folders that PEFT wrote answer as in PEFT, or are refused by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import save_adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.adapter.peft_head import HeadFacts
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from helpers.peft_folders import (
    FAMILIES,
    FURTHER_FAMILIES,
    TEXTS,
    own_outputs,
    peft_outputs,
    random_checkpoint,
    write_with_peft,
)
from helpers.peft_kinds import (
    ELSEWHERE,
    LORAS,
    OTHERS,
    TASK_TYPES,
    Config,
    lora,
    of_family,
    tuner,
)
from helpers.sequences import logits_of

QUICK_LORAS = (
    *("plain", "six sites", "irregular", "both patterns", "pissa", "olora", "dora on all"),
    *("dora of the pooler", "rank beyond the width", "bias of all linears", "bias of the product"),
)
QUICK_OTHERS = (
    *("adalora", "vera without matrices", "loha of high rank", "loha pattern", "lokr of products"),
    *("c3a", "delora", "vblora of the best", "fourierft", "hra", "shira", "ia3 of some layers"),
    *("ln tuning", "prefix"),
)
"""The kinds that run here; `test_peft_matrix.py` has all."""


@pytest.fixture(scope="module")
def bases(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of each family, with the tiny backbone's vocabulary."""
    root = tmp_path_factory.mktemp("bases")
    return {
        family: random_checkpoint(tiny_folder, family, root / family)
        for family in (*FAMILIES, *FURTHER_FAMILIES)
    }


@pytest.fixture(scope="module")
def backbones(bases: dict[str, Path]) -> dict[str, Backbone]:
    return {family: Backbone.load(str(folder), device="cpu") for family, folder in bases.items()}


def check_equal(base: Path, backbone: Backbone, folder: Path, config: Any) -> Adapter:
    model = write_with_peft(base, folder, config)
    adapter = load_foreign_adapter(folder, backbone)
    found, expected = own_outputs(adapter, backbone), peft_outputs(model, backbone)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return adapter


@pytest.mark.parametrize("name", QUICK_LORAS)
def test_lora_answers_as_in_peft(
    name: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    check_equal(bases["bert"], backbones["bert"], tmp_path / "a", LORAS[name]("SEQ_CLS"))


@pytest.mark.filterwarnings("ignore:Specified to not save vera_A")
@pytest.mark.parametrize("name", QUICK_OTHERS)
def test_other_methods_answer_as_in_peft(
    name: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    check_equal(bases["bert"], backbones["bert"], tmp_path / "a", OTHERS[name]("SEQ_CLS"))


@pytest.mark.parametrize(("family", "config"), ELSEWHERE)
def test_other_methods_answer_as_in_peft_on_other_families(
    family: str,
    config: Config,
    bases: dict[str, Path],
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    task_type: Any = None if family in FURTHER_FAMILIES else "TOKEN_CLS"
    check_equal(bases[family], backbones[family], tmp_path / "a", config(task_type))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_task_type_of_every_family_answers_as_in_peft(
    family: str,
    task_type: str | None,
    bases: dict[str, Path],
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    backbone, config = backbones[family], of_family(family)(task_type)
    adapter = check_equal(bases[family], backbone, tmp_path / "a", config)
    assert adapter.task.peft_task_type == (task_type or "FEATURE_EXTRACTION")
    assert (adapter.name, adapter.fingerprint) == ("a", None)
    # Out again: without its card the folder is read as one of PEFT.
    out = save_adapter(adapter, tmp_path / "out", backbone.geometry)
    if backbone.geometry.shared_layers:
        assert "PEFT cannot compute" in (out / "README.md").read_text()
        return
    for name in (CARD, SUMS):
        (out / name).unlink()
    again = load_foreign_adapter(out, backbone)
    assert again.task == adapter.task
    for found, tensors in ((again.tensors, adapter.tensors), (again.head, adapter.head)):
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("task_type", ["TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_a_prefix_of_every_task_type_answers_as_in_peft(
    task_type: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    config = OTHERS["prefix"](task_type)
    check_equal(bases["bert"], backbones["bert"], tmp_path / "a", config)


def test_question_answering_reads_pairs_as_peft_trained_them(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    """PEFT's model does not hand on the token types, which its user gave."""
    base, backbone = bases["bert"], backbones["bert"]
    model = write_with_peft(base, tmp_path / "a", lora()("QUESTION_ANS"))
    adapter = load_foreign_adapter(tmp_path / "a", backbone)
    contexts = ["the account is closed today"] * len(TEXTS)
    expected = peft_outputs(model, backbone, contexts)
    rows = [{"question": q, "context": c} for q, c in zip(TEXTS, contexts, strict=True)]
    found = adapter.task.examples(rows, backbone.reader, 60)
    logits = logits_of(backbone, adapter, [example.inputs[0] for example in found])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert {t for example in found for t in example.inputs[0].token_type_ids} == {0}


def test_a_trained_pooler_is_read(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    for name, settings in {
        "whole": {},
        "both": {"target_modules": ["query", "pooler.dense"]},
    }.items():
        config = lora(modules_to_save=["classifier"] + ["pooler"] * (name == "whole"), **settings)
        adapter = check_equal(bases["bert"], backbones["bert"], tmp_path / name, config("SEQ_CLS"))
        assert (adapter.task.pooling, adapter.task.hidden_activation) == ("cls", "tanh")  # type: ignore[attr-defined]


def test_facts_name_labels_and_problem(
    bases: dict[str, Path],
    backbones: dict[str, Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("adapterkit"), "propagate", True)
    write_with_peft(bases["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    with caplog.at_level(logging.INFO, "adapterkit"):
        load_foreign_adapter(tmp_path / "a", backbones["bert"])
        assert "are read as single_label_classification" in caplog.text
        caplog.clear()
        facts = HeadFacts(("yes", "no", "其他"), "multi_label_classification")
        adapter = load_foreign_adapter(tmp_path / "a", backbones["bert"], facts)
        assert not caplog.text
    assert adapter.task.type == "multi_label"
    assert adapter.task.labels == ("yes", "no", "其他")  # type: ignore[attr-defined]
    for wrong, message in (
        (HeadFacts(("yes", "no")), "labels: 2 names for a head of 3 labels"),
        (HeadFacts(problem_type="regression"), "a head of 3 numbers"),
        (HeadFacts(problem_type="ranking"), "expected one of single_label_classification"),
    ):
        with pytest.raises(AdapterError, match=message):
            load_foreign_adapter(tmp_path / "a", backbones["bert"], wrong)


@pytest.mark.parametrize("task_type", ["QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_labels_that_no_task_reads_are_refused(
    task_type: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    write_with_peft(bases["bert"], tmp_path / "a", lora()(task_type))
    with pytest.raises(AdapterError, match=r"labels: \w+, as which this folder is read, has none"):
        load_foreign_adapter(tmp_path / "a", backbones["bert"], HeadFacts(("yes", "no")))


def refusals() -> dict[str, tuple[Config, str]]:
    return {
        "pissa with random numbers": (
            lora(init_lora_weights="pissa_niter_4"),
            "init_lora_weights = 'pissa_niter_4' changed the frozen weights",
        ),
        "word embeddings": (lora(target_modules=["word_embeddings"]), "does not belong here"),
        "tokens": (lora(trainable_token_indices=[3]), "trainable_token_indices = "),
        "ia3 of an input": (
            tuner("IA3Config", feedforward_modules=["query"]),
            "the input of 'bert.encoder.layer.0.attention.self.query' cannot be edited here",
        ),
        "norm of the head": (
            tuner("LNTuningConfig", target_modules=["pooler.dense"]),
            "which is no layer norm here",
        ),
        "oft": (tuner("OFTConfig", oft_block_size=4), "peft_type 'OFT' is not known here"),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_cannot_be_expressed_is_refused_by_name(
    name: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    config, message = refusals()[name]
    write_with_peft(bases["bert"], tmp_path / "a", config("SEQ_CLS"))
    with pytest.raises(AdapterError, match=message):
        load_foreign_adapter(tmp_path / "a", backbones["bert"])


def test_unknown_settings_are_refused_unless_they_are_off(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    write_with_peft(bases["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "new_in_2027": None, "other": {}}))
    load_foreign_adapter(tmp_path / "a", backbones["bert"])
    for change, message in (
        ({"new_in_2027": 3}, "new_in_2027 = 3 is not supported"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq' changed"),
        ({"alpha_pattern": {"(a+)+b": 3}}, r"alpha_pattern: the pattern '\(a\+\)\+b' is not"),
        ({"task_type": "CAUSAL_LM"}, "task_type 'CAUSAL_LM' is not known here"),
        ({"task_type": "TOKEN_CLS", "lora_alpha": None}, "the setting 'lora_alpha' is missing"),
        ({"task_type": "FEATURE_EXTRACTION"}, "is trained, which task_type"),
    ):
        file.write_text(json.dumps({**config, **change}))
        with pytest.raises(AdapterError, match=message):
            load_foreign_adapter(tmp_path / "a", backbones["bert"])


def test_names_of_older_versions_are_read(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    adapter = check_equal(bases["bert"], backbones["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {
        name.replace("lora_A", "lora_A.default").replace(
            "classifier", "classifier.modules_to_save"
        ): t
        for name, t in load_file(file).items()
    }
    save_file(tensors, file)
    again = load_foreign_adapter(tmp_path / "a", backbones["bert"])
    assert all(torch.equal(again.tensors[name], adapter.tensors[name]) for name in adapter.tensors)
    assert torch.equal(again.head["classifier.weight"], adapter.head["classifier.weight"])


def test_a_head_that_was_not_saved_is_refused(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    write_with_peft(bases["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "classifier" not in n}, file)
    with pytest.raises(AdapterError, match=r"'classifier\.weight' is missing"):
        load_foreign_adapter(tmp_path / "a", backbones["bert"])


LONG = 40_000
HOSTILE: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "lora": (
        {"peft_type": "LORA", "lora_alpha": 8, "use_dora": True},
        {"lora_A.weight": (1, LONG), "lora_B.weight": (LONG, 1), "lora_magnitude_vector": (LONG,)},
        r"change a weight \(40000, 40000\)",
    ),
    "loha": (
        {"peft_type": "LOHA", "r": 1, "alpha": 1},
        {
            f"hada_w{n}_{part}": shape
            for n in "12"
            for part, shape in (("a", (LONG, 1)), ("b", (1, LONG)))
        },
        r"change a weight \(40000, 40000\)",
    ),
    "loha of high rank": (
        {"peft_type": "LOHA", "r": 1, "alpha": 1},
        {
            f"hada_w{n}_{part}": shape
            for n in "12"
            for part, shape in (("a", (32, LONG // 8)), ("b", (LONG // 8, 32)))
        },
        "",
    ),
    "lokr": (
        {"peft_type": "LOKR", "r": 1, "alpha": 1},
        {"lokr_w1": (200, 200), "lokr_w2_a": (LONG, 1), "lokr_w2_b": (1, LONG)},
        r"change a weight \(8000000, 8000000\)",
    ),
    "lokr of a line": (
        {"peft_type": "LOKR", "r": 1, "alpha": 1},
        {"lokr_w1": (1, LONG), "lokr_w2": (LONG, 1)},
        r"change a weight \(40000, 40000\)",
    ),
    "c3a": (
        {"peft_type": "C3A", "block_size": LONG},
        {"c3a_kernel": (1, 1, LONG)},
        r"change a weight \(40000, 40000\)",
    ),
    "vblora": (
        {"peft_type": "VBLORA", "r": 2, "topk": 1},
        {"vblora_logits_A": (LONG, 1, 2), "vblora_logits_B": (32, LONG, 2)},
        "vblora_logits_A is larger than any product needs",
    ),
    "hra": ({"peft_type": "HRA", "r": 2}, {"hra_u": (32, LONG)}, "40000 reflections"),
    "shira": (
        {"peft_type": "SHIRA", "r": 2},
        {"shira_weight": (1,), "shira_indices": (2, 1)},
        "index 32 is out of bounds",
    ),
    "no rank": (
        {"peft_type": "LORA", "lora_alpha": 8},
        {"lora_A.weight": (0, 32), "lora_B.weight": (32, 0)},
        "division by zero",
    ),
}
"""Folders whose tensors are small, and what they stand for is not."""


@pytest.mark.parametrize("name", HOSTILE)
def test_tensors_of_other_shapes_are_refused_before_they_are_multiplied(
    name: str, tiny: Backbone, tmp_path: Path
) -> None:
    config, shapes, message = HOSTILE[name]
    path = "base_model.model.encoder.layer.0.attention.self.query"
    tensors = {
        f"{path}.{part}": torch.full(shape, 32) if "indices" in part else torch.ones(shape)
        for part, shape in shapes.items()
    }
    if name == "vblora":
        tensors["base_model.vblora_vector_bank"] = torch.ones(2, LONG)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    if message:
        with pytest.raises(AdapterError, match=message):
            load_foreign_adapter(tmp_path, tiny)
    else:
        assert load_foreign_adapter(tmp_path, tiny).tensors["query.a"].shape == (1, 32, 32)
