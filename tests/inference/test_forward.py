"""Mixing: any adapters in one batch answer as alone, in any order, from any thread."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.errors import AdapterError, AdapterkitError, UnknownAdapterError
from adapterkit.inference.forward import by_budget
from adapterkit.inference.predictor import Predictor
from helpers.adapters import MakeAdapter, varied_adapters
from helpers.sequences import outputs_by_row, random_rows
from helpers.vocabulary import WORDS


def test_mixed_is_solo_is_any_order(anywhere: Backbone, make_adapter: MakeAdapter) -> None:
    rows = random_rows(anywhere, [None, *varied_adapters(anywhere, make_adapter)], 60)
    with torch.inference_mode():
        mixed = outputs_by_row(anywhere, rows)
        alone = [outputs_by_row(anywhere, [row])[0] for row in rows]
        order = random.Random(1).sample(range(60), 60)
        shuffled = outputs_by_row(anywhere, [rows[i] for i in order])
    for place, row in enumerate(order):
        torch.testing.assert_close(shuffled[place], mixed[row], rtol=1e-5, atol=1e-5)
    for one, other in zip(mixed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_mixed_are_gradients_solo(anywhere: Backbone, make_adapter: MakeAdapter) -> None:
    grads = []
    for together in (True, False):
        adapters = varied_adapters(anywhere, make_adapter)
        for adapter in adapters:
            for tensor in (*adapter.tensors.values(), *adapter.head.values()):
                tensor.requires_grad_()
        rows = random_rows(anywhere, adapters, 40)
        for group in [rows] if together else [[row] for row in rows]:
            lines = outputs_by_row(anywhere, group)
            torch.stack([(line * line).sum() for line in lines]).sum().backward()
        grads.append([t.grad for a in adapters for t in (*a.tensors.values(), *a.head.values())])
    for mixed, solo in zip(*grads, strict=True):
        assert mixed is not None
        assert solo is not None
        scale = max(float(solo.abs().max()), 1e-6)
        torch.testing.assert_close(mixed / scale, solo / scale, rtol=1e-5, atol=1e-5)


def test_eight_threads_with_eight_adapters_are_never_mixed_up(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapters = varied_adapters(tiny, make_adapter)[:8]
    rows = [random_rows(tiny, [adapter], 40) for adapter in adapters]
    with torch.inference_mode():
        expected = [outputs_by_row(tiny, [row])[0] for group in rows for row in group]
    barrier = threading.Barrier(8)

    def work(group: list[tuple[Adapter | None, TokenSequence]]) -> list[torch.Tensor]:
        barrier.wait()
        with torch.inference_mode():
            return [outputs_by_row(tiny, [row])[0] for row in group]

    with ThreadPoolExecutor(8) as pool:
        found = [line for lines in pool.map(work, rows) for line in lines]
    assert len(found) == 320
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_forward_that_raises_midway_leaves_the_next_answers_right(
    tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(tiny, [None, *varied_adapters(tiny, make_adapter)], 20)
    plain: list[tuple[Adapter | None, TokenSequence]] = [(None, inputs) for _, inputs in rows]
    x = torch.ones(1, 20, 32)
    with torch.inference_mode():
        mixed, base = outputs_by_row(tiny, rows), outputs_by_row(tiny, plain)
        for layer in tiny.model.encoder.layer:  # type: ignore[union-attr]
            linear = layer.attention.self.query
            monkeypatch.setattr(layer.intermediate.intermediate_act_fn, "forward", _raise)
            with pytest.raises(RuntimeError, match="midway"):
                outputs_by_row(tiny, rows)
            monkeypatch.undo()
            assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
            for one, other in zip(outputs_by_row(tiny, plain), base, strict=True):
                assert torch.equal(one, other)
        for one, other in zip(outputs_by_row(tiny, rows), mixed, strict=True):
            assert torch.equal(one, other)


def _raise(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("midway")


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_bfloat16_backbones_take_float32_adapters(
    tiny_folder: object, tiny: Backbone, make_adapter: MakeAdapter, kind: str
) -> None:
    half = Backbone.load(str(tiny_folder), dtype="bfloat16", device="cpu")
    adapter = make_adapter(tiny, kind)
    rows = random_rows(tiny, [adapter], 12)
    with torch.inference_mode():
        exact, rounded = outputs_by_row(tiny, rows), outputs_by_row(half, rows)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


# The predictor: names, hot-swap and answers.


def test_predictor_mixes_swaps_and_answers_in_order(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    predictor = Predictor(tiny, varied_adapters(tiny, make_adapter), max_tokens=64)
    rng = random.Random(2)
    requests = [
        (rng.choice([*predictor.names, None, "base"]), " ".join(rng.choices(WORDS, k=8)))
        for _ in range(50)
    ]
    answers = predictor(requests)
    for (name, text), answer in zip(requests, answers, strict=True):
        (alone,) = predictor([(name, text)])
        assert answer["adapter"] == (name or "base") == alone["adapter"]
        if "vector" in answer:
            assert answer["vector"] == pytest.approx(alone["vector"], abs=1e-5)
            assert len(answer["vector"]) == 32
        else:
            assert answer["scores"] == pytest.approx(alone["scores"], abs=1e-5)
            assert sum(answer["scores"].values()) == pytest.approx(1.0)
            assert answer["score"] == max(answer["scores"].values())
    predictor.unload("t0/lora")
    with pytest.raises(UnknownAdapterError, match="there is no adapter 't0/lora'"):
        predictor([("t1/lora", "a"), ("t0/lora", "a")])
    with pytest.raises(UnknownAdapterError, match="t0/lora"):
        predictor.unload("t0/lora")


def test_adding_the_same_name_swaps_the_adapter(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    first, second = (make_adapter(tiny, name="t/x", seed=seed) for seed in (1, 2))
    predictor = Predictor(tiny, [first])
    before = predictor([("t/x", "a card")])
    predictor.add(second)
    after = predictor([("t/x", "a card")])
    assert before != after
    predictor.add(first)
    assert predictor([("t/x", "a card")]) == before


def test_text_pairs_are_two_segments(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    predictor = Predictor(tiny, [make_adapter(tiny)])
    one, two, three = predictor(
        [
            ("acme/intent", ("my card", "the bank")),
            ("acme/intent", ("the bank", "my card")),
            ("acme/intent", "my card the bank"),
        ]
    )
    assert len({one["score"], two["score"], three["score"]}) == 3


def test_long_texts_are_cut_and_say_so(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    predictor = Predictor(tiny, [make_adapter(tiny, "prefix", num_virtual_tokens=20)])
    short, long = predictor([("acme/intent", "tea"), ("acme/intent", "tea " * 500)])
    assert "truncated" not in short
    assert long["truncated"] is True
    (cut,) = predictor([("acme/intent", "tea " * 42)])
    assert cut["scores"] == pytest.approx(long["scores"], abs=1e-6)


@pytest.mark.parametrize(
    "text", ["", "   ", None, 3, (), ("a", ""), ["a", "b", "c"], {"pair": "a"}]
)
def test_what_is_not_a_text_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter, text: object
) -> None:
    predictor = Predictor(tiny, [make_adapter(tiny)])
    with pytest.raises(AdapterkitError, match="text 2"):
        predictor([("acme/intent", "tea"), ("acme/intent", text)])  # type: ignore[list-item]


def test_other_weights_are_refused_by_fingerprint(
    tiny: Backbone, minilm: Backbone, make_adapter: MakeAdapter
) -> None:
    foreign = replace(make_adapter(tiny), fingerprint=minilm.fingerprint, backbone="minilm")
    predictor = Predictor(tiny)
    with pytest.raises(AdapterError, match="was trained on 'minilm'"):
        predictor.add(foreign)
    assert predictor.names == []
    predictor.add(foreign, any_backbone=True)
    assert predictor.names == ["acme/intent"]


def test_the_plain_backbones_name_is_taken(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    with pytest.raises(AdapterkitError, match="cannot be called 'base'"):
        Predictor(tiny, [make_adapter(tiny, name="base")])


def test_batches_stay_within_their_budget() -> None:
    sizes = [5, 5, 5, 30, 1, 1, 20]
    parts = list(by_budget(sizes, 12))
    assert [i for part in parts for i in part] == list(range(7))
    assert all(len(p) == 1 or sum(sizes[i] for i in p) <= 12 for p in parts)
