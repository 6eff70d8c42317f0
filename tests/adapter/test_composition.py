"""Composed adapters: the sum of changes in a plain loop, PEFT's own, heads, stacks, refusals."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterkit import compose
from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.adapter.batching import assemble_edits
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import pack
from adapterkit.errors import AdapterError
from adapterkit.tasks.answer_distribution import AnswerDistribution
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command
from helpers.peft_reference import TEXTS, bert_for
from helpers.sequences import logits_of, outputs_by_row, tokenise
from helpers.task_adapters import random_task_adapter

WEIGHTS = (0.7, -1.3)
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({"r": 3, "layers": (0, 2)}, {"r": 2, "alpha": 3.0, "targets": LINEAR_SITES}),
    "ia3": (
        {"layers": (1,)},
        {"targets": ("key", "query", "attention_output"), "feedforward": ("attention_output",)},
    ),
    "bitfit": ({"targets": ("query", "ffn_up"), "layers": (0, 2)}, {}),
    "ln_tuning": (
        {"targets": ("entry", "ffn_layer_norm")},
        {"targets": ("attention_layer_norm", "entry"), "layers": (1,)},
    ),
}
"""Method to the settings of two adapters, which differ in ranks, targets and layers."""

PATHS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "attention_layer_norm": "attention.output.LayerNorm",
    "ffn_layer_norm": "output.LayerNorm",
}


def saved(adapter: Adapter, backbone: Backbone, folder: Path) -> Adapter:
    return load_adapter(save_adapter(adapter, folder, backbone.geometry), backbone)


@pytest.fixture
def make_parts(tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path) -> Any:
    """A function that makes two saved adapters of one method."""

    def make(kind: str, settings: Sequence[dict[str, Any]]) -> list[Adapter]:
        return [
            saved(make_adapter(tiny, kind, name=f"t/{n}", seed=n, **own), tiny, tmp_path / f"{n}")
            for n, own in enumerate(settings)
        ]

    return make


def states(backbone: Backbone, adapter: Adapter) -> Tensor:
    """The states of the texts with an adapter, `[T, h]`."""
    found = []
    for row in tokenise(backbone, TEXTS, None, 50):
        packed = pack([row], [0], [adapter.num_virtual_tokens])
        edits = assemble_edits([adapter], packed, backbone.frozen_weights)
        with torch.inference_mode():
            found.append(backbone(packed, edits).tokens[: len(row)])
    return torch.cat(found)


def add_change(bert: Any, adapter: Adapter, weight: float) -> None:
    """Adds what one adapter changes in the parameters of a model, one by one."""
    method: Any = adapter.method
    originals = dict(bert.frozen.named_parameters())
    for at, index in enumerate(method.layers or range(bert.config.num_hidden_layers)):
        for site in method.targets:
            if site == "entry":
                continue
            path = f"encoder.layer.{index}.{PATHS[site]}"
            module, frozen = bert.get_submodule(path), originals[f"{path}.weight"]
            own = {key: tensor[at] for key, tensor in adapter.tensors.items() if site in key}
            if method.type == "lora":
                module.weight += weight * method.scale * own[f"{site}.b"] @ own[f"{site}.a"]
            elif method.type == "ia3":
                module.weight += weight * (own[site] - 1) * frozen
                if site not in method.feedforward:
                    bias = originals[f"{path}.bias"]
                    module.bias += weight * (own[site][:, 0] - 1) * bias
            else:
                for name in {"weight", "bias"} & {key.rpartition(".")[2] for key in own}:
                    getattr(module, name).add_(weight * own[f"{site}.{name}"])
    if "entry" in method.targets:
        norm = bert.embeddings.LayerNorm
        gain, bias = (adapter.tensors[f"entry.{name}"][0] for name in ("weight", "bias"))
        norm.weight += weight * gain * originals["embeddings.LayerNorm.weight"]
        norm.bias += weight * (gain * originals["embeddings.LayerNorm.bias"] + bias)


@pytest.mark.parametrize("kind", PARTS)
def test_states_are_those_of_the_weighted_changes(
    tiny: Backbone, tiny_folder: Path, make_parts: Any, kind: str
) -> None:
    adapters = make_parts(kind, PARTS[kind])
    composed = compose(adapters, tiny, name="t/sum", weights=WEIGHTS, head=adapters[1])
    bert: Any = bert_for(tiny_folder, 2).bert
    bert.frozen = copy.deepcopy(bert)
    with torch.inference_mode(False), torch.no_grad():
        for adapter, weight in zip(adapters, WEIGHTS, strict=True):
            add_change(bert, adapter, weight)
        rows = [torch.tensor([row.input_ids]) for row in tokenise(tiny, TEXTS, None, 50)]
        expected = torch.cat([bert(input_ids=row).last_hidden_state[0] for row in rows])
    found = states(tiny, composed)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found - states(tiny, adapters[0])).abs().max()) > 1e-2


@pytest.mark.parametrize(("kind", "weights"), [("cat", WEIGHTS), ("linear", (0.7,))])
def test_peft_composes_the_same(
    tiny: Backbone, tiny_folder: Path, make_parts: Any, tmp_path: Path, kind: str, weights: Any
) -> None:
    """PEFT's `cat` is exact; its `linear` is for one adapter alone."""
    from peft import PeftModel

    adapters = make_parts("lora", ({"r": 3}, {"r": 2, "alpha": 3.0}))[: len(weights)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bert = bert_for(tiny_folder, 2).bert
        model: Any = PeftModel.from_pretrained(bert, tmp_path / "0", "0").eval()
        for number in range(1, len(adapters)):
            model.load_adapter(tmp_path / str(number), str(number))
        names = [str(number) for number in range(len(adapters))]
        model.add_weighted_adapter(names, list(weights), "sum", combination_type=kind)
        model.base_model.set_adapter("sum")
    rows = [torch.tensor([row.input_ids]) for row in tokenise(tiny, TEXTS, None, 50)]
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=row).last_hidden_state[0] for row in rows])
    composed = compose(adapters, tiny, name="t/sum", weights=weights, head=adapters[0])
    torch.testing.assert_close(states(tiny, composed), expected, rtol=1e-5, atol=1e-5)


