"""Task adapters on frozen domain adapters: reference loop, mixed batches, folders and the store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter import store_index
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits, batching_key
from adapterkit.adapter.card import CARD, read_parent
from adapterkit.adapter.folder import adapter_files, load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.stacking import ParentRef
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.atomic import file_digest
from adapterkit.backbone.geometry import LINEAR_SITES, Geometry
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import pack
from adapterkit.errors import AdapterError, AdapterkitError, RecipeError
from adapterkit.inference.forward import forward, text_limit
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.ops.dropout import Dropout, DropoutSeed
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers import reference
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.peft_reference import TEXTS, bert_for, peft_logits
from helpers.sequences import outputs_by_row, random_rows, tokenise
from helpers.vocabulary import WORDS

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("head", {}),
    ("lora", {"r": 3}),
    ("lora", {"r": 2, "targets": LINEAR_SITES, "layers": (0, 2)}),
    ("prefix", {"num_virtual_tokens": 4}),
    ("bottleneck", {"size": 4}),
    ("bottleneck", {"size": 3, "placement": "houlsby", "activation": "gelu"}),
    ("bottleneck", {"size": 3, "placement": "parallel", "scaling": 2.0}),
]
IDS = ["head", "lora", "lora-all", "prefix", "pfeiffer", "houlsby", "parallel"]
below = pytest.mark.parametrize("below", KINDS, ids=[f"on-{name}" for name in IDS])
above = pytest.mark.parametrize("above", KINDS, ids=IDS)
Kind = tuple[str, dict[str, Any]]


def stack(backbone: Backbone, make_adapter: MakeAdapter, *kinds: Kind, seed: int = 0) -> Adapter:
    """A stack of adapters; the first kind is the lowest."""
    adapter: Adapter | None = None
    for level, (kind, settings) in enumerate(kinds):
        top = make_adapter(backbone, kind, name=f"t/{level}", seed=seed * 10 + level, **settings)
        adapter = replace(top, on_top_of=adapter)
    assert adapter is not None
    return adapter


@below
@above
def test_outputs_and_gradients_equal_the_reference_loop(
    tiny: Backbone, make_adapter: MakeAdapter, below: Kind, above: Kind
) -> None:
    inputs, results = tokenise(tiny, TEXTS, None, 50), []
    for fast in (True, False):
        adapter = stack(tiny, make_adapter, below, above)
        leaves = {**adapter.tensors, **adapter.head}
        for tensor in leaves.values():
            tensor.requires_grad_()
        if fast:
            with torch.inference_mode():
                served = torch.stack(outputs_by_row(tiny, [(adapter, row) for row in inputs]))
            logits = torch.stack(outputs_by_row(tiny, [(adapter, row) for row in inputs]))
            torch.testing.assert_close(served, logits, rtol=1e-5, atol=1e-5)
        else:
            logits = torch.stack([reference.logits(tiny, adapter, row) for row in inputs])
        (logits * torch.arange(10.0).view(5, 2)).sum().backward()
        parent = adapter.on_top_of
        assert parent is not None
        assert all(tensor.grad is None for tensor in (*parent.tensors.values(),))
        results.append((logits, {name: tensor.grad for name, tensor in leaves.items()}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    for name, expected in results[1][1].items():
        grad = results[0][1][name]
        assert grad is not None
        assert expected is not None
        scale = expected.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(grad / scale, expected / scale, rtol=1e-5, atol=4e-5)


def test_the_adapter_below_changes_the_output(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    inputs = tokenise(tiny, TEXTS, None, 50)
    for below in KINDS[1:]:  # the first, a head alone, does not change hidden states
        for above in KINDS:
            adapter = stack(tiny, make_adapter, below, above)
            with torch.inference_mode():
                with_below, without = (
                    torch.stack(outputs_by_row(tiny, [(a, row) for row in inputs]))
                    for a in (adapter, replace(adapter, on_top_of=None))
                )
            assert float((with_below - without).abs().max()) > 1e-3


def test_two_prefixes_equal_one_long_prefix(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    kinds = [("prefix", {"num_virtual_tokens": n}) for n in (3, 5)]
    adapter = stack(tiny, make_adapter, *kinds)
    assert adapter.on_top_of is not None
    assert text_limit(tiny, adapter) == 56
    long = make_adapter(tiny, "prefix", num_virtual_tokens=8)
    both = torch.cat([adapter.on_top_of.tensors["prefix"], adapter.tensors["prefix"]])
    long = replace(long, tensors={"prefix": both}, head=adapter.head)
    for row in tokenise(tiny, TEXTS, None, 50):
        (actual,), (expected,) = (outputs_by_row(tiny, [(a, row)]) for a in (adapter, long))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def adapter_mix(backbone: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    """Single adapters, adapters on one domain adapter of each kind, and a stack of three."""
    adapters = []
    for n, (kind, settings) in enumerate(KINDS):
        parent = make_adapter(backbone, kind, name=f"d/{n}", seed=100 + n, **settings)
        adapters.append(parent)
        for m, (top_kind, more) in enumerate(KINDS):
            top = make_adapter(backbone, top_kind, name=f"t/{n}{m}", seed=10 * n + m, **more)
            adapters.append(replace(top, on_top_of=parent))
        if n == 3:
            third = make_adapter(backbone, "lora", name="t/third", seed=7)
            adapters.append(replace(third, on_top_of=adapters[-1]))
    return adapters


def test_a_mixed_batch_equals_single_rows_in_any_order(
    anywhere: Backbone, make_adapter: MakeAdapter
) -> None:
    rows = random_rows(anywhere, [None, *adapter_mix(anywhere, make_adapter)], 120)
    with torch.inference_mode():
        mixed = outputs_by_row(anywhere, rows)
        alone = [outputs_by_row(anywhere, [row])[0] for row in rows]
        order = torch.randperm(120, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = outputs_by_row(anywhere, [rows[i] for i in order])
    for index, row in enumerate(order):
        torch.testing.assert_close(shuffled[index], mixed[row], rtol=1e-5, atol=1e-5)
    for row_mixed, row_alone in zip(mixed, alone, strict=True):
        torch.testing.assert_close(row_mixed, row_alone, rtol=1e-5, atol=1e-5)
    with_grad = outputs_by_row(anywhere, rows)
    for row_mixed, row_with_grad in zip(mixed, with_grad, strict=True):
        torch.testing.assert_close(row_mixed, row_with_grad, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_mixed_batch_equal_those_of_single_rows(
    anywhere: Backbone, make_adapter: MakeAdapter
) -> None:
    grads = []
    for together in (True, False):
        adapters = [a for a in adapter_mix(anywhere, make_adapter) if a.on_top_of is not None][::3]
        leaves = [t for a in adapters for t in (*a.tensors.values(), *a.head.values())]
        for tensor in leaves:
            tensor.requires_grad_()
        rows = random_rows(anywhere, adapters, 60)
        for group in [rows] if together else [[row] for row in rows]:
            outputs = outputs_by_row(anywhere, group)
            torch.stack([(output * output).sum() for output in outputs]).sum().backward()
        grads.append([tensor.grad for tensor in leaves])
    for mixed, solo in zip(*grads, strict=True):
        assert mixed is not None
        assert solo is not None
        scale = max(float(solo.abs().max()), 1e-6)
        torch.testing.assert_close(mixed / scale, solo / scale, rtol=1e-5, atol=1e-5)


def test_adapters_on_one_parent_share_its_block(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """Ten tasks on one domain adapter are one segment of its product in a mixed batch."""
    parent, other = (make_adapter(tiny, "lora", name=f"d/{n}", seed=n) for n in (1, 2))
    tasks = [
        replace(make_adapter(tiny, "bottleneck", seed=n), on_top_of=(parent, other)[n % 2])
        for n in range(20)
    ]
    tasks = sorted(tasks, key=batching_key)
    (row,) = tokenise(tiny, ["my card"], None, 8)
    packed = pack([row] * 20, range(20), [0] * 20)
    (query,) = assemble_edits(tasks, packed, tiny.frozen_weights).layers[0].blocks["query"]
    assert (query.start, query.end) == (0, 20 * len(row))
    product: Any = query.delta.args[0]  # type: ignore[attr-defined]
    assert product.segments.lengths == (10 * len(row), 10 * len(row))
    prefix = make_adapter(tiny, "prefix", num_virtual_tokens=4)
    tasks = [replace(task, on_top_of=prefix) for task in tasks]
    prefixes = assemble_edits(tasks, packed, tiny.frozen_weights).layers[0].prefixes
    assert prefixes is not None
    assert [len(keys) for keys in prefixes.layer(0)] == [4, 4]


def test_layers_below_every_edit_are_computed_once(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    """Equal texts share the layers below the lowest edited layer; outputs stay equal."""
    parent = make_adapter(tiny, "lora", name="d", layers=(1,))
    plain = make_adapter(tiny, "lora", name="p", layers=(2,), seed=9)
    tops = [
        replace(make_adapter(tiny, "lora", seed=n, layers=(2,)), on_top_of=parent) for n in (1, 2)
    ]
    adapters = sorted([plain, *tops], key=batching_key)
    (row,) = tokenise(tiny, ["my card is lost"], None, 12)
    packed = pack([row] * 3, range(3), [0] * 3)
    untouched = assemble_edits(adapters, packed, tiny.frozen_weights).untouched
    assert untouched == tuple(2 if adapter is plain else 1 for adapter in adapters)
    outputs = outputs_by_row(tiny, [(adapter, row) for adapter in adapters])
    for adapter, output in zip(adapters, outputs, strict=True):
        torch.testing.assert_close(
            output, reference.logits(tiny, adapter, row), rtol=1e-5, atol=1e-5
        )


def test_dropout_applies_to_the_top_adapter_only(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """The domain adapter is frozen like the backbone, whose dropout is off as well."""
    rows = tokenise(tiny, TEXTS, None, 50)

    def first_output(adapter: Adapter) -> torch.Tensor:
        lengths = [len(row) for row in rows]
        pieces = forward(
            tiny,
            [(adapter, row) for row in rows],
            lambda order: Dropout([DropoutSeed(3, lengths, order)]),
        )
        return pieces[0].values

    kinds = [("lora", {"dropout": p}) for p in (0.5, 0.0)]
    dropout_below = stack(tiny, make_adapter, *kinds)
    task: Any = dropout_below.task
    dropout_below = replace(dropout_below, task=replace(task, dropout=0.0))
    no_dropout = stack(tiny, make_adapter, kinds[1], kinds[1])
    torch.testing.assert_close(
        first_output(dropout_below), first_output(replace(no_dropout, task=dropout_below.task))
    )
    dropout_on_top = stack(tiny, make_adapter, kinds[1], kinds[0])
    assert not torch.allclose(
        first_output(replace(dropout_on_top, task=dropout_below.task)), first_output(dropout_below)
    )


# Folders, store and command line.


def publish_domain(
    tiny: Backbone, make_adapter: MakeAdapter, store: Store, seed: int = 1
) -> Adapter:
    """A domain adapter, published in a store and loaded from it."""
    parent = make_adapter(tiny, "lora", name="acme/domain", seed=seed)
    return load_adapter(store.publish(parent, tiny.geometry), tiny)


@pytest.fixture
def stacked_store(tiny: Backbone, make_adapter: MakeAdapter) -> Store:
    """A store with `acme/domain` and, on it, `acme/task` and `globex/other`."""
    store = Store("shelf")
    parent = publish_domain(tiny, make_adapter, store)
    for seed, (name, kind) in enumerate([("acme/task", "bottleneck"), ("globex/other", "prefix")]):
        top = make_adapter(tiny, kind, name=name, seed=seed)
        store.publish(replace(top, on_top_of=parent), tiny.geometry)
    return store


def logits(backbone: Backbone, adapter: Adapter) -> torch.Tensor:
    with torch.inference_mode():
        rows = tokenise(backbone, TEXTS, None, 50)
        return torch.stack(outputs_by_row(backbone, [(adapter, row) for row in rows]))


def test_a_stacked_adapter_is_saved_alone_with_the_digest_of_its_parent(
    tiny: Backbone, make_adapter: MakeAdapter, stacked_store: Store
) -> None:
    folder = stacked_store.path("acme/task")
    parent = stacked_store.path("acme/domain")
    card = json.loads((folder / CARD).read_text())
    digest = hashlib.sha256((parent / WEIGHTS).read_bytes()).hexdigest()
    assert card["on_top_of"] == {"name": "acme/domain", "digest": f"sha256:{digest}"}
    alone = save_adapter(make_adapter(tiny, "bottleneck", seed=0), "alone", tiny.geometry)
    assert (folder / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    config, config_alone = (json.loads((one / CONFIG).read_text()) for one in (folder, alone))
    assert config == {**config_alone, "task_type": None}  # PEFT would leave the parent out
    top = make_adapter(tiny, "bottleneck", seed=0)
    expected = replace(top, on_top_of=make_adapter(tiny, "lora", seed=1))
    assert torch.equal(logits(tiny, load_adapter(folder, tiny)), logits(tiny, expected))


def test_a_folder_outside_the_store_finds_its_parent(tiny: Backbone, stacked_store: Store) -> None:
    expected = logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny))
    shutil.copytree(stacked_store.path("acme/task"), "loose/task")
    with pytest.raises(AdapterError, match=r"loose/task: it was trained on top of 'acme/domain'"):
        load_adapter("loose/task", tiny)
    shutil.copytree(stacked_store.path("acme/domain"), "elsewhere/it")
    for location in ("elsewhere/it", "shelf", "shelf/acme/domain/1"):
        adapter = load_adapter("loose/task", tiny, on_top_of=location)
        assert torch.equal(logits(tiny, adapter), expected)
    shutil.copytree(stacked_store.path("acme/domain"), "loose/domain")
    assert torch.equal(logits(tiny, load_adapter("loose/task", tiny)), expected)


def test_later_versions_of_the_parent_change_nothing(
    tiny: Backbone, make_adapter: MakeAdapter, stacked_store: Store
) -> None:
    before = logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny))
    publish_domain(tiny, make_adapter, stacked_store, seed=2)
    assert torch.equal(logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny)), before)


def test_the_parent_of_another_adapter_is_not_deleted(
    tiny: Backbone, make_adapter: MakeAdapter, stacked_store: Store
) -> None:
    with pytest.raises(AdapterkitError, match="'acme/task@1' stands on 'acme/domain'; delete that"):
        stacked_store.delete("acme/domain")
    assert logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny)).shape
    publish_domain(tiny, make_adapter, stacked_store, seed=2)
    with pytest.raises(AdapterkitError, match="'acme/task@1' stands on 'acme/domain@1'"):
        stacked_store.delete("acme/domain", 1)
    publish_domain(tiny, make_adapter, stacked_store, seed=1)  # version 3 has version 1's weights
    stacked_store.delete("acme/domain", 1)
    assert logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny)).shape
    (stacked_store.path("globex/other") / CARD).write_text("{")
    stacked_store = Store(stacked_store.root)  # a card that was read is not read again
    stacked_store.delete("acme/task")
    stacked_store.delete("acme/domain")
    assert stacked_store.names() == ["globex/other"]


def test_a_parent_that_is_deleted_meanwhile_gets_no_child(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    stacked_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = stacked_store.publish(make_adapter(tiny, name="acme/ground"), tiny.geometry)
    ground = load_adapter(folder, tiny)
    top = replace(make_adapter(tiny, name="acme/top"), on_top_of=ground)

    def deleted_meanwhile(adapter: Adapter, geometry: Geometry) -> dict[str, bytes]:
        Store(stacked_store.root).delete("acme/ground")
        return adapter_files(adapter, geometry)

    monkeypatch.setattr("adapterkit.adapter.store.adapter_files", deleted_meanwhile)
    with pytest.raises(AdapterError, match=r"'acme/ground' with weights .*, which is neither in "):
        stacked_store.publish(top, tiny.geometry)
    assert "acme/top" not in stacked_store.names()


def test_a_card_is_read_once_however_often_its_name_changes(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    stacked_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def counted(folder: Path) -> ParentRef | None:
        read.append(f"{folder.parent.name}/{folder.name}")
        return read_parent(folder)

    monkeypatch.setattr(store_index, "read_parent", counted)
    for seed in (2, 3):
        publish_domain(tiny, make_adapter, stacked_store, seed=seed)
    stacked_store.delete("acme/domain", 2)
    assert sorted(read) == ["domain/1", "domain/2", "domain/3", "other/1", "task/1"]
    read.clear()
    publish_domain(tiny, make_adapter, stacked_store, seed=4)
    stacked_store.delete("acme/domain", 3)
    assert read == ["domain/4"], "the others have not changed"


def test_a_parent_with_other_weights_is_refused_with_both_digests(
    tiny: Backbone, make_adapter: MakeAdapter, stacked_store: Store
) -> None:
    folder = stacked_store.path("acme/domain")
    saved_digest = file_digest(folder / WEIGHTS)[:19]
    shutil.rmtree(folder)
    save_adapter(make_adapter(tiny, "lora", name="acme/domain", seed=9), folder, tiny.geometry)
    new_digest = file_digest(folder / WEIGHTS)[:19]
    predictor = Predictor(tiny)
    with pytest.raises(
        AdapterError, match=f"with weights {saved_digest}, but .* has weights {new_digest}"
    ):
        predictor.load(stacked_store.path("acme/task"))
    assert predictor.names == []
    shutil.rmtree(folder)
    with pytest.raises(
        AdapterError, match=f"'acme/domain' with weights {saved_digest}, which is neither"
    ):
        predictor.load(stacked_store.path("acme/task"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "../../x", "digest": "sha256:" + "0" * 64}, "is not an adapter name"),
        ({"name": "acme/domain", "digest": "0"}, "expected name and digest"),
        ({"name": "acme/domain"}, "expected name and digest"),
        ("acme/domain", "expected name and digest"),
        ([], "expected name and digest"),
    ],
)
def test_an_invalid_on_top_of_is_an_error(
    tiny: Backbone, stacked_store: Store, content: Any, message: str
) -> None:
    file = stacked_store.path("acme/task") / CARD
    file.write_text(json.dumps({**json.loads(file.read_text()), "on_top_of": content}))
    with pytest.raises(AdapterkitError, match=message):
        load_adapter(file.parent, tiny)


def test_a_cycle_of_stacked_adapters_is_an_error(tiny: Backbone, stacked_store: Store) -> None:
    task, domain = stacked_store.path("acme/task"), stacked_store.path("acme/domain")
    card = json.loads((domain / CARD).read_text())
    card["on_top_of"] = {"name": "acme/task", "digest": file_digest(task / WEIGHTS)}
    (domain / CARD).write_text(json.dumps(card))
    with pytest.raises(AdapterError, match="stands on itself"):
        load_adapter(task, tiny)


def test_the_parent_must_be_in_the_store(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    fresh = make_adapter(tiny, "lora", name="acme/domain")
    top = replace(make_adapter(tiny, "lora", name="acme/task"), on_top_of=fresh)
    with pytest.raises(AdapterError, match="'acme/domain' was never saved"):
        save_adapter(top, "task", tiny.geometry)
    parent = load_adapter(save_adapter(fresh, "domain", tiny.geometry), tiny)
    with pytest.raises(AdapterError, match="which is neither in shelf"):
        Store("shelf").publish(replace(top, on_top_of=parent), tiny.geometry)
    assert not Path("shelf").exists()
    assert not Path("task").exists()


def test_the_predictor_keeps_one_copy_of_a_parent(tiny: Backbone, stacked_store: Store) -> None:
    predictor = Predictor(tiny)
    for name in ("acme/domain", "acme/task", "globex/other"):
        predictor.load(stacked_store.path(name))
    adapters = [predictor.find(name) for name in predictor.names]
    below = {id(a.on_top_of) for a in adapters if a is not None and a.on_top_of is not None}
    assert len(below) == 1
    requests: list[Any] = [(name, text) for name in (*predictor.names, None) for text in TEXTS]
    for request, answer in zip(requests, predictor(requests), strict=True):
        (alone,) = predictor([request])
        assert answer.get("scores", {}) == pytest.approx(alone.get("scores", {}), abs=1e-5)


def test_the_server_keeps_one_copy_of_a_parent(tiny: Backbone, stacked_store: Store) -> None:
    async def load_both() -> list[Any]:
        cache = AdapterCache(stacked_store, tiny, memory=1 << 24, device=0)
        entries = [await cache.get(name) for name in ("acme/task", "globex/other")]
        cache.close()
        return [entry.adapter.on_top_of for entry in entries]

    first, second = asyncio.run(load_both())
    assert first is second
    assert first.name == "acme/domain"


def test_a_remote_store_also_downloads_the_parent(
    tiny: Backbone, make_adapter: MakeAdapter, stacked_store: Store, tmp_path: Path
) -> None:
    remote = Store(f"file://{tmp_path}/remote", cache=tmp_path / "cache")
    parent = publish_domain(tiny, make_adapter, remote)
    publish_domain(tiny, make_adapter, remote, seed=2)
    top = make_adapter(tiny, "bottleneck", name="acme/task", seed=0)
    remote.publish(replace(top, on_top_of=parent), tiny.geometry)
    empty = Store(f"file://{tmp_path}/remote", cache=tmp_path / "other")
    expected = logits(tiny, load_adapter(stacked_store.path("acme/task"), tiny))
    assert torch.equal(logits(tiny, load_adapter(empty.path("acme/task"), tiny)), expected)


def recipe_on(folder: Path, below: str, method: str = "lora", **training: Any) -> Recipe:
    lines = ["text,label,split"]
    for n in range(24):
        label, word = (("money", "bank"), ("weather", "rain"))[n % 2]
        lines.append(f"the {word} is {WORDS[n]},{label},{('train', 'validation')[n % 4 == 0]}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return Recipe.of(
        {
            "name": "acme/topic",
            "data": {"path": "rows.csv"},
            "task": {"type": "classification", "pooling": "mean"},
            "method": {"type": method},
            "training": {"epochs": 2, "batch_size": 8, "on_top_of": below, **training},
        },
        folder,
    )


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
def test_training_on_top_leaves_the_parent_unchanged(
    tiny: Backbone, tmp_path: Path, stacked_store: Store, method: str
) -> None:
    parent = stacked_store.path("acme/domain")
    before = (parent / WEIGHTS).read_bytes()
    adapter = train(
        recipe_on(tmp_path, "acme/domain", method), tiny, store=stacked_store, progress=False
    )
    folder = stacked_store.publish(adapter, tiny.geometry)
    assert (parent / WEIGHTS).read_bytes() == before
    assert "stands on | `acme/domain`" in (folder / "README.md").read_text()
    rows = recipe_on(tmp_path, "acme/domain").data.load(tmp_path, 0, adapter.task)["validation"]
    again = load_adapter(folder, tiny)
    expected_metrics = {k: v for k, v in adapter.metrics["validation"].items() if k != "loss"}
    assert evaluate(tiny, again, rows) == pytest.approx(expected_metrics)
    plain = train(recipe_on(tmp_path, str(parent.resolve()), method), tiny, progress=False)
    assert plain.training["losses"] == adapter.training["losses"]
    without = Recipe.of(
        {**(content := recipe_on(tmp_path, "x", method).plain()), "training": {"epochs": 2}}
        | {"data": content["data"]},
        tmp_path,
    )
    assert train(without, tiny, progress=False).training["losses"] != plain.training["losses"]
    on = recipe_on(tmp_path, "acme/domain", method, start_from=str(folder.resolve()), epochs=1)
    assert train(on, tiny, store=stacked_store, progress=False).training["epoch"] == 1
    off = recipe_on(tmp_path, "acme/task", method, start_from=str(folder.resolve()))
    with pytest.raises(RecipeError, match="stands on another adapter than training"):
        train(off, tiny, store=stacked_store, progress=False)


def test_a_parent_that_cannot_be_used_is_refused_before_training(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, stacked_store: Store
) -> None:
    save_adapter(make_adapter(tiny, seed=5), tmp_path / "loose", tiny.geometry)
    for reference_or_folder, message in (
        ("acme/domian", "did you mean 'acme/domain'"),
        ("loose", "which is neither in shelf"),
    ):
        with pytest.raises(AdapterkitError, match=message):
            train(
                recipe_on(tmp_path, reference_or_folder), tiny, store=stacked_store, progress=False
            )
    wide = make_adapter(tiny, "prefix", name="acme/wide", num_virtual_tokens=50)
    stacked_store.publish(wide, tiny.geometry)
    with pytest.raises(RecipeError, match="20 leave no room for a text beside the 50"):
        train(recipe_on(tmp_path, "acme/wide", "prefix"), tiny, store=stacked_store, progress=False)


def test_the_command_line_finds_the_parent(tiny_folder: Path, stacked_store: Store) -> None:
    def run(*arguments: str) -> Any:
        return run_command(*arguments, "--json").json

    Path("rows.csv").write_text("text,label\nthe card,no\nmy rain,yes\n")
    (listed,) = [row for row in run("list", "shelf") if row["name"] == "acme/task"]
    assert listed["on_top_of"] == "acme/domain"
    assert "bottleneck on acme/domain" in run_command("list", "shelf").out
    shutil.copytree(stacked_store.path("acme/task"), "loose")
    for reference_or_folder in ("acme/task", "loose"):
        card = run("inspect", reference_or_folder, "--store", "shelf")
        assert Path(card["on_top_of"]["folder"]).samefile(stacked_store.path("acme/domain"))
        common = ("--store", "shelf", "--device", "cpu")
        assert run("predict", reference_or_folder, "the card", *common)[0]["adapter"] == "acme/task"
        assert run("evaluate", reference_or_folder, "rows.csv", *common)["rows"] == 2
    shutil.rmtree("shelf/acme/domain")
    card = run("inspect", "loose", "--store", "shelf")
    assert "which is neither in shelf" in card["on_top_of"]["folder"]
    recipe = recipe_on(Path.cwd(), "globex/other")
    plain = {**recipe.plain(), "backbone": {"model": str(tiny_folder), "device": "cpu"}}
    Path("recipe.yaml").write_text(json.dumps(plain))
    result = run_command("train", "recipe.yaml", "--output", "shelf")
    assert result.code == 2
    assert "it was trained on top of 'acme/domain'" in result.err


def test_peft_loads_the_top_adapter_alone(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, stacked_store: Store
) -> None:
    """PEFT sees only the folder of the top adapter, so its logits are those without the parent."""
    from peft import PeftModel

    parent = load_adapter(stacked_store.path("acme/domain"), tiny)
    top = make_adapter(tiny, "lora", name="acme/top", labels=("a", "b"), pooling="pooler", seed=4)
    folder = stacked_store.publish(replace(top, on_top_of=parent), tiny.geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(bert_for(tiny_folder, 2), folder).eval()
    expected = peft_logits(model, tiny_folder, TEXTS)
    torch.testing.assert_close(logits(tiny, top), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(tiny, load_adapter(folder, tiny)), expected)
