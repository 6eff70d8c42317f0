"""Folders that PEFT wrote answer as in PEFT, or are refused by name."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_peft_adapter, save_adapter
from adapterkit.adapter.peft_import import HeadFacts
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from helpers.sequences import logits_of, tokenise

TEXTS = ["where is my card", "a", "i want to close the account " * 4, "rain sun tea", "fast help"]
ATTENTION = ["query", "value"]
HIDDEN_LAYERS = {"distilbert": "pre_classifier", "deberta-v2": "pooler"}
"""Hidden layers of heads that PEFT saves only if it is told to."""

TARGETS = {
    "distilbert": ["q_lin", "v_lin"],
    "mpnet": ["attn.q", "attn.v"],
    "deberta-v2": ["query_proj", "value_proj"],
}
"""Query and value, where PEFT has other names for them than `query` and `value`."""

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
}
"""Model types, and what they call a size by a name of their own."""


FURTHER_FAMILIES: dict[str, dict[str, Any]] = {"modernbert": {"global_attn_every_n_layers": 2}}
"""Model types whose heads in PEFT are not read here."""


@pytest.fixture(scope="module")
def bases(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of each family, with the tiny backbone's vocabulary."""
    from transformers import AutoConfig, AutoModel

    shape = AutoConfig.from_pretrained(tiny_folder).to_dict()
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    folders = {}
    for family, own in {**FAMILIES, **FURTHER_FAMILIES}.items():
        folders[family] = tmp_path_factory.mktemp(family) / "base"
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(tiny_folder, folders[family], ignore=ignored)
        config = AutoConfig.for_model(
            family,
            **{name: shape[name] for name in sizes},
            intermediate_size=64,
            max_position_embeddings=66,
            pad_token_id=0,
            **own,
        )
        torch.manual_seed(4)
        model = AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
        model.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="module")
def backbones(bases: dict[str, Path]) -> dict[str, Backbone]:
    return {family: Backbone.load(str(folder), device="cpu") for family, folder in bases.items()}


