"""The contract of every registered method, those of plug-ins included; no test names a method."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.store import Store
from adapterkit.backbone.geometry import (
    HIDDEN_SITES,
    INPUT_SITES,
    LINEAR_SITES,
    NORM_SITES,
)
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.base import Method, Tensors, default_method, methods, writers_of
from adapterkit.methods.group import Group
from adapterkit.ops.segments import Segments
from adapterkit.schema import build_kind, dump, keys_of
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter, random_adapter
from helpers.sequences import outputs_by_row, tokenise

TEXTS = ["where is my card", "a", "i want to close the account " * 4, "rain sun tea", "fast help"]
every_kind = pytest.mark.parametrize("kind", methods().values(), ids=list(methods()))


def parametrised(kinds: dict[str, Any]) -> pytest.MarkDecorator:
    """A parameter for every example of some methods."""
    return pytest.mark.parametrize(
        "method",
        [kind(**example) for kind in kinds.values() for example in kind.examples],
        ids=[f"{name}-{n}" for name, kind in kinds.items() for n, _ in enumerate(kind.examples)],
    )


every_method = parametrised(dict(methods()))
every_exact_method = parametrised(
    {name: kind for name, kind in methods().items() if kind.exact_gradients}
)


def trainable(method: Method, backbone: Backbone, seed: int = 0, noise: float = 0.2) -> Tensors:
    """Trainable tensors of a method, moved away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    drawn = method.init_tensors(backbone.geometry, generator)
    start = method.begin(drawn, backbone.frozen_weights)
    return {k: t + noise * torch.randn(t.shape, generator=generator) for k, t in start.items()}


def adapter_of(method: Method, backbone: Backbone, seed: int = 0, name: str = "t/a") -> Adapter:
    """A finished adapter with random weights."""
    finished, tensors = method.finalize(trainable(method, backbone, seed))
    plain = random_adapter(backbone, default_method(), name=name, seed=seed)
    return replace(plain, method=finished, tensors=tensors)


def outputs(backbone: Backbone, adapter: Adapter, grad: bool = False) -> torch.Tensor:
    """Logits of some texts, `[5, C]`."""
    rows = [(adapter, row) for row in tokenise(backbone, TEXTS, None, 40)]
    with torch.inference_mode(not grad):
        return torch.stack(outputs_by_row(backbone, rows)).clone()


@every_method
def test_a_folder_has_settings_of_one_method(method: Method, tiny: Backbone) -> None:
    finished, _ = method.finalize(trainable(method, tiny))
    config = {"peft_type": method.peft_type, **finished.config(tiny.geometry)}
    writer, *others = writers_of(config)
    assert writer is type(method)
    assert all(issubclass(writer, other) for other in others)


@every_kind
def test_every_setting_is_explained_and_has_a_default(kind: Any) -> None:
    kind()
    for key, default, meaning in keys_of(kind):
        assert default != "required", key
        assert meaning, f"{key} is not in the docstring's attributes"


@every_kind
def test_learning_rates_are_positive(kind: Any) -> None:
    assert kind.learning_rate > 0
    assert kind.head_learning_rate > 0


@every_method
def test_settings_are_restored_from_plain_values(method: Method) -> None:
    plain = json.loads(json.dumps(dump(method)))
    assert build_kind(methods(), plain, "method") == method


