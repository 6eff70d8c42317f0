"""The contract of every registered family, those of plug-ins included; no test names a family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from adapterkit.backbone.checkpoint import Checkpoint
from adapterkit.backbone.edits import LayerEdits
from adapterkit.backbone.families.base import families, family_of
from adapterkit.backbone.geometry import LINEAR_SITES, OPTIONAL_SITES
from adapterkit.backbone.hooks import EditHooks
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import forward
from adapterkit.ops.attention_plan import AttentionPlan
from helpers.adapters import MakeAdapter
from helpers.sequences import tokenise

TEXTS = ["where is my card", "a", "the network is slow today", "i want to close the account " * 3]
NORMS = (nn.LayerNorm, nn.RMSNorm)
WEIGHTS = "model.safetensors"
every_model_type = pytest.mark.parametrize("model_type", sorted(families()))


def fresh_model(model_type: str, vocabulary: int = 20) -> Any:
    """A small random transformers model of a model type.

    A configuration that does not know transformers' common names has its own default sizes.
    """
    options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    return AutoModel.from_config(AutoConfig.for_model(model_type, **options)).eval()


@every_model_type
def test_the_paths_of_a_family_exist_in_its_models(model_type: str) -> None:
    family, model = family_of(model_type), fresh_model(model_type)
    names = set(model.state_dict())
    family.prepare(model)
    assert set(model.state_dict()) == names
    geometry = family.geometry(model.config)
    layers = family.layers(model)
    assert (geometry.layers_path, geometry.prefix) == (family.layers_path, family.prefix)
    assert model.base_model_prefix == family.prefix
    assert len(layers) == geometry.layers
    assert set(LINEAR_SITES) <= set(geometry.sites) <= {*LINEAR_SITES, *OPTIONAL_SITES}
    for layer in layers:
        for name, site in geometry.sites.items():
            linear: Any = layer.get_submodule(site.path)
            assert linear.in_features == geometry.width_in(name)
            first, end = site.columns or (0, linear.out_features)
            assert end - first == geometry.width_out(name)
        for path in geometry.norms.values():
            assert isinstance(layer.get_submodule(path), (*NORMS, nn.Identity))
        norms = [module for module in layer.modules() if isinstance(module, NORMS)]
        assert {norm.eps for norm in norms} == {family.norm_eps(model.config)}
        assert family.norm_path is None or layer.get_submodule(family.norm_path) in norms
        layer.get_submodule(family.activation_path or "")
        layer.get_submodule(family.residual_path or "")
        assert family.norm_path or family.residual_path


@every_model_type
def test_a_family_embeds_every_position_and_no_other(model_type: str) -> None:
    family, model = family_of(model_type), fresh_model(model_type)
    family.prepare(model)
    geometry = family.geometry(model.config)
    ids = torch.arange(5)
    states = family.embed(model, ids, ids + geometry.first_position, torch.zeros_like(ids), None)
    assert states.shape == (5, geometry.hidden)
    words = model.get_input_embeddings()(ids)
    same = family.embed(model, ids, ids + geometry.first_position, torch.zeros_like(ids), words)
    assert torch.equal(states, same)
    last = ids[:1] + geometry.first_position + geometry.positions - 1
    family.embed(model, ids[:1], last, ids[:1], None)
    moved = family.embed(model, ids, ids + geometry.first_position + 1, torch.zeros_like(ids), None)
    if not torch.equal(states, moved):  # a table of positions; layers have those of other families
        with pytest.raises(IndexError):
            family.embed(model, ids[:1], last + 1, ids[:1], None)
    assert len(family.layer_arguments(model, ids)) == geometry.layers


@every_model_type
def test_the_shapes_of_attention_are_those_of_its_calls(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, model = family_of(model_type), fresh_model(model_type)
    family.prepare(model)
    EditHooks(model, family, family.geometry(model.config))
    found: list[tuple[int | None, ...]] = []

    def attend(
        self: LayerEdits,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        scaling: float,
        window: int | None = None,
        bias: Any = None,
    ) -> Tensor:
        found.append((heads, query.shape[1] // heads, window, 0))
        return query

    def attend_by_position(
        self: LayerEdits,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        buckets: Tensor,
        tables: tuple[Any, Any],
        heads: int,
        scaling: float,
    ) -> Tensor:
        terms = sum(table is not None for table in tables)
        found.append((heads, query.shape[1] // heads, None, terms))
        return query

    monkeypatch.setattr(LayerEdits, "attend", attend)
    monkeypatch.setattr(LayerEdits, "attend_by_position", attend_by_position)
    ids = torch.arange(5)
    positions = ids + family.geometry(model.config).first_position
    states = family.embed(model, ids, positions, torch.zeros_like(ids), None)[None]
    plan, arguments = AttentionPlan.of([5]), family.layer_arguments(model, positions)
    for index, (layer, own) in enumerate(zip(family.layers(model), arguments, strict=True)):
        states = layer(states, edits=LayerEdits({}, plan, index, None), **own)
    assert found == [
        (shape.heads, shape.width, shape.window, shape.position_terms)
        for shape in family.attention_shapes(model)
    ]


@every_model_type
def test_a_backbone_computes_what_its_transformers_model_computes(
    model_type: str, tiny_folder: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    skipped = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny_folder, tmp_path, ignore=skipped, dirs_exist_ok=True)
    torch.manual_seed(0)
    model = fresh_model(model_type, len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # small initial weights would hide a wrong path
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), device="cpu")
    adapter = make_adapter(backbone, "head", pooling="mean")
    for text, row in zip(TEXTS, tokenise(backbone, TEXTS, None, 50), strict=True):
        with torch.inference_mode():
            output = model(torch.tensor([row.input_ids]))
            (found,) = forward(backbone, [(adapter, row)])
        states = getattr(output, "last_hidden_state", output)[0]
        weight, bias = adapter.head["classifier.weight"], adapter.head["classifier.bias"]
        expected = weight @ states.mean(0) + bias
        torch.testing.assert_close(found.values[0], expected, rtol=1e-4, atol=1e-4, msg=text)


@every_model_type
def test_every_weight_counts_in_the_fingerprint(model_type: str, tmp_path: Path) -> None:
    fresh_model(model_type).save_pretrained(tmp_path)
    weights, family = load_file(tmp_path / WEIGHTS), family_of(model_type)
    prints = {"": Checkpoint.read(tmp_path).weights_fingerprint}
    pooled = [name for name in weights if family.is_pooler_weight(name)]
    for name in weights.keys() - {*pooled}:
        changed = {**weights, name: weights[name] + 1}
        save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})
        prints[name] = Checkpoint.read(tmp_path).weights_fingerprint
    assert len(set(prints.values())) == len(weights) - len(pooled) + 1


@every_model_type
def test_a_task_model_has_the_fingerprint_of_its_backbone(model_type: str, tmp_path: Path) -> None:
    model, prefix = fresh_model(model_type), family_of(model_type).prefix
    model.save_pretrained(tmp_path)
    plain = Checkpoint.read(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    inside = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
    inside["classifier.weight"] = torch.ones(2, 32)
    save_file(inside, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert Checkpoint.read(tmp_path).weights_fingerprint == plain.weights_fingerprint