def write_with_peft(base: Path, folder: Path, config: Any, *, kind: str = "") -> Any:
    """A trained PEFT folder, and PEFT's model of it as PEFT loads it."""
    import peft
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    classes = {
        "SEQ_CLS": "AutoModelForSequenceClassification",
        "TOKEN_CLS": "AutoModelForTokenClassification",
        "QUESTION_ANS": "AutoModelForQuestionAnswering",
    }
    auto: Any = getattr(transformers, classes.get(kind or config.task_type, "AutoModel"))
    n_labels = {} if config.task_type == "QUESTION_ANS" else {"num_labels": 3}

    torch.manual_seed(3)
    untouched = auto.from_pretrained(base, **n_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(deepcopy(untouched), config)
        torch.manual_seed(9)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        return peft.PeftModel.from_pretrained(untouched, folder).eval()


def peft_outputs(model: Any, backbone: Backbone, pairs: Any = None) -> Any:
    """PEFT's logits, or mean states, of each text."""
    found = []
    warnings.filterwarnings("ignore", "Sparse invariant checks")
    for row in tokenise(backbone, TEXTS, pairs, 50):
        with torch.inference_mode():
            arguments = {"input_ids": torch.tensor([row.input_ids])}
            if pairs is not None:
                arguments["token_type_ids"] = torch.tensor([row.token_type_ids])
            output = model(**arguments, attention_mask=torch.ones_like(arguments["input_ids"]))
        if "start_logits" in output:
            found.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
        elif "logits" in output:
            found.append(output.logits[0].reshape(-1, output.logits.shape[-1]))
        else:
            found.append(output.last_hidden_state[0].mean(0, keepdim=True))
    return torch.cat(found)


def own_outputs(adapter: Adapter, backbone: Backbone, pairs: Any = None) -> torch.Tensor:
    return logits_of(backbone, adapter, tokenise(backbone, TEXTS, pairs, 50))


def lora(**settings: Any) -> Callable[[str], Any]:
    def config(task_type: str) -> Any:
        import peft

        return peft.LoraConfig(**{"task_type": task_type, "target_modules": ATTENTION, **settings})

    return config


def tuner(name: str, **settings: Any) -> Callable[[str], Any]:
    def config(task_type: str) -> Any:
        import peft

        targets = {} if name == "PrefixTuningConfig" else {"target_modules": ATTENTION}
        return getattr(peft, name)(task_type=task_type, **{**targets, **settings})

    return config


LORAS: dict[str, Callable[[str], Any]] = {
    "plain": lora(),
    "rank": lora(r=3, lora_alpha=5),
    "rslora": lora(r=4, use_rslora=True),
    "six sites": lora(
        target_modules=["query", "key", "value", "dense"], exclude_modules=["pooler.dense"]
    ),
    "all linear": lora(target_modules="all-linear"),
    "regex": lora(target_modules=r".*layer\.[02]\.attention\.self\.(query|key)"),
    "irregular": lora(target_modules=r".*(layer\.0\..*query|layer\.1\.output\.dense)"),
    "layers": lora(layers_to_transform=[0, 2]),
    "rank pattern": lora(rank_pattern={"layer.1.attention.self.query": 2, "value": 5}),
    "alpha pattern": lora(alpha_pattern={r"layer\.\d+\.attention\.self\.value": 3}),
    "both patterns": lora(
        rank_pattern={"query": 3}, alpha_pattern={"^bert.*query": 9}, use_rslora=True
    ),
    "dropout": lora(lora_dropout=0.3),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "not initialised": lora(init_lora_weights=False),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "dora": lora(use_dora=True),
    "dora on all": lora(
        use_dora=True,
        target_modules=["query", "key", "value", "dense"],
        exclude_modules=["pooler.dense"],
    ),
}
OTHERS: dict[str, Callable[[str], Any]] = {
    "adalora": tuner("AdaLoraConfig", init_r=4, target_r=2, total_step=10),
    "vera": tuner("VeraConfig", r=6),
    "vera without matrices": tuner("VeraConfig", r=6, save_projection=False),
    "vera of some layers": tuner("VeraConfig", r=6, target_modules=r".*[02].*(query|output.dense)"),
    "loha": tuner("LoHaConfig", r=2, alpha=3),
    "loha of high rank": tuner("LoHaConfig", r=8, alpha=3),
    "loha pattern": tuner("LoHaConfig", r=2, rank_pattern={"query": 3}, alpha_pattern={"value": 2}),
    "lokr": tuner("LoKrConfig", r=2, alpha=3),
    "lokr of products": tuner("LoKrConfig", r=1, decompose_both=True, decompose_factor=4),
    "c3a": tuner("C3AConfig", block_size=8),
    "delora": tuner("DeloraConfig", r=3),
    "vblora": tuner("VBLoRAConfig", r=2, vector_length=8, num_vectors=10, topk=2),
    "vblora of the best": tuner(
        "VBLoRAConfig", r=2, vector_length=8, num_vectors=10, topk=2, save_only_topk_weights=True
    ),
    "fourierft": tuner("FourierFTConfig", n_frequency=20),
    "hra": tuner("HRAConfig", r=3),
    "shira": tuner("ShiraConfig", r=2),
    "ia3": tuner("IA3Config", target_modules=None, feedforward_modules=None),
    "ia3 of outputs": tuner("IA3Config", feedforward_modules=[]),
    "ia3 of some layers": tuner(
        "IA3Config", target_modules=r".*\.[02]\.output\.dense", feedforward_modules=["output.dense"]
    ),
    "ln tuning": tuner("LNTuningConfig", target_modules=["LayerNorm"]),
    "ln tuning of some": tuner("LNTuningConfig", target_modules=r".*\.[02]\.output\.LayerNorm"),
    "prefix": tuner("PrefixTuningConfig", num_virtual_tokens=4),
}


def check_equal(base: Path, backbone: Backbone, folder: Path, config: Any) -> Adapter:
    model = write_with_peft(base, folder, config)
    adapter = load_peft_adapter(folder, backbone)
    found, expected = own_outputs(adapter, backbone), peft_outputs(model, backbone)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return adapter


@pytest.mark.parametrize("name", LORAS)
def test_lora_answers_as_in_peft(
    name: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    check_equal(bases["bert"], backbones["bert"], tmp_path / "a", LORAS[name]("SEQ_CLS"))


@pytest.mark.filterwarnings("ignore:Specified to not save vera_A")
@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_answer_as_in_peft(
    name: str, bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    check_equal(bases["bert"], backbones["bert"], tmp_path / "a", OTHERS[name]("SEQ_CLS"))


MODERN_NORMS = r".*(layers\.[12]\.attn_norm|mlp_norm|embeddings\.norm)"
WQKV = ["Wqkv", "mlp.Wo"]
ELSEWHERE: list[tuple[str, Callable[[str], Any]]] = [
    ("roberta", OTHERS["ia3"]),
    ("deberta-v2", OTHERS["ia3"]),
    ("roberta", OTHERS["ln tuning"]),
    ("mpnet", OTHERS["ln tuning"]),
    ("roberta", tuner("VeraConfig", r=6, target_modules=["query", "intermediate.dense"])),
    ("modernbert", tuner("VeraConfig", r=6, target_modules=["Wqkv", "mlp.Wo"])),
    ("deberta-v2", OTHERS["ln tuning"]),
    ("distilbert", tuner("LNTuningConfig", target_modules=["layer_norm", "LayerNorm"])),
    ("modernbert", tuner("LNTuningConfig", target_modules=MODERN_NORMS)),
    ("modernbert", tuner("IA3Config", target_modules=WQKV, feedforward_modules=["mlp.Wo"])),
]


@pytest.mark.parametrize(("family", "config"), ELSEWHERE)
def test_other_methods_answer_as_in_peft_on_other_families(
    family: str,
    config: Callable[[str], Any],
    bases: dict[str, Path],
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    task_type: Any = None if family in FURTHER_FAMILIES else "TOKEN_CLS"
    check_equal(bases[family], backbones[family], tmp_path / "a", config(task_type))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", None]
)
def test_every_task_type_of_every_family_answers_as_in_peft(
    family: str,
    task_type: str,
    bases: dict[str, Path],
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    backbone = backbones[family]
    own: dict[str, Any] = {}
    if family in TARGETS:
        own["target_modules"] = TARGETS[family]
    if family in HIDDEN_LAYERS and task_type == "SEQ_CLS":
        own["modules_to_save"] = [HIDDEN_LAYERS[family], "classifier"]
    adapter = check_equal(bases[family], backbone, tmp_path / "a", lora(r=4, **own)(task_type))
    assert adapter.task.peft_task_type == (task_type or "FEATURE_EXTRACTION")
    assert (adapter.name, adapter.fingerprint) == ("a", None)
    # Out again: without its card the folder is read as one of PEFT.
    out = save_adapter(adapter, tmp_path / "out", backbone.geometry)
    if backbone.geometry.shared_layers:
        assert "PEFT cannot compute" in (out / "README.md").read_text()
        return
    for name in (CARD, SUMS):
        (out / name).unlink()
    again = load_peft_adapter(out, backbone)
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
    adapter = load_peft_adapter(tmp_path / "a", backbone)
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
        load_peft_adapter(tmp_path / "a", backbones["bert"])
        assert "are read as single_label_classification" in caplog.text
        caplog.clear()
        facts = HeadFacts(("yes", "no", "其他"), "multi_label_classification")
        adapter = load_peft_adapter(tmp_path / "a", backbones["bert"], facts)
        assert not caplog.text
    assert adapter.task.type == "multi_label"
    assert adapter.task.labels == ("yes", "no", "其他")  # type: ignore[attr-defined]
    for wrong, message in (
        (HeadFacts(("yes", "no")), "labels: 2 names for a head of 3 labels"),
        (HeadFacts(problem_type="regression"), "a head of 3 numbers"),
        (HeadFacts(problem_type="ranking"), "expected one of single_label_classification"),
    ):
        with pytest.raises(AdapterError, match=message):
            load_peft_adapter(tmp_path / "a", backbones["bert"], wrong)


def refusals() -> dict[str, tuple[Callable[[str], Any], str]]:
    return {
        "pissa with random numbers": (
            lora(init_lora_weights="pissa_niter_4"),
            "init_lora_weights = 'pissa_niter_4' changed the frozen weights",
        ),
        "biases": (lora(bias="all"), "bias = 'all' is not supported"),
        "bias of the product": (lora(lora_bias=True), "lora_bias = True is not supported"),
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
        load_peft_adapter(tmp_path / "a", backbones["bert"])


def test_unknown_settings_are_refused_unless_they_are_off(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    write_with_peft(bases["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "new_in_2027": None, "other": {}}))
    load_peft_adapter(tmp_path / "a", backbones["bert"])
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
            load_peft_adapter(tmp_path / "a", backbones["bert"])


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
    again = load_peft_adapter(tmp_path / "a", backbones["bert"])
    assert all(torch.equal(again.tensors[name], adapter.tensors[name]) for name in adapter.tensors)
    assert torch.equal(again.head["classifier.weight"], adapter.head["classifier.weight"])


def test_a_head_that_was_not_saved_is_refused(
    bases: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    write_with_peft(bases["bert"], tmp_path / "a", lora()("SEQ_CLS"))
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "classifier" not in n}, file)
    with pytest.raises(AdapterError, match=r"'classifier\.weight' is missing"):
        load_peft_adapter(tmp_path / "a", backbones["bert"])
