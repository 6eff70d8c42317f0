"""Adversarial training: the fast gradient method against a plain loop, alone and in company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.errors import RecipeError
from adapterkit.inference.forward import forward
from adapterkit.inference.shared_layers import StateCache
from adapterkit.methods.base import methods
from adapterkit.tasks.classification import Classification
from adapterkit.tasks.types import Example
from adapterkit.training import trainable as trainables
from adapterkit.training.adversarial import Attack, perturbation
from adapterkit.training.batches import MicroBatch
from adapterkit.training.full_finetuning import TrainableBackbone, fine_tune
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from adapterkit.training.trainable import TrainableAdapter, TrainableAdapters
from helpers import reference
from helpers.adapters import random_adapter
from helpers.joint_training import (
    assert_equals_solo,
    assert_same_weights,
    recipe_for,
    train_alone,
    train_together,
    trained_once,
    with_changes,
    write_rows,
)
from helpers.sequences import tokenise
from helpers.task_rows import every_divisible_task, every_task, task_recipe

TEXTS = ["my card", "the bank is open", "rain", "i want to close my account please", "sun sun"]
EPSILON = 0.7


def sober(backbone: Backbone, method: str = "lora", **settings: Any) -> Adapter:
    """An adapter whose task drops nothing."""
    adapter = random_adapter(backbone, method, **settings)
    return replace(adapter, task=Classification(pooling="mean", labels=("no", "yes"), dropout=0.0))


def micro_batch_of(inputs: Sequence[TokenSequence], weight: float | None = None) -> MicroBatch:
    n = len(inputs)
    return MicroBatch(
        examples=[Example((one,)) for one in inputs],
        targets=[place % 2 for place in range(n)],
        weights=[weight or 1 / n] * n,
        sequence_indices=list(range(n)),
        batch_lengths=[len(one) for one in inputs],
        seed=5,
    )


def both_passes(
    backbone: Backbone,
    adapters: Sequence[Adapter],
    micro_batches: Sequence[MicroBatch],
    epsilon: float,
) -> list[dict[str, Tensor]]:
    """Gradients of each adapter's tensors and head after the clean pass and the moved one."""
    module = TrainableAdapters(backbone, map(TrainableAdapter, adapters))
    pass_both(module, micro_batches, epsilon)
    return [
        {name: p.grad for name, p in member.named_parameters() if p.grad is not None}
        for member in module.members
    ]


def pass_both(
    module: TrainableAdapters, micro_batches: Sequence[MicroBatch], epsilon: float
) -> None:
    attacks = {
        n: Attack(micro_batch, module.backbone) for n, micro_batch in enumerate(micro_batches)
    }
    module({n: attack.clean() for n, attack in attacks.items()}).sum().backward()
    module({n: attack.perturbed(epsilon) for n, attack in attacks.items()}).sum().backward()


def leaves(adapter: Adapter) -> Adapter:
    """The adapter with tensors of its own that collect gradients."""
    return replace(
        adapter,
        tensors={k: v.detach().clone().requires_grad_() for k, v in adapter.tensors.items()},
        head={k: v.detach().clone().requires_grad_() for k, v in adapter.head.items()},
    )


def plain_backward(
    backbone: Backbone, adapter: Adapter, inputs: Sequence[TokenSequence], epsilon: float
) -> None:
    """Sequence by sequence: the loss, its gradient at the words, the loss at the moved words."""
    table = backbone.model.get_input_embeddings().weight  # type: ignore[operator]
    for place, one in enumerate(inputs):

        def loss(by: Tensor | float, one: TokenSequence = one, place: int = place) -> Tensor:
            words = table[list(one.input_ids)] if one.inputs_embeds is None else one.inputs_embeds
            logits = reference.logits(backbone, adapter, replace(one, inputs_embeds=words + by))
            return F.cross_entropy(logits[None], torch.tensor([place % 2])) / len(inputs)

        still = torch.zeros(len(one), table.shape[-1], requires_grad=True)
        loss(still).backward()
        assert still.grad is not None
        if epsilon:
            loss(epsilon * still.grad / still.grad.norm()).backward()


