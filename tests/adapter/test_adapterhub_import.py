"""Folders that AdapterHub's library wrote answer as in the library, or are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterkit.adapter.checksums import SUMS, with_checksums
from adapterkit.adapter.foreign_folder import load_foreign_adapter, load_foreign_method
from adapterkit.adapter.peft_head import HeadFacts
from adapterkit.errors import AdapterError
from helpers.adapterhub import (
    FOLDERS,
    backbone_of,
    change_settings,
    changed_folder,
    library_outputs,
    own_outputs,
)

EXPECTED = library_outputs()
STACKED = "bert.stack_top"
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {STACKED}))
def test_a_folder_answers_as_in_the_library(name: str) -> None:
    family, _, kind = name.partition(".")
    backbone = backbone_of(family)
    adapter = load_foreign_adapter(FOLDERS / family / kind, backbone)
    found = own_outputs(adapter, backbone)
    torch.testing.assert_close(found, EXPECTED[name], rtol=0, atol=TOLERANCE)
    bare = replace(adapter, on_top_of=None, tensors=_zeros(adapter.tensors))
    assert (own_outputs(bare, backbone) - found).abs().max() > 100 * TOLERANCE


def _zeros(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def test_a_stack_answers_as_in_the_library() -> None:
    backbone = backbone_of("bert")
    low = load_foreign_adapter(FOLDERS / "bert" / "stack_low", backbone)
    top = load_foreign_adapter(FOLDERS / "bert" / "stack_top", backbone, on_top_of=low)
    found = own_outputs(top, backbone)
    torch.testing.assert_close(found, EXPECTED[STACKED], rtol=0, atol=TOLERANCE)


def test_a_stack_that_adds_up_otherwise_in_the_library_is_refused() -> None:
    backbone = backbone_of("bert")
    below = {
        kind: load_foreign_adapter(FOLDERS / "bert" / kind, backbone)
        for kind in ("pfeiffer", "parallel", "low_rank")
    }
    for low, top in (
        ("pfeiffer", "parallel"),
        ("parallel", "pfeiffer"),
        ("pfeiffer", "houlsby"),
        ("low_rank", "low_rank"),
        ("low_rank", "ia3"),
    ):
        with pytest.raises(AdapterError, match="something else in the library than here"):
            load_foreign_adapter(FOLDERS / "bert" / top, backbone, on_top_of=below[low])
    ours = replace(below["pfeiffer"], training={})
    with pytest.raises(AdapterError, match="was not imported from a folder of AdapterHub"):
        load_foreign_adapter(FOLDERS / "bert" / "pfeiffer", backbone, on_top_of=ours)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "inv_adapter = 'nice'": ("pfeiffer", {"inv_adapter": "nice"}),
    "use_gating = True": ("houlsby", {"use_gating": True}),
    "ln_before = True": ("pfeiffer", {"ln_before": True}),
    "ln_after = True": ("pfeiffer", {"ln_after": True}),
    "original_ln_after = False": ("pfeiffer", {"original_ln_after": False}),
    "residual_before_ln = 'post_add'": ("pfeiffer", {"residual_before_ln": "post_add"}),
    "non_linearity = 'mish'": ("pfeiffer", {"non_linearity": "mish"}),
    "mh_adapter = True with original_ln_before": ("houlsby", {"original_ln_before": True}),
    "mh_adapter = True with is_parallel": ("houlsby", {"is_parallel": True}),
    "miss what the settings name in layer 0": ("pfeiffer_leave_out", {"leave_out": []}),
    "more than what the settings name in layer 1": ("pfeiffer", {"leave_out": [1]}),
    "'scaling' does not belong": ("pfeiffer_learned_scale", {"scaling": 1.0}),
    "use_dora = True": ("low_rank", {"use_dora": True}),
    "not r = 4": ("low_rank", {"r": 4, "alpha": 4}),
    "composition_mode = 'mul'": ("low_rank", {"composition_mode": "mul"}),
    "attn_matrices: 'o'": ("low_rank", {"attn_matrices": ["o"]}),
    "prefix_length = 99": ("prefix_flat", {"prefix_length": 99}),
    "new_setting = 7": ("low_rank", {"new_setting": 7}),
    "architecture = 'mtl_lora'": ("low_rank", {"architecture": "mtl_lora"}),
    "architecture = 'prompt_tuning'": ("prefix_flat", {"architecture": "prompt_tuning"}),
    "architecture = 'reft'": ("low_rank", {"architecture": "reft"}),
    "leave_out = \\[1\\]": ("prefix_flat", {"leave_out": [1]}),
    "prefix has 192 numbers": ("prefix_flat", {"prefix_length": 2}),
    "alpha = 4 in a union of version": (
        "low_rank_and_pfeiffer",
        {"whole": {"version": "adapters.1.0.1"}},
    ),
    "lacks or garbles": ("low_rank", {"whole": {"config": {"architecture": "lora"}}}),
    "no weights of 'adapters'": ("low_rank", {"whole": {"config": {}}}),
    "tensor 'bert.encoder.layer.0.output.adapters": ("pfeiffer", {"whole": {"name": "other"}}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_exact_form_is_refused_by_name(words: str, tmp_path: Path) -> None:
    kind, changes = REFUSED[words]
    folder = changed_folder(kind, tmp_path / kind, **changes)
    with pytest.raises(AdapterError, match=words):
        load_foreign_adapter(folder, backbone_of("bert"))


def test_a_folder_with_a_fusion_is_refused(tmp_path: Path) -> None:
    folder = changed_folder("pfeiffer", tmp_path / "a")
    (folder / "adapter_fusion_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="AdapterFusion has no form here"):
        load_foreign_adapter(folder, backbone_of("bert"))


def test_files_that_its_checksums_do_not_know_are_refused(tmp_path: Path) -> None:
    folder = changed_folder("pfeiffer", tmp_path / "a")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / SUMS).write_bytes(with_checksums(files)[SUMS])
    load_foreign_adapter(folder, backbone_of("bert"))
    for name in ("head_config.json", "model_head.safetensors", "adapter.safetensors"):
        other = (FOLDERS / "bert" / "houlsby" / name).read_bytes()
        (folder / name).write_bytes(other)
        with pytest.raises(AdapterError, match=f"{name} was changed"):
            load_foreign_adapter(folder, backbone_of("bert"))
        (folder / name).write_bytes(files[name])


def test_weights_that_the_settings_do_not_name_are_refused(tmp_path: Path) -> None:
    folder = changed_folder("pfeiffer", tmp_path / "a")
    tensors = load_file(folder / "adapter.safetensors")
    for name in ("invertible_adapters.pfeiffer.F.0.weight", "bert.refts.pfeiffer.units.0.b"):
        save_file({**tensors, name: torch.ones(2)}, folder / "adapter.safetensors")
        with pytest.raises(AdapterError, match=name):
            load_foreign_adapter(folder, backbone_of("bert"))


@pytest.mark.parametrize("kind", ["pfeiffer", "compacter", "vera", "low_rank"])
def test_weights_of_another_width_are_refused(kind: str, tmp_path: Path) -> None:
    folder = changed_folder(kind, tmp_path / "a")
    tensors = load_file(folder / "adapter.safetensors")
    halves = {name: tensor[..., : tensor.shape[-1] // 2] for name, tensor in tensors.items()}
    narrow = {
        name: halves[name] if tensor.shape[-1] == 16 else tensor for name, tensor in tensors.items()
    }
    save_file({n: t.contiguous() for n, t in narrow.items()}, folder / "adapter.safetensors")
    with pytest.raises(AdapterError):
        load_foreign_adapter(folder, backbone_of("bert"))


REFUSED_HEADS: dict[str, dict[str, Any]] = {
    "head_type = 'masked_lm'": {"head_type": "masked_lm"},
    "layers = 3, but the weights have 2": {"layers": 3},
    "activation_function = 'mish'": {"activation_function": "mish"},
    "layers = 2: a tagging head has fewer": {"head_type": "tagging"},
    "the numbers of labels are": {"label2id": {"a": 0, "b": 2, "c": 3}},
    "labels: 2 names for a head of 3": {"label2id": {"a": 0, "b": 1}},
}


@pytest.mark.parametrize("words", REFUSED_HEADS)
def test_a_head_that_has_no_exact_form_is_refused_by_name(words: str, tmp_path: Path) -> None:
    folder = changed_folder("houlsby", tmp_path / "a")
    change_settings(folder / "head_config.json", REFUSED_HEADS[words])
    with pytest.raises(AdapterError, match=words):
        load_foreign_adapter(folder, backbone_of("bert"))


def test_files_without_a_version_name_activations_by_their_old_names(tmp_path: Path) -> None:
    whole = {"whole": {"version": "3.2.1"}}
    old = changed_folder("pfeiffer_leave_out", tmp_path / "old", **whole)
    text = (old / "adapter_config.json").read_text()
    (old / "adapter_config.json").write_text(text.replace('"version"', '"no_version"'))
    method, *_ = load_foreign_method(old, backbone_of("bert"))
    assert method.activation == "gelu_new"  # type: ignore[attr-defined]


def test_labels_are_those_of_the_folder_or_those_given() -> None:
    folder, backbone = FOLDERS / "bert" / "houlsby", backbone_of("bert")
    task: Any = load_foreign_adapter(folder, backbone).task
    assert (task.type, task.labels) == ("classification", ("refund", "delivery", "other"))
    facts = HeadFacts(("a", "b", "c"), "multi_label_classification")
    task = load_foreign_adapter(folder, backbone, facts).task
    assert (task.type, task.labels) == ("multi_label", ("a", "b", "c"))
