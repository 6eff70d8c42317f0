"""Task adapters on frozen domain adapters: the plain loop, mixing, folders and the store."""

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
from typer.testing import CliRunner

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits, batching_key
from adapterkit.adapter.card import CARD
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.atomic import file_digest
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import pack
from adapterkit.cli.app import app
from adapterkit.errors import AdapterError, AdapterkitError, RecipeError
from adapterkit.inference.forward import forward, text_limit
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.ops.dropout import Dropout, DropoutSeed
from adapterkit.serving.adapter_cache import AdapterCache
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers import reference
from helpers.adapters import MakeAdapter
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


def stacked(backbone: Backbone, make_adapter: MakeAdapter, *kinds: Kind, seed: int = 0) -> Adapter:
    """An adapter on top of others, the ground first."""
    adapter: Adapter | None = None
    for floor, (kind, settings) in enumerate(kinds):
        one = make_adapter(backbone, kind, name=f"t/{floor}", seed=seed * 10 + floor, **settings)
        adapter = replace(one, on_top_of=adapter)
    assert adapter is not None
    return adapter


@below
@above
def test_answers_and_gradients_are_the_plain_loop(
    tiny: Backbone, make_adapter: MakeAdapter, below: Kind, above: Kind
) -> None:
    inputs, found = tokenise(tiny, TEXTS, None, 50), []
    for fast in (True, False):
        adapter = stacked(tiny, make_adapter, below, above)
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
        ground = adapter.on_top_of
        assert ground is not None
        assert all(tensor.grad is None for tensor in (*ground.tensors.values(),))
        found.append((logits, {name: tensor.grad for name, tensor in leaves.items()}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for name, plain in found[1][1].items():
        grad = found[0][1][name]
        assert grad is not None
        assert plain is not None
        scale = plain.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(grad / scale, plain / scale, rtol=1e-5, atol=4e-5)


def test_what_lies_below_changes_the_answer(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    inputs = tokenise(tiny, TEXTS, None, 50)
    for below in KINDS[1:]:  # a head alone, the first, does nothing to the states
        for above in KINDS:
            adapter = stacked(tiny, make_adapter, below, above)
            with torch.inference_mode():
                on, off = (
                    torch.stack(outputs_by_row(tiny, [(one, row) for row in inputs]))
                    for one in (adapter, replace(adapter, on_top_of=None))
                )
            assert float((on - off).abs().max()) > 1e-3


def test_two_prefixes_are_one_long_one(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    kinds = [("prefix", {"num_virtual_tokens": n}) for n in (3, 5)]
    adapter = stacked(tiny, make_adapter, *kinds)
    assert adapter.on_top_of is not None
    assert text_limit(tiny, adapter) == 56
    long = make_adapter(tiny, "prefix", num_virtual_tokens=8)
    whole = torch.cat([adapter.on_top_of.tensors["prefix"], adapter.tensors["prefix"]])
    long = replace(long, tensors={"prefix": whole}, head=adapter.head)
    for row in tokenise(tiny, TEXTS, None, 50):
        (one,), (other,) = (outputs_by_row(tiny, [(a, row)]) for a in (adapter, long))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def crowd(backbone: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    """Plain adapters, adapters on one domain adapter of each kind, and a stack of three."""
    adapters = []
    for n, (kind, settings) in enumerate(KINDS):
        ground = make_adapter(backbone, kind, name=f"d/{n}", seed=100 + n, **settings)
        adapters.append(ground)
        for m, (other, more) in enumerate(KINDS):
            top = make_adapter(backbone, other, name=f"t/{n}{m}", seed=10 * n + m, **more)
            adapters.append(replace(top, on_top_of=ground))
        if n == 3:
            third = make_adapter(backbone, "lora", name="t/third", seed=7)
            adapters.append(replace(third, on_top_of=adapters[-1]))
    return adapters


def test_mixed_is_solo_is_any_order(anywhere: Backbone, make_adapter: MakeAdapter) -> None:
    rows = random_rows(anywhere, [None, *crowd(anywhere, make_adapter)], 120)
    with torch.inference_mode():
        mixed = outputs_by_row(anywhere, rows)
        alone = [outputs_by_row(anywhere, [row])[0] for row in rows]
        order = torch.randperm(120, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = outputs_by_row(anywhere, [rows[i] for i in order])
    for place, row in enumerate(order):
        torch.testing.assert_close(shuffled[place], mixed[row], rtol=1e-5, atol=1e-5)
    for one, other in zip(mixed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with_grad = outputs_by_row(anywhere, rows)
    for one, other in zip(mixed, with_grad, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_mixed_are_gradients_solo(anywhere: Backbone, make_adapter: MakeAdapter) -> None:
    grads = []
    for together in (True, False):
        adapters = [a for a in crowd(anywhere, make_adapter) if a.on_top_of is not None][::3]
        leaves = [t for a in adapters for t in (*a.tensors.values(), *a.head.values())]
        for tensor in leaves:
            tensor.requires_grad_()
        rows = random_rows(anywhere, adapters, 60)
        for group in [rows] if together else [[row] for row in rows]:
            lines = outputs_by_row(anywhere, group)
            torch.stack([(line * line).sum() for line in lines]).sum().backward()
        grads.append([tensor.grad for tensor in leaves])
    for mixed, solo in zip(*grads, strict=True):
        assert mixed is not None
        assert solo is not None
        scale = max(float(solo.abs().max()), 1e-6)
        torch.testing.assert_close(mixed / scale, solo / scale, rtol=1e-5, atol=1e-5)


def test_adapters_on_one_adapter_share_its_block(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """Ten tasks on one domain are one run of its product, whatever else is in the batch."""
    ground, other = (make_adapter(tiny, "lora", name=f"d/{n}", seed=n) for n in (1, 2))
    tasks = [
        replace(make_adapter(tiny, "bottleneck", seed=n), on_top_of=(ground, other)[n % 2])
        for n in range(20)
    ]
    tasks = sorted(tasks, key=batching_key)
    (row,) = tokenise(tiny, ["my card"], None, 8)
    packed = pack([row] * 20, range(20), [0] * 20)
    (query,) = assemble_edits(tasks, packed, tiny.geometry).layers[0].blocks["query"]
    assert (query.start, query.end) == (0, 20 * len(row))
    product: Any = query.delta.args[0]  # type: ignore[attr-defined]
    assert product.segments.lengths == (10 * len(row), 10 * len(row))
    prefix = make_adapter(tiny, "prefix", num_virtual_tokens=4)
    tasks = [replace(task, on_top_of=prefix) for task in tasks]
    prefixes = assemble_edits(tasks, packed, tiny.geometry).layers[0].prefixes
    assert prefixes is not None
    assert [len(keys) for keys in prefixes.layer(0)] == [4, 4]


def test_layers_without_edits_are_computed_once(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """Below the lowest edited layer a text of both adapters is computed once; answers stay."""
    ground = make_adapter(tiny, "lora", name="d", layers=(1,))
    plain = make_adapter(tiny, "lora", name="p", layers=(2,), seed=9)
    tops = [
        replace(make_adapter(tiny, "lora", seed=n, layers=(2,)), on_top_of=ground) for n in (1, 2)
    ]
    adapters = sorted([plain, *tops], key=batching_key)
    (row,) = tokenise(tiny, ["my card is lost"], None, 12)
    packed = pack([row] * 3, range(3), [0] * 3)
    untouched = assemble_edits(adapters, packed, tiny.geometry).untouched
    assert untouched == tuple(2 if adapter is plain else 1 for adapter in adapters)
    found = outputs_by_row(tiny, [(adapter, row) for adapter in adapters])
    for adapter, line in zip(adapters, found, strict=True):
        torch.testing.assert_close(line, reference.logits(tiny, adapter, row), rtol=1e-5, atol=1e-5)


def test_only_the_top_drops_out(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """The domain adapter is frozen like the backbone, whose own dropout is left out too."""
    rows = tokenise(tiny, TEXTS, None, 50)

    def line(adapter: Adapter) -> torch.Tensor:
        lengths = [len(row) for row in rows]
        pieces = forward(
            tiny,
            [(adapter, row) for row in rows],
            lambda order: Dropout([DropoutSeed(3, lengths, order)]),
        )
        return pieces[0].values

    kinds = [("lora", {"dropout": p}) for p in (0.5, 0.0)]
    still = stacked(tiny, make_adapter, *kinds)
    task: Any = still.task
    still = replace(still, task=replace(task, dropout=0.0))
    calm = stacked(tiny, make_adapter, kinds[1], kinds[1])
    torch.testing.assert_close(line(still), line(replace(calm, task=still.task)))
    noisy = stacked(tiny, make_adapter, kinds[1], kinds[0])
    assert not torch.allclose(line(replace(noisy, task=still.task)), line(still))


# Folders, store and command line.


def published(tiny: Backbone, make_adapter: MakeAdapter, store: Store, seed: int = 1) -> Adapter:
    """A domain adapter in a store, as it is loaded from there."""
    ground = make_adapter(tiny, "lora", name="acme/domain", seed=seed)
    return load_adapter(store.publish(ground, tiny.geometry), tiny)


@pytest.fixture
def shop(tiny: Backbone, make_adapter: MakeAdapter) -> Store:
    """A store with `acme/domain` and, on it, `acme/task` and `globex/other`."""
    store = Store("shelf")
    ground = published(tiny, make_adapter, store)
    for seed, (name, kind) in enumerate([("acme/task", "bottleneck"), ("globex/other", "prefix")]):
        top = make_adapter(tiny, kind, name=name, seed=seed)
        store.publish(replace(top, on_top_of=ground), tiny.geometry)
    return store


def logits(backbone: Backbone, adapter: Adapter) -> torch.Tensor:
    with torch.inference_mode():
        rows = tokenise(backbone, TEXTS, None, 50)
        return torch.stack(outputs_by_row(backbone, [(adapter, row) for row in rows]))


def test_two_folders_stay_two_folders(
    tiny: Backbone, make_adapter: MakeAdapter, shop: Store
) -> None:
    folder = shop.path("acme/task")
    ground = shop.path("acme/domain")
    card = json.loads((folder / CARD).read_text())
    digest = hashlib.sha256((ground / WEIGHTS).read_bytes()).hexdigest()
    assert card["on_top_of"] == {"name": "acme/domain", "digest": f"sha256:{digest}"}
    alone = save_adapter(make_adapter(tiny, "bottleneck", seed=0), "alone", tiny.geometry)
    for file in (WEIGHTS, CONFIG):
        assert (folder / file).read_bytes() == (alone / file).read_bytes()
    top = make_adapter(tiny, "bottleneck", seed=0)
    here = replace(top, on_top_of=make_adapter(tiny, "lora", seed=1))
    assert torch.equal(logits(tiny, load_adapter(folder, tiny)), logits(tiny, here))


def test_a_loose_folder_finds_what_it_stands_on(tiny: Backbone, shop: Store) -> None:
    expected = logits(tiny, load_adapter(shop.path("acme/task"), tiny))
    shutil.copytree(shop.path("acme/task"), "loose/task")
    with pytest.raises(AdapterError, match=r"loose/task: it was trained on top of 'acme/domain'"):
        load_adapter("loose/task", tiny)
    shutil.copytree(shop.path("acme/domain"), "elsewhere/it")
    for place in ("elsewhere/it", "shelf", "shelf/acme/domain/1"):
        found = load_adapter("loose/task", tiny, on_top_of=place)
        assert torch.equal(logits(tiny, found), expected)
    shutil.copytree(shop.path("acme/domain"), "loose/domain")
    assert torch.equal(logits(tiny, load_adapter("loose/task", tiny)), expected)


def test_what_lies_below_may_have_later_versions(
    tiny: Backbone, make_adapter: MakeAdapter, shop: Store
) -> None:
    before = logits(tiny, load_adapter(shop.path("acme/task"), tiny))
    published(tiny, make_adapter, shop, seed=2)
    assert torch.equal(logits(tiny, load_adapter(shop.path("acme/task"), tiny)), before)


def test_what_others_stand_on_is_not_deleted(
    tiny: Backbone, make_adapter: MakeAdapter, shop: Store
) -> None:
    with pytest.raises(AdapterkitError, match="'acme/task@1' stands on 'acme/domain'; delete that"):
        shop.delete("acme/domain")
    assert logits(tiny, load_adapter(shop.path("acme/task"), tiny)).shape
    published(tiny, make_adapter, shop, seed=2)
    with pytest.raises(AdapterkitError, match="'acme/task@1' stands on 'acme/domain@1'"):
        shop.delete("acme/domain", 1)
    published(tiny, make_adapter, shop, seed=1)  # version 3 has the weights of version 1
    shop.delete("acme/domain", 1)
    assert logits(tiny, load_adapter(shop.path("acme/task"), tiny)).shape
    (shop.path("globex/other") / CARD).write_text("{")
    shop.delete("acme/task")
    shop.delete("acme/domain")
    assert shop.names() == ["globex/other"]


def test_other_weights_below_are_refused_by_both_digests(
    tiny: Backbone, make_adapter: MakeAdapter, shop: Store
) -> None:
    folder = shop.path("acme/domain")
    mine = file_digest(folder / WEIGHTS)[:19]
    shutil.rmtree(folder)
    save_adapter(make_adapter(tiny, "lora", name="acme/domain", seed=9), folder, tiny.geometry)
    theirs = file_digest(folder / WEIGHTS)[:19]
    predictor = Predictor(tiny)
    with pytest.raises(AdapterError, match=f"with weights {mine}, but .* has weights {theirs}"):
        predictor.load(shop.path("acme/task"))
    assert predictor.names == []
    shutil.rmtree(folder)
    with pytest.raises(AdapterError, match=f"'acme/domain' with weights {mine}, which is neither"):
        predictor.load(shop.path("acme/task"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"name": "../../x", "digest": "sha256:" + "0" * 64}, "is not an adapter name"),
        ({"name": "acme/domain", "digest": "0"}, "expected name and digest"),
        ({"name": "acme/domain"}, "expected name and digest"),
        ("acme/domain", "expected name and digest"),
        ([], "expected name and digest"),
    ],
)
def test_a_garbled_parent_is_refused(tiny: Backbone, shop: Store, content: Any, words: str) -> None:
    file = shop.path("acme/task") / CARD
    file.write_text(json.dumps({**json.loads(file.read_text()), "on_top_of": content}))
    with pytest.raises(AdapterkitError, match=words):
        load_adapter(file.parent, tiny)


def test_nothing_stands_on_itself(tiny: Backbone, shop: Store) -> None:
    one, other = shop.path("acme/task"), shop.path("acme/domain")
    card = json.loads((other / CARD).read_text())
    card["on_top_of"] = {"name": "acme/task", "digest": file_digest(one / WEIGHTS)}
    (other / CARD).write_text(json.dumps(card))
    with pytest.raises(AdapterError, match="stands on itself"):
        load_adapter(one, tiny)


def test_only_what_is_in_the_store_can_be_stood_on(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    fresh = make_adapter(tiny, "lora", name="acme/domain")
    top = replace(make_adapter(tiny, "lora", name="acme/task"), on_top_of=fresh)
    with pytest.raises(AdapterError, match="'acme/domain' was never saved"):
        save_adapter(top, "task", tiny.geometry)
    ground = load_adapter(save_adapter(fresh, "domain", tiny.geometry), tiny)
    with pytest.raises(AdapterError, match="which is neither in shelf"):
        Store("shelf").publish(replace(top, on_top_of=ground), tiny.geometry)
    assert not Path("shelf").exists()
    assert not Path("task").exists()


def test_the_predictor_keeps_one_copy_of_what_is_stood_on(tiny: Backbone, shop: Store) -> None:
    predictor = Predictor(tiny)
    for name in ("acme/domain", "acme/task", "globex/other"):
        predictor.load(shop.path(name))
    adapters = [predictor.find(name) for name in predictor.names]
    below = {id(a.on_top_of) for a in adapters if a is not None and a.on_top_of is not None}
    assert len(below) == 1
    asked: list[Any] = [(name, text) for name in (*predictor.names, None) for text in TEXTS]
    for request, answer in zip(asked, predictor(asked), strict=True):
        (alone,) = predictor([request])
        assert answer.get("scores", {}) == pytest.approx(alone.get("scores", {}), abs=1e-5)


def test_the_server_keeps_one_copy_of_what_is_stood_on(tiny: Backbone, shop: Store) -> None:
    async def hold() -> list[Any]:
        resident = AdapterCache(shop, tiny, memory=1 << 24, device=0)
        held = [await resident.get(name) for name in ("acme/task", "globex/other")]
        resident.close()
        return [one.adapter.on_top_of for one in held]

    one, other = asyncio.run(hold())
    assert one is other
    assert one.name == "acme/domain"


def test_a_store_behind_a_url_brings_what_is_stood_on(
    tiny: Backbone, make_adapter: MakeAdapter, shop: Store, tmp_path: Path
) -> None:
    there = Store(f"file://{tmp_path}/there", cache=tmp_path / "mine")
    ground = published(tiny, make_adapter, there)
    published(tiny, make_adapter, there, seed=2)
    top = make_adapter(tiny, "bottleneck", name="acme/task", seed=0)
    there.publish(replace(top, on_top_of=ground), tiny.geometry)
    cold = Store(f"file://{tmp_path}/there", cache=tmp_path / "other")
    expected = logits(tiny, load_adapter(shop.path("acme/task"), tiny))
    assert torch.equal(logits(tiny, load_adapter(cold.path("acme/task"), tiny)), expected)


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
def test_a_task_is_trained_on_top_and_the_ground_stays(
    tiny: Backbone, tmp_path: Path, shop: Store, method: str
) -> None:
    ground = shop.path("acme/domain")
    before = (ground / WEIGHTS).read_bytes()
    adapter = train(recipe_on(tmp_path, "acme/domain", method), tiny, store=shop, progress=False)
    folder = shop.publish(adapter, tiny.geometry)
    assert (ground / WEIGHTS).read_bytes() == before
    assert "stands on | `acme/domain`" in (folder / "README.md").read_text()
    rows = recipe_on(tmp_path, "acme/domain").data.load(tmp_path, 0, adapter.task)["validation"]
    again = load_adapter(folder, tiny)
    told = {k: v for k, v in adapter.metrics["validation"].items() if k != "loss"}
    assert evaluate(tiny, again, rows) == pytest.approx(told)
    plain = train(recipe_on(tmp_path, str(ground.resolve()), method), tiny, progress=False)
    assert plain.training["losses"] == adapter.training["losses"]
    without = Recipe.of(
        {**(content := recipe_on(tmp_path, "x", method).plain()), "training": {"epochs": 2}}
        | {"data": content["data"]},
        tmp_path,
    )
    assert train(without, tiny, progress=False).training["losses"] != plain.training["losses"]
    on = recipe_on(tmp_path, "acme/domain", method, start_from=str(folder.resolve()), epochs=1)
    assert train(on, tiny, store=shop, progress=False).training["epoch"] == 1
    off = recipe_on(tmp_path, "acme/task", method, start_from=str(folder.resolve()))
    with pytest.raises(RecipeError, match="stands on another adapter than training"):
        train(off, tiny, store=shop, progress=False)


def test_an_unusable_parent_is_refused_before_training(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, shop: Store
) -> None:
    save_adapter(make_adapter(tiny, seed=5), tmp_path / "loose", tiny.geometry)
    for given, words in (
        ("acme/domian", "did you mean 'acme/domain'"),
        ("loose", "which is neither in shelf"),
    ):
        with pytest.raises(AdapterkitError, match=words):
            train(recipe_on(tmp_path, given), tiny, store=shop, progress=False)
    wide = make_adapter(tiny, "prefix", name="acme/wide", num_virtual_tokens=50)
    shop.publish(wide, tiny.geometry)
    with pytest.raises(RecipeError, match="20 leave no room for a text beside the 50"):
        train(recipe_on(tmp_path, "acme/wide", "prefix"), tiny, store=shop, progress=False)


def test_the_command_line_finds_what_is_stood_on(tiny_folder: Path, shop: Store) -> None:
    runner = CliRunner()

    def run(*words: str) -> Any:
        said = runner.invoke(app, [*words, "--json"])
        assert said.exit_code == 0, said.output
        return json.loads(said.stdout)

    Path("rows.csv").write_text("text,label\nthe card,no\nmy rain,yes\n")
    (listed,) = [row for row in run("list", "shelf") if row["name"] == "acme/task"]
    assert listed["on_top_of"] == "acme/domain"
    assert "bottleneck on acme/domain" in runner.invoke(app, ["list", "shelf"]).stdout
    shutil.copytree(shop.path("acme/task"), "loose")
    for given in ("acme/task", "loose"):
        card = run("inspect", given, "--store", "shelf")
        assert Path(card["on_top_of"]["folder"]).samefile(shop.path("acme/domain"))
        common = ("--store", "shelf", "--device", "cpu")
        assert run("predict", given, "the card", *common)[0]["adapter"] == "acme/task"
        assert run("evaluate", given, "rows.csv", *common)["rows"] == 2
    shutil.rmtree("shelf/acme/domain")
    card = run("inspect", "loose", "--store", "shelf")
    assert "which is neither in shelf" in card["on_top_of"]["folder"]
    recipe = recipe_on(Path.cwd(), "globex/other")
    plain = {**recipe.plain(), "backbone": {"model": str(tiny_folder), "device": "cpu"}}
    Path("recipe.yaml").write_text(json.dumps(plain))
    said = runner.invoke(app, ["train", "recipe.yaml", "--output", "shelf"])
    assert said.exit_code == 2
    assert "it was trained on top of 'acme/domain'" in said.stderr


def test_peft_loads_the_top_as_before(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, shop: Store
) -> None:
    """PEFT sees the top folder alone, so it answers as the top does without its ground."""
    from peft import PeftModel

    ground = load_adapter(shop.path("acme/domain"), tiny)
    top = make_adapter(tiny, "lora", name="acme/top", labels=("a", "b"), pooling="pooler", seed=4)
    folder = shop.publish(replace(top, on_top_of=ground), tiny.geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(bert_for(tiny_folder, 2), folder).eval()
    theirs = peft_logits(model, tiny_folder, TEXTS)
    torch.testing.assert_close(logits(tiny, top), theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(tiny, load_adapter(folder, tiny)), theirs)