def assert_gradients(found: dict[str, Tensor], adapter: Adapter) -> None:
    expected = {f"tensors.{k.replace('.', '__')}": v.grad for k, v in adapter.tensors.items()}
    expected |= {f"head.{k.replace('.', '__')}": v.grad for k, v in adapter.head.items()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck", "stacked"])
def test_the_gradients_are_those_of_a_plain_loop(tiny: Backbone, method: str) -> None:
    if method == "stacked":
        below = sober(tiny, "prefix", name="domain", seed=3)
        adapter = replace(sober(tiny, "lora"), on_top_of=below)
    else:
        adapter = sober(tiny, method)
    inputs = tokenise(tiny, TEXTS, None, 40)
    (found,) = both_passes(tiny, [adapter], [micro_batch_of(inputs)], EPSILON)
    plain = leaves(adapter)
    plain_backward(tiny, plain, inputs, EPSILON)
    assert_gradients(found, plain)
    clean = leaves(adapter)
    plain_backward(tiny, clean, inputs, 0.0)
    with pytest.raises(AssertionError):
        assert_gradients(found, clean)


def test_rows_that_bring_words_are_moved_from_there(tiny: Backbone) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = [
        replace(
            one,
            inputs_embeds=tiny.word_embeddings(one.input_ids)
            + 0.1 * torch.randn(len(one), 32, generator=generator),
        )
        for one in tokenise(tiny, TEXTS, None, 40)
    ]
    adapter = sober(tiny)
    (found,) = both_passes(tiny, [adapter], [micro_batch_of(inputs)], EPSILON)
    plain = leaves(adapter)
    plain_backward(tiny, plain, inputs, EPSILON)
    assert_gradients(found, plain)


def test_adapters_in_one_forward_do_not_touch_each_other(tiny: Backbone) -> None:
    adapters = [sober(tiny, method, seed=n) for n, method in enumerate(("lora", "prefix"))]
    inputs = tokenise(tiny, TEXTS, None, 40)
    together = both_passes(
        tiny, adapters, [micro_batch_of(inputs), micro_batch_of(inputs[1:])], EPSILON
    )
    for found, adapter, rows in zip(together, adapters, (inputs, inputs[1:]), strict=True):
        plain = leaves(adapter)
        plain_backward(tiny, plain, rows, EPSILON)
        assert_gradients(found, plain)


def test_a_backbone_that_is_trained_itself_has_its_gradients(tiny_folder: Path) -> None:
    backbone = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    inputs, adapter = tokenise(backbone, TEXTS, None, 40), sober(backbone)
    adapter = replace(adapter, method=methods()["head"](), tensors={})
    module = TrainableAdapters(backbone, [TrainableBackbone(adapter, backbone)]).eval()
    found = []
    for plainly in (False, True):
        if plainly:
            plain_backward(backbone, leaves(adapter), inputs, EPSILON)
        else:
            pass_both(module, [micro_batch_of(inputs)], EPSILON)
        model = dict(backbone.model.named_parameters())
        found.append({name: p.grad for name, p in model.items() if p.grad is not None})
        backbone.model.zero_grad()
    assert found[0].keys() == found[1].keys()
    assert "embeddings.word_embeddings.weight" in found[0]
    for name, gradient in found[1].items():
        scale = max(float(gradient.abs().max()), 1e-2)  # of some biases only rounding is left
        torch.testing.assert_close(found[0][name] / scale, gradient / scale, rtol=1e-5, atol=1e-5)


def test_every_sequence_moves_by_epsilon_whatever_its_weight(tiny: Backbone) -> None:
    inputs, module = (
        tokenise(tiny, TEXTS, None, 40),
        TrainableAdapters(tiny, [TrainableAdapter(sober(tiny))]),
    )
    steps = []
    for weight in (0.2, 13107.2):  # and 65,536 times as much, the scale fp16 begins with
        attack = Attack(micro_batch_of(inputs, weight), tiny)
        module({0: attack.clean()}).sum().backward()
        steps.append([words_of(e) for e in attack.perturbed(EPSILON).examples])
    for light, heavy, one in zip(*steps, inputs, strict=True):
        assert float((light - tiny.word_embeddings(one.input_ids)).norm()) == pytest.approx(
            EPSILON, rel=1e-5
        )
        torch.testing.assert_close(light, heavy, rtol=1e-4, atol=1e-6)


def words_of(example: Example) -> Tensor:
    words = example.inputs[0].inputs_embeds
    assert words is not None
    return words


@pytest.mark.parametrize("scale", [1.0, 1e-36, 1e36])
def test_a_step_has_the_gradient_s_direction_alone(scale: float) -> None:
    gradient = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    expected = torch.tensor([[1.2, 0.0], [0.0, -1.6]])
    torch.testing.assert_close(perturbation(gradient * scale, 2.0), expected)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("-inf"), float("nan")])