@every_method
def test_new_tensors_depend_only_on_the_seed(method: Method, tiny: Backbone) -> None:
    first, again = (
        method.init_tensors(tiny.geometry, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert tensor.dtype == torch.float32


@every_method
def test_a_finished_adapter_has_the_declared_tensors(method: Method, tiny: Backbone) -> None:
    finished, tensors = method.finalize(trainable(method, tiny))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == finished.shapes(tiny.geometry)
    assert finished.finalize(tensors)[0] == finished


@every_method
def test_a_finished_adapter_has_the_outputs_of_the_trained_one(
    method: Method, tiny: Backbone
) -> None:
    finished = adapter_of(method, tiny)
    unfinished = replace(finished, method=method, tensors=trainable(method, tiny))
    torch.testing.assert_close(
        outputs(tiny, unfinished), outputs(tiny, finished), rtol=1e-5, atol=1e-5
    )


@every_method
def test_training_continues_from_a_finished_adapter(method: Method, tiny: Backbone) -> None:
    finished = adapter_of(method, tiny)
    before = {name: tensor.clone() for name, tensor in finished.tensors.items()}
    generator = torch.Generator().manual_seed(1)
    again = method.init_from(finished.tensors, tiny.geometry, generator)
    resumed = replace(finished, method=method, tensors=again)
    torch.testing.assert_close(
        outputs(tiny, resumed), outputs(tiny, finished), rtol=1e-5, atol=1e-5
    )
    for tensor in again.values():
        tensor.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in finished.tensors.items())


@every_method
def test_only_declared_sites_are_edited(method: Method, tiny: Backbone) -> None:
    assert set(method.sites) <= {*LINEAR_SITES, *INPUT_SITES, *NORM_SITES, *HIDDEN_SITES}
    group = Group(Segments([3, 2]), tiny.geometry)
    members = [
        (method, method.bind(trainable(method, tiny, seed), tiny.frozen_weights)) for seed in (0, 1)
    ]
    edits = type(method).edits(members, group)
    assert {site for _, site in edits.deltas} == set(method.sites)
    assert {layer for layer, _ in edits.deltas} <= set(range(tiny.geometry.layers))
    assert (edits.prefixes is not None) == (method.num_virtual_tokens > 0)
    for prefix in edits.prefixes or ():
        layers, hidden = tiny.geometry.layers, tiny.geometry.hidden
        assert tuple(prefix.shape) == (layers, 2, method.num_virtual_tokens, hidden)


@every_method
def test_a_mixed_batch_equals_single_adapters(method: Method, tiny: Backbone) -> None:
    others = [random_adapter(tiny, name, name=f"o/{name}", seed=7) for name in methods()]
    own = [adapter_of(method, tiny, seed, f"t/{seed}") for seed in (1, 2)]
    rows = [
        (adapter, row)
        for row in tokenise(tiny, TEXTS, None, 40)
        for adapter in (*own, None, *others)
    ]
    random.Random(0).shuffle(rows)
    with torch.inference_mode():
        mixed = outputs_by_row(tiny, rows)
        for place, row in enumerate(rows):
            (alone,) = outputs_by_row(tiny, [row])
            torch.testing.assert_close(mixed[place], alone, rtol=1e-4, atol=1e-5)


@every_method
def test_training_and_inference_compute_the_same(method: Method, tiny: Backbone) -> None:
    adapter = adapter_of(method, tiny)
    torch.testing.assert_close(
        outputs(tiny, adapter, grad=True), outputs(tiny, adapter), rtol=1e-5, atol=1e-5
    )


@every_exact_method
def test_gradients_equal_finite_differences(method: Method, tiny: Backbone) -> None:
    tensors = trainable(method, tiny)
    adapter = replace(adapter_of(method, tiny), method=method, tensors=tensors)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(len(TEXTS), 2, generator=generator)
    for name, tensor in tensors.items():
        leaf = tensor.clone().requires_grad_()
        moved = replace(adapter, tensors={**tensors, name: leaf})
        (outputs(tiny, moved, grad=True) * weights).sum().backward()
        assert leaf.grad is not None, name
        direction = leaf.grad / leaf.grad.norm()
        ends = []
        for step in (-1e-2, 1e-2):
            moved = replace(adapter, tensors={**tensors, name: tensor + step * direction})
            ends.append(float((outputs(tiny, moved) * weights).sum()))
        assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(
            float(leaf.grad.norm()), rel=0.03, abs=1e-3
        )


@every_method
def test_a_weighted_sum_adds_the_weighted_sum_at_every_site(method: Method, tiny: Backbone) -> None:
    parts = [method.finalize(trainable(method, tiny, seed)) for seed in (0, 1)]
    weights, geometry = (0.7, -1.3), tiny.geometry
    refusal, total = "", parts[0]
    try:
        total = type(method).weighted_sum(parts, weights, geometry)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"the method {method.type} has no weighted sum")
        return
    generator, group = torch.Generator().manual_seed(2), Group(Segments([5]), geometry)

    def added(part: tuple[Method, Tensors], site: Any, y: torch.Tensor, x: Any) -> torch.Tensor:
        bound = part[0].bind(part[1], tiny.frozen_weights)
        delta = type(method).edits([(part[0], bound)], group).deltas[site]
        return delta(y.clone(), x.clone()) - y

    for layer, site in type(method).edits([total], group).deltas:
        y, x = (
            torch.randn(5, width, generator=generator)
            for width in (geometry.width_out(site), geometry.width_in(site))
        )
        terms = [
            weight * added(part, (layer, site), y, x)
            for part, weight in zip(parts, weights, strict=True)
        ]
        found = added(total, (layer, site), y, x)
        torch.testing.assert_close(found, sum(terms), rtol=1e-4, atol=1e-5)


