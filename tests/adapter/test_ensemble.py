"""Ensembles: members equal single trainings; answers are of the mean output."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterkit.adapter import plots
from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import checksum_errors
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.model_card import model_card
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.atomic import file_digest
from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.errors import AdapterError, OverloadedError, RecipeError
from adapterkit.inference import pipeline
from adapterkit.inference.attribution import explain
from adapterkit.inference.forward import forward
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.base import methods
from adapterkit.serving import service as service_module
from adapterkit.serving.engine.adapter_cache import OVERHEAD, LruTier
from adapterkit.serving.engine.pending_row import PendingRow
from adapterkit.serving.engine.queue import Queue
from adapterkit.serving.engine.tokenizing import estimate_tokens
from adapterkit.serving.keys.api_keys import Caller, Tenant
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Example, Outputs
from adapterkit.training.comparison import compare
from adapterkit.training.full_finetuning import fine_tune
from adapterkit.training.recipe import Recipe
from adapterkit.training.run import Run
from adapterkit.training.train import StoppedError, train
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command, write_recipe
from helpers.folder_faults import Fault, change_json, remove_file
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
from helpers.requests import queued_request
from helpers.server import serving
from helpers.task_adapters import random_task_adapter, read_example, request_row
from helpers.task_rows import task_recipe
from helpers.tolerance import assert_close

AVERAGED = sorted(kind for kind in tasks() if kind != "masked_language_modelling")
TEXTS = ["where is my card", "rain", "the fee is not good at all", "i want to close my account"]


def join_members(*adapters: Adapter) -> Adapter:
    """One adapter whose members are the given adapters of one task and method."""
    first, *others = adapters
    return replace(first, extra_members=tuple(MemberWeights(a.tensors, a.head) for a in others))


def split_members(adapter: Adapter) -> list[Adapter]:
    """The members as separate adapters."""
    return [replace(member, extra_members=()) for member in adapter.members]


def randomised(adapter: Adapter, seed: int) -> Adapter:
    """An adapter of the same shapes with other random weights of the same scale."""
    generator = torch.Generator().manual_seed(seed)

    def random(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: torch.randn(t.shape, generator=generator) * 0.3 for k, t in tensors.items()}

    return replace(adapter, tensors=random(adapter.tensors), head=random(adapter.head))


def ensemble(
    backbone: Backbone, make_adapter: MakeAdapter, n: int = 3, name: str = "acme/crowd", **more: Any
) -> Adapter:
    """An adapter with n random members."""
    return join_members(
        *(make_adapter(backbone, name=name, seed=seed, **more) for seed in range(n))
    )


def plain_mean(backbone: Backbone, adapter: Adapter, example: Example) -> list[torch.Tensor]:
    """The mean output of each sequence, from one forward for each member and sequence."""
    with torch.inference_mode():
        outputs = [
            [forward(backbone, [(member, inputs)])[0].values.float() for inputs in example.inputs]
            for member in split_members(adapter)
        ]
    assert len(outputs) == adapter.n_members
    return [sum(parts[1:], parts[0]) / len(parts) for parts in zip(*outputs, strict=True)]


# Training.


def mixed_recipes() -> list[Recipe]:
    """Two ensembles and a single adapter that differ in method, data and training."""
    lora = {"type": "lora", "dropout": 0.2}
    prefix = {"type": "prefix", "projection": True, "init_std": 0.1}
    return [
        recipe_for("a/three", write_rows(1, 40), lora, {"dropout": 0.3}, seed=4, ensemble=3),
        recipe_for("b/one", write_rows(3, 33), {"type": "bottleneck"}, batch_size=5),
        recipe_for("c/two", write_rows(2, 61), prefix, epochs=9, patience=1, seed=7, ensemble=2),
    ]


@pytest.mark.parametrize("max_tokens", [4096, 150])
def test_a_member_equals_a_single_training_with_its_seed(tiny: Backbone, max_tokens: int) -> None:
    recipes = mixed_recipes()
    for adapter, recipe in zip(
        train_together(recipes, tiny, max_tokens=max_tokens), recipes, strict=True
    ):
        seed, n = recipe.training.seed, recipe.training.ensemble
        single_recipes = [
            with_changes(recipe, training={"seed": seed + k, "ensemble": 1}) for k in range(n)
        ]
        solo = [trained_once(single, tiny) for single in single_recipes]
        members = split_members(adapter)
        assert len(members) == n
        for member, expected in zip(members, solo, strict=True):
            assert_same_weights(member, expected, tolerance=1e-5)
        records = [adapter.training, *adapter.training.get("members", [])]
        assert [record["seed"] for record in records] == list(range(seed, seed + n))
        for record, expected in zip(records, solo, strict=True):
            assert record["epoch"] == expected.training["epoch"]
            for (step, loss), (expected_step, expected_loss) in zip(
                record["losses"], expected.training["losses"], strict=True
            ):
                assert (step, loss) == (expected_step, pytest.approx(expected_loss, abs=1e-5))
            for entry, other in zip(record["history"], expected.training["history"], strict=True):
                assert entry["validation"] == pytest.approx(other["validation"], abs=1e-5)
        assert adapter.training["together"] == len(recipes)
        if n == 1:
            assert_equals_solo(adapter, solo[0])
            assert "members" not in adapter.training


def test_metrics_are_of_the_mean_of_the_members(tiny: Backbone) -> None:
    recipe = mixed_recipes()[0]
    (adapter,) = train_together([recipe], tiny)
    rows = recipe.data.load(recipe.folder, 4, recipe.task)["validation"]
    fields = [row.fields for row in rows]
    examples = adapter.task.examples(fields, tiny.reader, tiny.geometry.positions)
    outputs = Outputs.of([plain_mean(tiny, adapter, example) for example in examples])
    targets = [adapter.task.target(*pair) for pair in zip(rows, examples, strict=True)]
    metrics = adapter.task.metrics(adapter.task.predictions(outputs, examples, targets))
    metrics["loss"] = float(adapter.task.loss(outputs, targets).mean())
    assert adapter.metrics["validation"] == pytest.approx(metrics, abs=1e-5)
    first = next(e for e in adapter.training["history"] if e["epoch"] == adapter.training["epoch"])
    assert metrics["loss"] != pytest.approx(first["validation"]["loss"], abs=1e-4)


def test_thresholds_are_tuned_on_the_mean_of_the_members(tiny: Backbone, tmp_path: Path) -> None:
    content = task_recipe("multi_label", tmp_path, threshold="tuned").plain()
    content["data"]["validation"] = 0.3
    content["training"].update(ensemble=3, epochs=2, learning_rate=1e-3)
    recipe = Recipe.of(content, tmp_path)
    adapter = train(recipe, tiny, progress=False)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["validation"]
    examples = adapter.task.examples(
        [row.fields for row in rows], tiny.reader, tiny.geometry.positions
    )
    outputs = Outputs.of([plain_mean(tiny, adapter, example) for example in examples])
    targets = [adapter.task.target(*pair) for pair in zip(rows, examples, strict=True)]
    untuned = replace(adapter.task, threshold="tuned")  # type: ignore[type-var]
    expected: Any = untuned.tune(outputs, examples, targets)
    task: Any = adapter.task
    assert task.threshold == pytest.approx(expected.threshold, abs=1e-6)
    assert {member.task for member in adapter.members} == {adapter.task}


def test_all_members_have_the_split_of_the_first_seed(tiny: Backbone) -> None:
    """With a split of its own, a member would be evaluated on training rows of another."""
    rows = "\n".join(
        line.rpartition(",")[0] for line in Path(write_rows(1, 60)).read_text().splitlines()
    )
    (file := Path("drawn.csv").resolve()).write_text(rows)
    single = recipe_for("one", str(file), seed=2)
    three = with_changes(single, name="three", training={"ensemble": 3})
    records = {adapter.name: adapter.training for adapter in train_together([single, three], tiny)}
    assert records["one"]["data"] == records["three"]["data"]
    other = train_alone(with_changes(single, training={"seed": 3}), tiny)
    assert other.training["data"] != records["one"]["data"]


def test_members_start_from_saved_members(tiny: Backbone) -> None:
    recipe = with_changes(mixed_recipes()[0], training={"epochs": 1})
    (first,) = train_together([recipe], tiny)
    save_adapter(first, "three", tiny.geometry)
    save_adapter(split_members(first)[1], "one", tiny.geometry)
    tiny_rates = {"learning_rate": 1e-6, "head_learning_rate": 1e-6}

    def train_from(folder: str, n: int) -> Adapter:
        start = str(Path(folder).resolve())
        return train_alone(
            with_changes(recipe, training={"start_from": start, "ensemble": n, **tiny_rates}), tiny
        )

    for member, expected in zip(
        split_members(train_from("three", 3)), split_members(first), strict=True
    ):
        assert_same_weights(member, expected, tolerance=1e-3)
    for member in split_members(train_from("one", 2)):
        assert_same_weights(member, split_members(first)[1], tolerance=1e-3)
    for n in (1, 2):
        with pytest.raises(
            RecipeError,
            match=rf"training\.start_from: \S+three is an ensemble of 3 members, "
            rf"training\.ensemble is {n}; make it 3",
        ):
            train_from("three", n)


def test_a_member_that_diverges_stops_its_ensemble_and_no_other(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mixed_recipes()[0]
    (good,) = train_together([recipe], tiny)
    one, two, three = split_members(good)
    two = replace(two, head={name: t.sign() * 3e38 for name, t in two.head.items()})
    save_adapter(join_members(one, two, three), "broken", tiny.geometry)
    monkeypatch.setattr("adapterkit.adapter.weights.LARGEST_FACTOR", float("inf"))
    bad = with_changes(recipe, name="bad", training={"start_from": str(Path("broken").resolve())})
    steps, original = Counter[str](), Run.record_loss

    def record_loss(self: Run, loss: float) -> None:
        steps[self.label] += 1
        original(self, loss)

    monkeypatch.setattr(Run, "record_loss", record_loss)
    with pytest.raises(
        StoppedError, match=r"^bad \(seed 5\): the training loss became (inf|nan) at step 1; lower"
    ) as caught:
        train_together([bad, recipe], tiny)
    (finished,) = caught.value.finished
    assert finished.name == recipe.name
    for member, expected in zip(split_members(finished), split_members(good), strict=True):
        assert_same_weights(member, expected, tolerance=1e-5)
    assert [steps[f"bad (seed {seed})"] for seed in (4, 5, 6)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"ensemble": 0}}, r"training\.ensemble: expected from 1 to 32, got 0"),
        ({"training": {"ensemble": 33}}, r"training\.ensemble: expected from 1 to 32, got 33"),
        (
            {"training": {"ensemble": 3, "seed": 2**32 - 2}},
            r"training\.seed: expected a number from 0 to 2\*\*32 - 3",
        ),
        (
            {"training": {"ensemble": 2}, "task": {"type": "masked_language_modelling"}},
            r"training\.ensemble: task 'masked_language_modelling' keeps the best tokens",
        ),
        (
            {"training": {"ensemble": 2}, "task": {"type": "embedding", "dimensions": 8}},
            r"training\.ensemble: task\.dimensions: every member would learn its own projection",
        ),
    ],
)
def test_recipes_that_cannot_be_an_ensemble_are_refused(
    sections: dict[str, Any], message: str
) -> None:
    content = {"name": "a", "data": {"path": "x.csv"}, "method": {"type": "lora"}, **sections}
    with pytest.raises(ValueError, match=rf"^{message}"):
        Recipe.of(content)
    content["training"]["ensemble"] = 1
    content["training"]["seed"] = 0
    Recipe.of(content)


@pytest.mark.parametrize(
    ("section", "changes"),
    [("training", {"mixed_precision": "fp16"}), ("backbone", {"quantization": "int8"})],
)
def test_settings_that_change_the_shared_backbone_are_refused(
    tiny: Backbone, section: str, changes: dict[str, Any]
) -> None:
    recipe = recipe_for("a", write_rows(1, 20), ensemble=2)
    content = {**recipe.plain(), section: {**recipe.plain()[section], **changes}}
    with pytest.raises(RecipeError, match=rf"{section}\.{next(iter(changes))}: .*without training"):
        train_together([Recipe.of(content)], tiny)


def test_compare_and_fine_tune_refuse_an_ensemble() -> None:
    recipe = recipe_for("a", write_rows(1, 20), ensemble=2)
    with pytest.raises(RecipeError, match=r"training\.ensemble: methods are compared by single"):
        compare(recipe, ["lora", "full"])
    with pytest.raises(RecipeError, match=r"training\.ensemble: full fine-tuning trains a single"):
        fine_tune(recipe)


# Answers.


@pytest.mark.parametrize("windows", [False, True], ids=["short", "windows"])
@pytest.mark.parametrize("kind", AVERAGED)
def test_answers_are_of_the_mean_of_the_members(
    tiny: Backbone, tmp_path: Path, kind: str, windows: bool
) -> None:
    one = random_task_adapter(tiny, kind, tmp_path)
    adapter = join_members(one, randomised(one, 5), randomised(one, 6))
    if windows:
        cut = {"long_text": "windows"} if hasattr(one.task, "long_text") else {}
        task: Any = replace(one.task, max_length=14, stride=3, **cut)  # type: ignore[type-var]
        adapter = replace(adapter, task=task)
    predictor = Predictor(tiny, [adapter])
    sequences = set()
    for index in range(4):
        row = request_row(adapter, index, times=3 if windows else 1)
        example = read_example(tiny, adapter, row)
        sequences.add(len(example.inputs))
        outputs = Outputs.of([plain_mean(tiny, adapter, example)])
        (expected,) = adapter.task.answers(outputs, [example])
        (answer,) = predictor([(adapter.name, row)])
        assert answer.pop("adapter") == adapter.name
        answer.pop("truncated", None)
        assert_close(answer, expected)
        (first_member,) = Predictor(tiny, [split_members(adapter)[0]])([(adapter.name, row)])
        assert first_member != {"adapter": adapter.name, **answer}
    assert not windows or max(sequences) > 1


def test_every_task_is_averaged_or_refused_with_a_reason(tiny: Backbone, tmp_path: Path) -> None:
    refused = [kind for kind in tasks() if kind not in AVERAGED]
    assert refused == ["masked_language_modelling"]
    for kind, settings in ((refused[0], {}), ("embedding", {"dimensions": 4})):
        one = random_task_adapter(tiny, kind, tmp_path, **settings)
        assert one.task.ensemble_error is not None
        with pytest.raises(ValueError, match=r"^extra_members: .* cannot be averaged"):
            join_members(one, one)


@pytest.mark.parametrize("kind", sorted(methods()))
def test_a_mixed_batch_equals_single_requests(
    anywhere: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    three = ensemble(anywhere, make_adapter, method=kind)
    two = ensemble(anywhere, make_adapter, 2, "globex/pair", method="lora", layers=(2,), r=3)
    one = make_adapter(anywhere, name="initech/one", seed=9)
    predictor = Predictor(anywhere, [three, one, two])
    names = ["acme/crowd", None, "globex/pair", "initech/one"]
    requests = [(names[n % 4], TEXTS[n // 4 % 4]) for n in range(16)]
    single = [predictor([request])[0] for request in requests]
    batches = []

    def spy(backbone: Backbone, rows: Any, *more: Any) -> Any:
        batches.append([id(adapter) for adapter, _ in rows])
        return forward(backbone, rows, *more)

    monkeypatch.setattr(pipeline, "forward", spy)
    rows = [(predictor.find(name), text) for name, text in requests]
    examples = pipeline.encode_requests(anywhere, [a for a, _ in rows], [text for _, text in rows])
    answers = pipeline.answer_rows(anywhere, list(zip([a for a, _ in rows], examples, strict=True)))
    for answer, expected in zip(answers, single, strict=True):
        assert_close(answer, expected)
    (batch,) = batches
    assert sorted(Counter(batch).values()) == [4] * (3 + 2 + 1 + 1)
    for expected, answer in zip(reversed(single), predictor(requests[::-1]), strict=True):
        assert_close(answer, expected)


def test_a_budget_below_the_members_of_one_row_changes_nothing(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapter = ensemble(tiny, make_adapter)
    examples = pipeline.encode_requests(tiny, [adapter] * 4, TEXTS)
    rows = [(adapter, example) for example in examples]
    wide, narrow = (pipeline.compute_outputs(tiny, rows, max_tokens=budget) for budget in (8192, 1))
    for wide_outputs, narrow_outputs in zip(wide, narrow, strict=True):
        torch.testing.assert_close(wide_outputs[0], narrow_outputs[0], rtol=1e-5, atol=1e-5)


def test_members_share_the_layers_below_their_first_edit(
    tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three members edit the last layer: each text passes the layers below once."""
    counts: list[int] = []
    original = Backbone.entering

    def spy(self: Backbone, layer: int, packed: Any, edits: Any) -> Any:
        counts.append(len(packed.lengths))
        return original(self, layer, packed, edits)

    monkeypatch.setattr(Backbone, "entering", spy)
    adapter = ensemble(tiny, make_adapter, layers=(2,))
    Predictor(tiny, [adapter])([(adapter.name, text) for text in TEXTS])
    assert counts == [len(TEXTS)]