def test_a_gradient_without_direction_moves_nothing(value: float) -> None:
    gradient = torch.full((2, 3), value)
    assert torch.equal(perturbation(gradient, 1.0), torch.zeros(2, 3))
    gradient[0] = 0.0
    assert torch.equal(perturbation(gradient.half(), 1.0), torch.zeros(2, 3))


# Through the loop.


def steady(name: str, rows: str, **training: Any) -> Recipe:
    """Every step the same plain one: a batch of all rows, a constant rate, nothing dropped."""
    settings = {"schedule": "constant", "warmup": 0, "clip": 0, "weight_decay": 0, "epochs": 3}
    settings |= {"head_learning_rate": 5e-3, "batch_size": 99, "keep_best": False}
    recipe = recipe_for(name, rows, task={"dropout": 0, "pooling": "mean"}, **settings, **training)
    return with_changes(recipe, data={"validation": 0})


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_are_those_of_a_plain_loop(tiny: Backbone, accumulation: int) -> None:
    recipe = steady("t/fgm", write_rows(1, 14), adversarial=EPSILON, accumulation=accumulation)
    rows = recipe.data.load(Path(), 0, recipe.task)["train"]
    plain = leaves(fresh_adapter(recipe, tiny, rows))
    labels: Any = plain.task
    targets = [labels.labels.index(row.fields["label"]) for row in rows]
    inputs = tokenise(tiny, [row.fields["text"] for row in rows], None, 64)
    table = tiny.word_embeddings(range(tiny.reader.n_tokens))
    optimizer = torch.optim.AdamW(
        [*plain.tensors.values(), *plain.head.values()], lr=5e-3, weight_decay=0
    )
    for _ in range(3):
        for one, label in zip(inputs, targets, strict=True):
            words = table[list(one.input_ids)].clone().requires_grad_()
            for at in (words, None):
                if at is None:
                    assert words.grad is not None
                    at = words.detach() + EPSILON * words.grad / words.grad.norm()
                logits = reference.logits(tiny, plain, replace(one, inputs_embeds=at))
                (F.cross_entropy(logits[None], torch.tensor([label])) / len(rows)).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = train(recipe, tiny, progress=False)
    assert_same_weights(found, plain, tolerance=1e-5)


