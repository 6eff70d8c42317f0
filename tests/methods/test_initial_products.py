"""LoRA that starts from parts of the frozen weights, beside PEFT's PiSSA and OLoRA."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import forward
from adapterkit.methods.base import methods
from adapterkit.training.plan import Plan
from adapterkit.training.train import train
from adapterkit.training.trainable import TrainableAdapter
from helpers.adapters import MakeAdapter
from helpers.joint_training import recipe_for, write_rows
from helpers.peft_reference import TEXTS, bert_for
from helpers.sequences import tokenise


def started(backbone: Backbone, make_adapter: MakeAdapter, **settings: Any) -> Adapter:
    """An adapter before its first step."""
    adapter = make_adapter(backbone, "lora")
    method = methods()["lora"](**settings)
    drawn = method.init_tensors(backbone.geometry, torch.Generator().manual_seed(0))
    tensors = method.begin(drawn, backbone.frozen_weights)
    return replace(adapter, method=method, tensors=tensors)


def pooled(backbone: Backbone, adapter: Adapter) -> torch.Tensor:
    """The logits of the texts, `[5, 2]`, over the mean of the states."""
    (piece,) = forward(backbone, [(adapter, row) for row in tokenise(backbone, TEXTS, None, 50)])
    return piece.values[sorted(range(len(TEXTS)), key=lambda n: piece.rows[n])]


class PeftLoRA:
    """The same adapter in PEFT, over a base that PEFT changes.

    Args:
        folder: The checkpoint.
        backbone: The same as a backbone.
        adapter: The adapter, for its head and settings.
    """

    def __init__(self, folder: Path, backbone: Backbone, adapter: Adapter) -> None:
        import peft

        method: Any = adapter.method
        self.rows = tokenise(backbone, TEXTS, None, 50)
        self.head, self.kind = adapter.head, method.init_lora_weights
        config = peft.LoraConfig(
            task_type="FEATURE_EXTRACTION",
            r=method.r,
            lora_alpha=method.alpha,
            use_rslora=method.rank_stabilised,
            target_modules=list(method.targets),
            init_lora_weights=self.kind,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model: Any = peft.get_peft_model(bert_for(folder, 2).bert, config).eval()

    def pooled(self) -> torch.Tensor:
        ids = [torch.tensor([row.input_ids]) for row in self.rows]
        states = torch.cat([self.model(input_ids=one).last_hidden_state.mean(1) for one in ids])
        return states @ self.head["classifier.weight"].T + self.head["classifier.bias"]

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained matrices: `query.a` of layer 1 is `1.query.a`."""
        found = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                layer, site, part = (name.split(".")[n] for n in (-7, -4, -3))
                found[f"{layer}.{site}.{part[-1].lower()}"] = parameter
        return found

    def save(self, folder: Path) -> Path:
        """A folder of PEFT for the unchanged base, which PEFT itself converts."""
        config = self.model.peft_config["default"]
        config.init_lora_weights = self.kind
        self.model.save_pretrained(
            folder, path_initial_model_for_weight_conversion=folder.with_name("initial")
        )
        return folder

    def save_initial(self, folder: Path) -> None:
        self.model.peft_config["default"].init_lora_weights = True
        self.model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "settings"), [("pissa", {}), ("olora", {"rank_stabilised": True, "alpha": 3.0})]
)
def test_start_gradient_and_training_are_those_of_peft(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
) -> None:
    adapter = started(tiny, make_adapter, r=4, init_lora_weights=kind, **settings)
    theirs = PeftLoRA(tiny_folder, tiny, adapter)
    plain = replace(adapter, method=methods()["head"](), tensors={})
    before = pooled(tiny, plain)
    torch.testing.assert_close(pooled(tiny, adapter), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.pooled().detach(), before, rtol=1e-5, atol=1e-5)
    theirs.save_initial(tmp_path / "initial")

    trainable = TrainableAdapter(adapter)
    factor = torch.linspace(-1, 1, 10).view(5, 2)
    expected = theirs.parameters()
    signs: dict[str, torch.Tensor] = {}  # of singular vectors: they differ between libraries
    for step in range(3):
        for values in (pooled(tiny, trainable.adapter), theirs.pooled()):
            (values * factor).sum().backward()
        for name in (one for one in trainable.initial.tensors if one.endswith((".a", ".b"))):
            own = trainable.adapter.tensors[name]
            assert own.grad is not None
            for layer, values in enumerate(own.detach()):
                other = expected[f"{layer}.{name}"]
                assert other.grad is not None
                dim = 1 if name.endswith(".a") else 0
                if step == 0:
                    signs[f"{layer}.{name}"] = (values * other.detach()).sum(dim).sign()
                sign = signs[f"{layer}.{name}"].unsqueeze(dim)
                largest = other.grad.abs().max()
                torch.testing.assert_close(
                    own.grad[layer] * sign / largest, other.grad / largest, rtol=1e-4, atol=1e-4
                )
        with torch.no_grad():
            for parameter in (*trainable.tensors.values(), *expected.values()):
                parameter -= 0.05 * parameter.grad
                parameter.grad = None

    found = pooled(tiny, trainable.detached()).detach()
    assert float((found - before).abs().max()) > 1e-3
    torch.testing.assert_close(found, theirs.pooled().detach(), rtol=1e-5, atol=1e-5)
    member = trainable.detached()
    method, tensors = member.method.finalize(member.tensors)
    finished = replace(member, method=method, tensors=tensors)
    assert (method.r, method.init_lora_weights) == (8, "default")  # type: ignore[attr-defined]
    torch.testing.assert_close(pooled(tiny, finished), found, rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = load_foreign_adapter(theirs.save(tmp_path / "theirs"), tiny)
    read = replace(finished, method=converted.method, tensors=converted.tensors)
    torch.testing.assert_close(pooled(tiny, read), found, rtol=1e-5, atol=1e-5)


def test_what_is_not_trained_is_in_no_optimiser_and_no_checkpoint(
    tiny: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"type": "lora", "r": 4, "init_lora_weights": "pissa"}
    recipe = recipe_for("start", write_rows(1, 20), own, epochs=1)
    adapter = Plan.of(recipe, tiny).adapter
    trainable = TrainableAdapter(adapter)
    names = {"tensors.query__a", "tensors.query__b", "tensors.value__a", "tensors.value__b"}
    assert {n for n in trainable.snapshot() if n.startswith("tensors")} == names
    groups = trainable.parameters_by_rate(recipe.training)
    sizes = sum(p.numel() for parameters, _ in groups for p in parameters.values())
    assert sizes == adapter.n_trained_parameters < adapter.n_parameters
    again = Plan.of(recipe, tiny).adapter  # as a training that goes on draws it
    for name, tensor in adapter.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor)
    with caplog.at_level("INFO", "adapterkit"):
        trained = train(recipe, tiny, progress=False)
    assert f"{sizes:,} trainable parameters" in caplog.text
    assert trained.method.shapes(tiny.geometry)["query.a"] == (3, 8, 32)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("lora", {"init_lora_weights": "loftq"}, "init_lora_weights: expected one of default"),
        ("lora", {"init_lora_weights": "pissa", "dropout": 0.1}, "dropout: expected 0 with init"),
        ("lora", {"init_lora_weights": "pissa", "alpha": -2.0}, "alpha: expected more than 0 with"),
        ("lora", {"init_lora_weights": "olora", "r": 17}, "an adapter of rank 34, more than"),
        ("dora", {"init_lora_weights": "pissa"}, "dora has 'default' alone"),
    ],
)
def test_settings_that_have_no_exact_start_are_refused(
    tiny: Backbone, kind: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        methods()[kind](**settings).shapes(tiny.geometry)