def test_mixed_answers_are_those_of_each_alone(
    tiny: Backbone, make_adapter: MakeAdapter, make_parts: Any
) -> None:
    adapters = make_parts("bottleneck", ({"size": 3}, {"size": 2, "scaling": 2.0, "layers": (1,)}))
    composed = compose(adapters, tiny, name="t/mean")
    others = [*adapters, make_adapter(tiny, "prefix", name="t/p", num_virtual_tokens=3), None]
    rows = [(a, row) for row in tokenise(tiny, TEXTS, None, 50) for a in (composed, *others)]
    with torch.inference_mode():
        mixed = outputs_by_row(tiny, rows)
        for found, row in zip(mixed, rows, strict=True):
            torch.testing.assert_close(found, outputs_by_row(tiny, [row])[0], rtol=1e-4, atol=1e-5)


def test_equal_heads_are_averaged(tiny: Backbone, make_parts: Any, tmp_path: Path) -> None:
    """The logits of averaged linear probes are the average of their logits."""
    probes = make_parts("head", ({}, {}))
    inputs = tokenise(tiny, TEXTS, None, 50)
    one, two = (logits_of(tiny, probe, inputs) for probe in probes)
    for weights, expected in ((None, (one + two) / 2), ((3.0, 1.0), (3 * one + two) / 4)):
        composed = compose(probes, tiny, name="t/mean", weights=weights)
        torch.testing.assert_close(logits_of(tiny, composed, inputs), expected)
    numbers = []
    for n in range(2):  # regressions in other units
        adapter = random_task_adapter(tiny, "regression", tmp_path)
        task: Any = adapter.task
        units = replace(task, center=float(n), spread=2.0 - n)
        adapter = replace(adapter, name=f"t/{n}", task=units)
        numbers.append(saved(adapter, tiny, tmp_path / f"number {n}"))
    composed = compose(numbers, tiny, name="t/mean")
    plain = [task.transformers_form(one.head)[1] for one in numbers for task in [one.task]]
    for key, tensor in composed.head.items():
        torch.testing.assert_close(tensor, (plain[0][key] + plain[1][key]) / 2)


def test_the_record_names_the_parents(tiny: Backbone, make_parts: Any, tmp_path: Path) -> None:
    adapters = make_parts("lora", ({}, {}))
    composed = compose(adapters, tiny, name="t/sum", weights=WEIGHTS, head=adapters[1])
    parents = [
        {"name": one.name, "digest": one.digest, "weight": weight}
        for one, weight in zip(adapters, WEIGHTS, strict=True)
    ]
    head = {"name": "t/1", "digest": adapters[1].digest}
    assert composed.training == {"composed": {"parents": parents, "head_of": head}}
    counted = {"answers": AnswerDistribution(rows=1, labels={"no": 1}).plain()}
    one, two = (replace(adapter, training=counted) for adapter in adapters)
    assert "answers" not in compose([one, two], tiny, name="t/sum", head=two).training
    assert compose([one], tiny, name="t/one").training["answers"] == counted["answers"]
    again = saved(composed, tiny, tmp_path / "sum")
    assert again.training == composed.training
    readme = (tmp_path / "sum" / "README.md").read_text(encoding="utf-8")
    assert f"| composed of | -1.3 times `t/1`, weights `{adapters[1].digest}` |" in readme
    twice = compose([again, adapters[0]], tiny, name="t/twice", weights=(1, 0.3), head=again)
    direct = compose(adapters, tiny, name="t/sum", weights=(1.0, -1.3), head=adapters[1])
    torch.testing.assert_close(states(tiny, twice), states(tiny, direct), rtol=1e-5, atol=1e-5)