def test_it_is_off_unless_asked_for(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def spied(backbone: Any, rows: Any, *more: Any) -> Any:
        seen.append(any(inputs.inputs_embeds is not None for _, inputs in rows))
        return forward(backbone, rows, *more)

    monkeypatch.setattr(trainables, "forward", spied)
    recipe = recipe_for("t/off", write_rows(1, 20), epochs=1)
    train_alone(recipe, tiny)
    assert seen == [False, False]  # 16 rows in batches of 8
    seen.clear()
    train_alone(with_changes(recipe, training={"adversarial": 1.0}), tiny)
    assert seen == [True] * 4


def crowd(**training: Any) -> list[Recipe]:
    lora = {"type": "lora", "dropout": 0.2}
    top, rows = {**lora, "layers": [1, 2]}, write_rows(5, 25)
    return [
        recipe_for("a/fgm", write_rows(1, 30), lora, {"dropout": 0.3}, adversarial=1.0, **training),
        recipe_for("a/not", write_rows(2, 40), lora, {"dropout": 0.3}, seed=5, **training),
        recipe_for("b/cut", write_rows(3, 33), {"type": "prefix"}, adversarial=0.3, accumulation=2),
        recipe_for("b/top", rows, top, adversarial=2.0, epochs=3, **training),
        recipe_for("b/low", rows, top, epochs=3, **training),
        recipe_for("c", write_rows(6, 20), {"type": "bottleneck"}, adversarial=0.5, clip=0.01),
    ]


@pytest.mark.parametrize("max_tokens", [4096, 1])
def test_side_by_side_is_alone(tiny: Backbone, max_tokens: int) -> None:
    recipes = crowd()
    for together, recipe in zip(
        train_together(recipes, tiny, max_tokens=max_tokens), recipes, strict=True
    ):
        assert_equals_solo(together, trained_once(recipe, tiny))


def test_it_changes_what_is_learnt(tiny: Backbone) -> None:
    with_it, without = (
        train_alone(recipe_for("t", write_rows(1, 30), adversarial=e), tiny) for e in (1.0, 0)
    )
    with pytest.raises(AssertionError):
        assert_same_weights(with_it, without, tolerance=1e-3)


@every_task
def test_every_task_learns_so(tiny: Backbone, tmp_path: Path, kind: str) -> None:
    recipe = task_recipe(kind, tmp_path)
    adapter = train_alone(moved_recipe(recipe, tmp_path, adversarial=0.1), tiny)
    first, *_, last = adapter.training["history"]
    assert last["train_loss"] < first["train_loss"]


@every_divisible_task
def test_accumulation_changes_nothing_in_any_task(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    recipe = task_recipe(kind, tmp_path)
    whole, cut = (
        train_alone(
            moved_recipe(recipe, tmp_path, adversarial=0.5, epochs=1, accumulation=pieces), tiny
        )
        for pieces in (1, 3)
    )
    assert whole.training["losses"][-1] == pytest.approx(cut.training["losses"][-1], abs=1e-5)
    # Of the heads some biases have no gradient but rounding, which AdamW makes large.
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(cut.tensors[name], tensor, rtol=2e-4, atol=2e-4)


def moved_recipe(recipe: Recipe, folder: Path, **training: Any) -> Recipe:
    content = recipe.plain()
    content["training"].update(training)
    return Recipe.of(content, folder)


# What is remembered of the layers below.


def test_what_is_moved_is_not_remembered(tiny: Backbone) -> None:
    adapter = sober(tiny, "lora", layers=(1, 2))
    inputs, memory = tokenise(tiny, TEXTS, None, 40), StateCache(10**9)
    module = TrainableAdapters(tiny, [TrainableAdapter(adapter)], memory)
    pass_both(module, [micro_batch_of(inputs)], EPSILON)
    assert memory.n_bytes == 0
    other = sober(tiny, "lora", name="other", layers=(1, 2), seed=2)
    module = TrainableAdapters(tiny, map(TrainableAdapter, (adapter, other)), memory)
    module({0: Attack(micro_batch_of(inputs), tiny).clean(), 1: micro_batch_of(inputs)})
    assert memory.n_bytes == sum(len(one) * 32 * 4 for one in inputs)


def test_the_cache_changes_nothing(tiny: Backbone) -> None:
    for epsilon in (1.0, 0.0):
        recipe = recipe_for(
            "t", write_rows(1, 30), {"type": "lora", "layers": [2]}, epochs=3, adversarial=epsilon
        )
        plain = train_alone(with_changes(recipe, training={"cache_mb": 0}), tiny)
        assert_same_weights(train_alone(recipe, tiny), plain, tolerance=1e-5)


def test_full_fine_tuning_drops_the_same_in_both_passes(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Tensor] = []
    real = F.dropout

    def seen(x: Tensor, p: float = 0.5, training: bool = True, *more: Any) -> Tensor:
        if training:
            dropped.append(real(torch.ones_like(x), p, training) == 0)
            return x.masked_fill(dropped[-1], 0.0)
        return x

    monkeypatch.setattr(F, "dropout", seen)
    recipe = recipe_for("t", write_rows(1, 10), epochs=1, batch_size=99, adversarial=0.1)
    fine_tune(
        with_changes(recipe, backbone={"model": str(tiny_folder), "device": "cpu"}), progress=False
    )
    half = len(dropped) // 2
    assert half > 3
    assert all(torch.equal(a, b) for a, b in zip(dropped[:half], dropped[half:], strict=True))
    assert any(mask.any() for mask in dropped)


def test_bfloat16_products_train_so(tiny: Backbone) -> None:
    recipes = crowd(mixed_precision="bf16")
    recipes = [recipe for recipe in recipes if recipe.training.mixed_precision == "bf16"]
    for adapter in train_together(recipes, tiny):
        assert all(tensor.isfinite().all() for tensor in adapter.tensors.values())
        assert adapter.training["losses"][-1][1] < 2.0


def test_a_norm_below_zero_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: a\ndata: {path: x.csv}\nmethod: {type: lora}\ntraining: {adversarial: -1}\n"
    )
    with pytest.raises(RecipeError, match=r"training\.adversarial: expected 0 or more, got -1\.0"):
        Recipe.load(tmp_path / "r.yaml")