@every_method
def test_an_adapter_is_stacked_on_another(
    method: Method, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    parent = make_adapter(tiny, default_method(), name="t/parent", seed=4)
    alone = adapter_of(method, tiny)
    adapter = replace(alone, on_top_of=parent)
    trained, answered = outputs(tiny, adapter, grad=True), outputs(tiny, adapter)
    torch.testing.assert_close(trained, answered, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(answered, outputs(tiny, alone), atol=1e-3)
    headless = replace(parent, task=adapter.task, head=adapter.head)
    if adapter.tensors:
        assert not torch.allclose(answered, outputs(tiny, headless), atol=1e-3)


@every_method
def test_a_loaded_adapter_has_bitwise_equal_outputs(
    method: Method, tiny: Backbone, tmp_path: Path
) -> None:
    adapter = adapter_of(method, tiny)
    task: Any = adapter.task
    adapter = replace(adapter, task=replace(task, pooling="pooler"))  # as the heads of PEFT read it
    folder = save_adapter(adapter, tmp_path / "saved", tiny.geometry)
    config = json.loads((folder / CONFIG).read_text())
    assert config["peft_type"] == method.peft_type
    again = load_adapter(folder, tiny)
    assert again.method == adapter.method
    assert torch.equal(outputs(tiny, again), outputs(tiny, adapter))
    for name in (CARD, SUMS):  # now it is a folder of another program
        (folder / name).unlink()
    if config["task_type"] is None:  # PEFT would compute something else with it
        with pytest.raises(AdapterError, match="task_type None does not read"):
            load_adapter(folder, tiny, any_backbone=True)
        return
    bare = load_adapter(folder, tiny, any_backbone=True)
    assert torch.equal(outputs(tiny, replace(bare, task=adapter.task)), outputs(tiny, adapter))


@every_kind
def test_a_method_trains_and_predicts_from_a_store(
    kind: Any, tiny: Backbone, tmp_path: Path
) -> None:
    rng, lines = random.Random(0), ["text,label,split"]
    topics = {"money": "money fee bank account card", "weather": "rain sun wait slow fast"}
    for n in range(72):
        label = ("money", "weather")[n % 2]
        lines.append(f"{' '.join(rng.choices(topics[label].split(), k=4))},{label},train")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    settings, store = {"type": kind.type}, Store(tmp_path / "store")
    if kind.parent_type is not None:
        settings = dump(kind(**kind.examples[0]))
        for seed, name in enumerate(kind(**kind.examples[0]).parents):
            parent = random_adapter(tiny, kind.parent_type, name=name, seed=seed)
            store.publish(parent, tiny.geometry)
    recipe = Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": "rows.csv", "validation": 0},
            "task": {"type": "classification", "pooling": "mean"},
            "method": settings,
            "training": {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2},
        },
        tmp_path,
    )
    adapter = train(recipe, tiny, store=store, progress=False)
    first, *_, last = adapter.training["history"]
    assert last["train_loss"] < 0.8 * first["train_loss"]
    store.publish(adapter, tiny.geometry)
    again = load_adapter(store.path("t/topic"), tiny)
    rows = [("t/topic", "money bank"), ("t/topic", "rain sun")]
    assert Predictor(tiny, [again])(rows) == Predictor(tiny, [adapter])(rows)