def test_what_has_no_exact_sum_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter, make_parts: Any, tmp_path: Path
) -> None:
    (a, b) = make_parts("lora", ({}, {"r": 30}))

    def refused(words: str, adapters: Sequence[Adapter], **options: Any) -> None:
        with pytest.raises(AdapterError, match=words):
            compose(adapters, tiny, name="t/c", **options)

    def other(name: str, kind: str = "lora", **settings: Any) -> Adapter:
        return saved(make_adapter(tiny, kind, name=name, **settings), tiny, tmp_path / name)

    refused("t/0' and 't/1' have no exact weighted sum: r: 38 is more than", [a, b], head=a)
    refused("'t/0' is a lora adapter and 't/x' a bottleneck", [a, other("t/x", "bottleneck")])
    refused("the method prefix has no weighted sum", [other("t/prefix", "prefix")] * 2)
    refused("weights: expected a finite number for each of 2", [a, b], weights=[1.0])
    refused("weights: expected a finite number", [a, a], weights=[1.0, float("nan")])
    refused("heads are averaged with weights of 0 or more", [a, a], weights=WEIGHTS)
    refused("tasks differ in labels; name the adapter", [a, other("t/y", labels=("a", "b"))])
    refused("numbers beyond", [a], weights=[1e7])
    refused("is none of the adapters", [a], head=b)
    refused("expected at least one", [])
    refused("was never saved", [replace(a, digest=None)])
    ensemble = replace(a, extra_members=(MemberWeights(a.tensors, a.head),))
    refused("'t/0' is an ensemble of 2", [ensemble])
    refused("'t/0' was trained on", [replace(a, fingerprint="sha256:" + "0" * 64)])
    unequal: list[tuple[str, dict[str, Any], str]] = [
        ("ia3", {"feedforward": ()}, "some multiply the input of ffn_down"),
        ("bottleneck", {"activation": "gelu"}, "differ in activation: relu, gelu"),
        ("bottleneck", {"placement": "parallel"}, "differ in placement"),
    ]
    for n, (kind, settings, words) in enumerate(unequal):
        refused(words, [other(f"x/{n}", kind), other(f"y/{n}", kind, **settings)])
    deep = random_task_adapter(tiny, "classification", tmp_path, hidden_activation="tanh")
    refused("heads of more than one layer", [saved(deep, tiny, tmp_path / "deep")] * 2)


def test_the_command_composes_and_exchanges_the_lower_adapter(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    store = Store("adapters")

    def publish(adapter: Adapter) -> Adapter:
        adapter = replace(adapter, backbone=str(tiny_folder))
        return load_adapter(store.publish(adapter, tiny.geometry), tiny)

    one, two = (publish(make_adapter(tiny, name=f"acme/{n}", seed=n)) for n in (1, 2))
    english, spanish = (
        publish(make_adapter(tiny, "bottleneck", name=name, seed=n))
        for n, name in enumerate(("acme/english", "acme/spanish"))
    )
    publish(replace(make_adapter(tiny, "prefix", name="acme/top"), on_top_of=english))
    run = run_command(
        "compose", "acme/1", "acme/2", "--weights", "-0.25,1", "--head", "acme/2",
        "--name", "acme/sum", "--json",
    )  # fmt: skip
    assert [parent["weight"] for parent in run.json["parents"]] == [-0.25, 1.0]
    assert run.json["head_of"] == {"name": "acme/2", "digest": two.digest}
    found = load_adapter("adapters/acme/sum/1", tiny)
    expected = compose([one, two], tiny, name="acme/sum", weights=(-0.25, 1), head=two)
    torch.testing.assert_close(states(tiny, found), states(tiny, expected))
    assert "-0.25 times acme/1" in run_command("inspect", "acme/sum").out
    assert run_command("predict", "acme/sum", "my card").code == 0

    run = run_command("compose", "acme/top", "--on-top-of", "acme/spanish", "--name", "acme/arriba")
    assert run.code == 0, run.err
    card = json.loads(Path("adapters/acme/arriba/1/adapterkit.json").read_text())
    assert card["on_top_of"] == {"name": "acme/spanish", "digest": spanish.digest}
    (parent,) = card["training"]["composed"]["parents"]
    assert parent["on_top_of"] == {"name": "acme/english", "digest": english.digest}
    top = load_adapter("adapters/acme/arriba/1", tiny)
    original = load_adapter("adapters/acme/top/1", tiny)
    expected = replace(original, on_top_of=spanish)
    torch.testing.assert_close(states(tiny, top), states(tiny, expected))
    assert float((states(tiny, top) - states(tiny, original)).abs().max()) > 1e-3

    arguments = ("compose", "acme/1", "acme/2", "--name", "acme/c")
    assert_refused(*arguments, "--head", "acme/3", words="'acme/3' is none of acme/1, acme/2")
    assert_refused(*arguments, "--weights", "1;2", words="got '1;2'")
    assert_refused("compose", "acme/1", "acme/top", "--name", "acme/c", words="on-top-of")