def test_attributions_explain_the_mean(tiny: Backbone, tmp_path: Path) -> None:
    """Attributions are linear in the score, so those of the mean are the mean over the members."""
    one = random_task_adapter(tiny, "regression", tmp_path)
    adapter = join_members(one, randomised(one, 5), randomised(one, 6))
    attribution, *members = (
        explain(tiny, each, ("my card is lost", "bank"), steps=(64,)).attributions[0]
        for each in (adapter, *split_members(adapter))
    )
    assert attribution.score == pytest.approx(sum(m.score for m in members) / 3, abs=1e-5)
    for index, word in enumerate(attribution.words):
        mean = sum(m.words[index].attribution for m in members) / 3
        assert word.attribution == pytest.approx(mean, abs=1e-5)
    sums = sum(word.attribution for word in attribution.words)
    assert sums == pytest.approx(
        attribution.score - attribution.baseline_score, abs=attribution.error + 1e-5
    )


def test_an_ensemble_is_stacked_on_an_adapter_but_never_below_one(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = Store("shelf")
    store.publish(make_adapter(tiny, name="acme/domain", seed=8), tiny.geometry)
    recipe = recipe_for("acme/task", write_rows(1, 30), {"type": "bottleneck"}, ensemble=2)
    recipe = with_changes(recipe, training={"on_top_of": "acme/domain"})
    (adapter,) = train_together([recipe], tiny, store=store)
    first, second = adapter.members
    assert first.on_top_of is second.on_top_of is not None
    loaded = load_adapter(store.publish(adapter, tiny.geometry), tiny)
    (example,) = pipeline.encode_requests(tiny, [loaded], TEXTS[:1])
    ((output,),) = pipeline.compute_outputs(tiny, [(loaded, example)])
    torch.testing.assert_close(output, *plain_mean(tiny, adapter, example), rtol=1e-5, atol=1e-5)
    on_ensemble = with_changes(recipe, name="t", training={"on_top_of": "acme/task", "ensemble": 1})
    with pytest.raises(
        RecipeError, match=r"training\.on_top_of: acme/task is an ensemble of 2 members; an adapter"
    ):
        train_together([on_ensemble], tiny, store=store)
    with pytest.raises(ValueError, match=r"on_top_of: 'acme/task' is an ensemble of 2 members"):
        replace(make_adapter(tiny), on_top_of=loaded)


def test_a_folder_stacked_on_an_ensemble_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    below = save_adapter(ensemble(tiny, make_adapter, name="below"), "below", tiny.geometry)
    top = save_adapter(make_adapter(tiny, name="top"), "top", tiny.geometry)
    digest = file_digest(below / WEIGHTS)
    change_json(CARD, on_top_of={"name": "below", "digest": digest})(top)
    (top / "SHA256SUMS").unlink()
    with pytest.raises(AdapterError, match=r"^top: on_top_of: 'below' is an ensemble of 3 members"):
        load_adapter(top, tiny)


# Sizes, devices, queue and quota.


def test_sizes_and_devices_include_all_members(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    one, three = make_adapter(tiny), ensemble(tiny, make_adapter)
    assert three.n_members == 3
    assert three.n_parameters == 3 * one.n_parameters
    assert three.n_bytes == 3 * one.n_bytes
    tier = LruTier(10**9)
    tier.put(("a", "x"), three)
    assert tier.bytes == 3 * one.n_bytes + OVERHEAD
    moved = three.to("meta")
    devices = {
        tensor.device.type
        for member in moved.members
        for tensor in (*member.tensors.values(), *member.head.values())
    }
    assert (devices, moved.n_members) == ({"meta"}, 3)


def test_the_queue_counts_tokens_of_every_member(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    adapter = ensemble(tiny, make_adapter)
    (example,) = pipeline.encode_requests(tiny, [adapter], TEXTS[:1])
    length = len(example.inputs[0])
    one, three = (
        queued_request("t", *(part.n_tokens for part in PendingRow(owner, example).parts()))
        for owner in (None, adapter)
    )
    queue = Queue(10_000)
    for request in (one, three):
        queue.add(request)
    assert (one.tokens, three.tokens, queue.tokens) == (length, 3 * length, 4 * length)
    assert [waiting.tokens for waiting in queue.take(4 * length)] == [length, 3 * length]


def test_the_quota_of_a_tenant_counts_every_member(
    tiny_folder: Path, tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store("shelf")
    store.publish(ensemble(tiny, make_adapter), tiny.geometry)
    store.publish(make_adapter(tiny, name="acme/one"), tiny.geometry)
    taken: list[tuple[float, str]] = []
    estimate = estimate_tokens(len(TEXTS[0]))

    class QuotaSpy:
        def take(self, amount: float, what: str) -> None:
            taken.append((amount, what))
            if what == "tokens" and amount > 2 * estimate:
                raise OverloadedError("the quota is used up", 1.0)

        def correct(self, difference: float) -> None:
            taken.append((difference, "tokens more than estimated"))

    caller = Caller(Tenant(adapters=("*",)))
    for name in ("rows", "tokens"):
        object.__setattr__(caller.tenant, name, QuotaSpy())
    monkeypatch.setattr(service_module, "EVERYONE", caller)
    with serving(Path("shelf"), tiny_folder) as url, Client(url, attempts=1) as client:
        client.predict("acme/one", TEXTS[0])
        with pytest.raises(OverloadedError, match="quota"):
            client.predict("acme/crowd", TEXTS[0])
    assert taken == [
        (1, "rows"),
        (estimate, "tokens"),
        (6 - estimate, "tokens more than estimated"),
        (1, "rows"),
        (3 * estimate, "tokens"),
    ]


# Folders.


def test_a_folder_is_that_of_the_first_member_and_weights_of_the_others(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapter = ensemble(tiny, make_adapter)
    folder = save_adapter(adapter, "three", tiny.geometry)
    alone = [
        save_adapter(make_adapter(tiny, name="acme/crowd", seed=seed), f"{seed}", tiny.geometry)
        for seed in range(3)
    ]
    files = [folder / WEIGHTS, *(folder / f"members/{n}.safetensors" for n in (1, 2))]
    for file, single in zip(files, alone, strict=True):
        assert file.read_bytes() == (single / WEIGHTS).read_bytes()
    config, config_alone = (json.loads((one / CONFIG).read_text()) for one in (folder, alone[0]))
    assert config == {**config_alone, "task_type": None}  # PEFT would read the first member alone
    digests = [f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    assert json.loads((folder / CARD).read_text())["members"] == digests[1:]
    assert "members" not in json.loads((alone[0] / CARD).read_text())
    assert sorted(p.name for p in (folder / "members").iterdir()) == [
        "1.safetensors",
        "2.safetensors",
    ]
    loaded = load_adapter(folder, tiny)
    assert loaded.n_members == 3
    for member, expected in zip(loaded.members, adapter.members, strict=True):
        assert_same_weights(member, expected)
    other = join_members(*split_members(adapter)[:2], make_adapter(tiny, name="acme/crowd", seed=7))
    again = load_adapter(save_adapter(other, "other", tiny.geometry), tiny)
    assert loaded.digest != again.digest
    assert checksum_errors(folder) == []
    (folder / "members" / "2.safetensors").write_bytes(b"x")
    (fault,) = checksum_errors(folder)
    assert fault.startswith("members/2.safetensors was changed")


def change_member(number: int, change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    def fault(folder: Path) -> None:
        file = folder / "members" / f"{number}.safetensors"
        tensors = load_file(file)
        change(tensors)
        file.unlink()
        save_file(tensors, file)

    return fault


def swap(folder: Path) -> None:
    one, two = (folder / "members" / f"{number}.safetensors" for number in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def cut_member(folder: Path) -> None:
    file = folder / "members" / "2.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def one_too_many(folder: Path) -> None:
    shutil.copy(folder / "members" / "2.safetensors", folder / "members" / "3.safetensors")


def not_a_member(folder: Path) -> None:
    (folder / "members" / "weights.bin").write_bytes(b"x")


def a_folder_in_place(folder: Path) -> None:
    (folder / "members" / "1.safetensors").unlink()
    (folder / "members" / "1.safetensors").mkdir()


def forget_members(folder: Path) -> None:
    content = json.loads((folder / CARD).read_text())
    del content["members"]
    (folder / CARD).write_text(json.dumps(content))


def no_members(folder: Path) -> None:
    shutil.rmtree(folder / "members")


BIAS = "base_model.model.classifier.bias"
DIGEST = "sha256:" + "0" * 64
FAULTS: dict[str, tuple[Fault, str]] = {
    "missing": (remove_file("members/1.safetensors"), "members/1.safetensors is missing"),
    "all missing": (no_members, "members/1.safetensors is missing; members/2.safetensors is miss"),
    "a folder": (a_folder_in_place, "members/1.safetensors is missing"),
    "one too many": (one_too_many, "members/3.safetensors does not belong here: the card"),
    "unknown file": (not_a_member, "members/weights.bin does not belong here"),
    "cut": (cut_member, r"members/2.safetensors: truncated or not safetensors"),
    "swapped": (swap, r"members/1.safetensors: has weights sha256:\w+, the card names"),
    "other": (
        change_member(2, lambda t: t[BIAS].add_(1.0)),
        r"members/2.safetensors: has weights sha256:\w+, the card names sha256",
    ),
    "renamed": (
        change_member(1, lambda t: t.update(x=t.pop(BIAS))),
        f"members/1.safetensors: tensor '{BIAS}' is missing; .* 'x' does not belong here",
    ),
    "another shape": (
        change_member(1, lambda t: t.update({BIAS: torch.zeros(3)})),
        r"members/1.safetensors: tensor .* has shape \[3\] where \[2\] is expected",
    ),
    "whole numbers": (
        change_member(2, lambda t: t.update({BIAS: torch.zeros(2, dtype=torch.int32)})),
        "members/2.safetensors: tensor .* holds torch.int32, expected floating point",
    ),
    "not a number": (
        change_member(2, lambda t: t[BIAS].fill_(float("nan"))),
        "members/2.safetensors: tensor .* holds NaN or infinite numbers",
    ),
    "forgotten": (forget_members, "members/1.safetensors does not belong here"),
    "no list": (change_json(CARD, members=3), "members: expected up to 31 digests .*, got 3"),
    "no digest": (change_json(CARD, members=["x"]), r"members: expected up to 31 digests"),
    "hostile": (change_json(CARD, members=["../../x"] * 2), r"members: expected up to 31"),
    "endless": (change_json(CARD, members=[DIGEST] * 32), r"members: expected up to 31 digests"),
    "no ensemble": (
        change_json(CARD, task={"type": "masked_language_modelling", "transform": "checkpoint"}),
        "extra_members: task 'masked_language_modelling' keeps the best tokens",
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_damaged_member_is_named_and_nothing_is_loaded(
    tiny: Backbone, make_adapter: MakeAdapter, fault: str
) -> None:
    good = make_adapter(tiny, name="acme/crowd")
    predictor = Predictor(tiny, [good])
    before = predictor([("acme/crowd", "my card")])
    folder = save_adapter(ensemble(tiny, make_adapter), "bad", tiny.geometry)
    FAULTS[fault][0](folder)
    with pytest.raises(AdapterError, match=FAULTS[fault][1]) as caught:
        predictor.load(folder)
    assert str(caught.value).startswith("bad: ")
    assert "\n" not in str(caught.value)
    assert predictor([("acme/crowd", "my card")]) == before


def test_errors_of_all_members_are_reported_at_once(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    folder = save_adapter(ensemble(tiny, make_adapter), "bad", tiny.geometry)
    for fault in ("renamed", "not a number", "unknown file"):
        FAULTS[fault][0](folder)
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, tiny)
    for part in ("members/1.safetensors: tensor", "members/2.safetensors: tensor", "weights.bin"):
        assert part in str(caught.value)


def test_system_files_among_the_members_are_ignored(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    folder = save_adapter(ensemble(tiny, make_adapter), "a", tiny.geometry)
    (folder / "members" / ".DS_Store").write_bytes(b"of another system")
    assert load_adapter(folder, tiny).n_members == 3


def test_a_trained_ensemble_is_the_same_after_saving_and_loading(
    tiny: Backbone, tmp_path: Path
) -> None:
    recipe = mixed_recipes()[2]  # the projection is folded into the prefix of every member
    (adapter,) = train_together([recipe], tiny)
    url = f"memory://{tmp_path.name}/shelf"
    Store(url, tmp_path / "here").publish(adapter, tiny.geometry)
    folder = Store(url, tmp_path / "there").find(recipe.name).folder
    loaded = load_adapter(folder, tiny)
    for member, expected in zip(loaded.members, adapter.members, strict=True):
        assert_same_weights(member, expected)
    rows = recipe.data.load(recipe.folder, 7, recipe.task)["validation"]
    expected_metrics = {k: v for k, v in adapter.metrics["validation"].items() if k != "loss"}
    assert evaluate(tiny, loaded, rows) == pytest.approx(expected_metrics, abs=1e-6)
    again = Recipe.of(json.loads((folder / CARD).read_text())["training"]["recipe"])
    for member, expected in zip(
        split_members(train_alone(again, tiny)), adapter.members, strict=True
    ):
        assert_same_weights(member, expected)


# Serving.


def test_an_ensemble_is_published_and_predicts_over_http(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    adapter = ensemble(tiny, make_adapter)
    single = make_adapter(tiny, name="acme/one", seed=1)
    folder = save_adapter(adapter, "three", tiny.geometry)
    Store("shelf").publish(single, tiny.geometry)
    requests = [(name, text) for text in TEXTS for name in ("acme/crowd", "acme/one", None)]
    offline = Predictor(tiny, [adapter, single])(requests)
    with serving(Path("shelf"), tiny_folder) as url, Client(url) as client:
        assert client.publish("acme/crowd", folder)["version"] == 1
        inside = [file for file in folder.rglob("*") if file.is_file()]
        names = [file.relative_to(folder).as_posix() for file in inside]
        parts = {n: (n, f.read_bytes()) for n, f in zip(names, inside, strict=True)}
        put = httpx2.put(f"{url}/admin/adapters/acme/crowd", files=parts)
        assert (put.status_code, put.json()["version"]) == (201, 2)
        before = httpx2.get(f"{url}/v1/activity").json()["tokens"]
        for answer, expected in zip(client.ask(requests), offline, strict=True):
            answer.pop("version", None)
            assert_close(
                {k: v for k, v in answer.items() if k != "adapter"},
                {k: v for k, v in expected.items() if k != "adapter"},
            )
        examples = pipeline.encode_requests(tiny, [None] * 4, TEXTS)
        texts = sum(len(example.inputs[0]) for example in examples)
        assert httpx2.get(f"{url}/v1/activity").json()["tokens"] - before == (3 + 1 + 1) * texts
        assert client.verify("acme/crowd") == []
        members = {model["id"]: model.get("members") for model in client.models()}
        assert members == {"base": None, "acme/crowd": 3, "acme/one": 1}
        (folder / "members" / "2.safetensors").unlink()
        (folder / "SHA256SUMS").unlink()
        with pytest.raises(Exception, match=r"acme/crowd: members/2\.safetensors is missing"):
            client.publish("acme/crowd", folder)
        assert client.model("acme/crowd")["versions"] == [1, 2]


# Model card and command line.


def test_the_card_and_the_command_line_show_every_member(
    tiny: Backbone, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tiny_folder)
    result = run_command(
        "train", recipe, "--set", "training.ensemble=3", "--set", "training.seed=5"
    )
    assert result.code == 0, result.err
    assert "acme/topic: lora on" in result.err
    assert "3 members, " in result.err
    assert "acme/topic (seed 6), epoch 1: training loss" in result.err
    folder = Path("adapters/acme/topic/1")
    adapter = load_adapter(folder, tiny)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "| members | 3, whose raw scores are averaged |" in readme
    assert "| seeds of the members | 5, 6, 7 |" in readme
    records = [adapter.training, *adapter.training["members"]]
    kept = [record["epoch"] for record in records]
    assert f"| epoch kept | {', '.join(map(str, kept))} |" in readme
    assert [len(record["history"]) for record in records] == [2, 2, 2]
    assert f"| parameters | {adapter.n_parameters:,} " in model_card(adapter)
    (line,) = (row for row in run_command("list").out.splitlines() if row.startswith("acme/topic"))
    assert "3 x lora" in line
    assert run_command("list", "--json").json[0]["members"] == 3
    shown = run_command("inspect", "acme/topic").out
    assert "members      3" in shown
    assert f"seed 7, epoch {kept[2]}" in shown
    answer = run_command("predict", "acme/topic", "sun", "--json").json[0]
    (expected,) = Predictor(tiny, [adapter])([("acme/topic", "sun")])
    assert_close(answer["scores"], expected["scores"])
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "png", drawn.append)
    plots.learning_curve("x", "accuracy", adapter.training)
    scores, losses = drawn[0].axes
    assert [line.get_alpha() for line in losses.get_lines()] == [0.3] * 4 + [1.0] * 2
    assert len(scores.get_lines()) == 2 * 3
    assert drawn[0].get_suptitle().startswith("x, 3 members (kept: epoch ")
