"""One text, many adapters: what lies below them is computed once, and no answer changes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence, pack
from adapterkit.inference.forward import forward
from adapterkit.inference.predictor import Predictor
from adapterkit.inference.shared_layers import StateCache, sharing_depth
from adapterkit.methods.lora import LoRA
from adapterkit.ops.bucketing import bucket_for_onednn
from helpers.adapters import MakeAdapter, varied_adapters
from helpers.joint_training import (
    assert_equals_solo,
    assert_same_weights,
    recipe_for,
    train_alone,
    train_together,
    with_changes,
    write_rows,
)
from helpers.sequences import outputs_by_row, tokenise
from helpers.vocabulary import WORDS

Rows = list[tuple[Adapter | None, TokenSequence]]


@pytest.fixture
def below(tiny: Backbone) -> Iterator[list[int]]:
    """Tokens that went through the first layer, call by call, with those that fill a batch up."""
    seen: list[int] = []
    layer: Any = tiny.model.encoder.layer[0]  # type: ignore[union-attr, index]
    handle = layer.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    yield seen
    handle.remove()


def top(backbone: Backbone, make_adapter: MakeAdapter, n: int = 16) -> list[Adapter]:
    """Adapters of the upper layers alone, of several methods, ranks and numbers of labels."""
    plans: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"layers": (1, 2)}),
        ("lora", {"layers": (1, 2), "r": 3, "targets": ("query", "ffn_down")}),
        ("bottleneck", {"layers": (1, 2), "size": 5}),
        ("lora", {"layers": (2,), "r": 2}),
    ]
    return [
        make_adapter(
            backbone,
            plans[place % 4][0],
            name=f"top{place}",
            seed=place,
            labels=tuple(f"l{i}" for i in range(2 + place % 3)),
            **plans[place % 4][1],
        )
        for place in range(n)
    ]


def texts(backbone: Backbone, n: int) -> list[TokenSequence]:
    rng = random.Random(4)
    return tokenise(
        backbone, [" ".join(rng.choices(WORDS, k=rng.randint(2, 20))) for _ in range(n)], None, 40
    )


def shuffled_rows(adapters: list[Adapter | None], inputs: list[TokenSequence]) -> Rows:
    rows: Rows = [(adapter, row) for adapter in adapters for row in inputs]
    return random.Random(3).sample(rows, len(rows))


def test_sixteen_adapters_answer_as_in_sixteen_passes(
    anywhere: Backbone, make_adapter: MakeAdapter
) -> None:
    rows = shuffled_rows([*top(anywhere, make_adapter)], texts(anywhere, 5))
    with torch.inference_mode():
        together = outputs_by_row(anywhere, rows)
        alone = [outputs_by_row(anywhere, [row])[0] for row in rows]
    for row_together, row_alone in zip(together, alone, strict=True):
        torch.testing.assert_close(row_together, row_alone, rtol=1e-6, atol=1e-6)


def test_shared_texts_go_through_the_lower_layers_once(
    tiny: Backbone, make_adapter: MakeAdapter, below: list[int]
) -> None:
    inputs = texts(tiny, 5)
    with torch.inference_mode():
        forward(tiny, shuffled_rows([*top(tiny, make_adapter)], inputs))
        assert below == [bucket_for_onednn(sum(map(len, inputs)))]
        below.clear()
        forward(tiny, shuffled_rows([None, *varied_adapters(tiny, make_adapter)[:3]], inputs))
        assert below == [
            bucket_for_onednn(4 * sum(map(len, inputs)))
        ]  # the adapters act from the first layer on
        below.clear()
        forward(tiny, shuffled_rows([*top(tiny, make_adapter, 1)], inputs))
        assert below == [bucket_for_onednn(sum(map(len, inputs)))]


def test_rows_that_do_not_share_may_stand_between(
    anywhere: Backbone, make_adapter: MakeAdapter
) -> None:
    everyone = [None, *varied_adapters(anywhere, make_adapter), *top(anywhere, make_adapter)]
    rows = shuffled_rows(everyone, texts(anywhere, 3))
    with torch.inference_mode():
        mixed = outputs_by_row(anywhere, rows)
        alone = [outputs_by_row(anywhere, [row])[0] for row in rows]
        order = random.Random(1).sample(range(len(rows)), len(rows))
        shuffled = outputs_by_row(anywhere, [rows[i] for i in order])
    for place, row in enumerate(order):
        torch.testing.assert_close(shuffled[place], mixed[row], rtol=1e-5, atol=1e-5)
    for one, other in zip(mixed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_through_shared_texts_are_gradients_solo(
    anywhere: Backbone, make_adapter: MakeAdapter
) -> None:
    grads = []
    for together in (True, False):
        adapters: list[Any] = [
            *varied_adapters(anywhere, make_adapter)[:6],
            *top(anywhere, make_adapter),
        ]
        for adapter in adapters:
            for tensor in (*adapter.tensors.values(), *adapter.head.values()):
                tensor.requires_grad_()
        rows = shuffled_rows(adapters, texts(anywhere, 2))
        for group in [rows] if together else [[row] for row in rows]:
            torch.stack(
                [(line**2).sum() for line in outputs_by_row(anywhere, group)]
            ).sum().backward()
        grads.append([t.grad for a in adapters for t in (*a.tensors.values(), *a.head.values())])
    for mixed, solo in zip(*grads, strict=True):
        assert mixed is not None
        assert solo is not None
        scale = max(float(solo.abs().max()), 1e-6)
        torch.testing.assert_close(mixed / scale, solo / scale, rtol=1e-5, atol=3e-5)


@dataclass(frozen=True)
class Shifted(LoRA):
    """A method of the upper layers whose texts begin at another position."""

    type: ClassVar[str] = "shifted"

    @property
    def num_virtual_tokens(self) -> int:
        return 7


def test_texts_at_other_positions_are_other_texts(
    tiny: Backbone, make_adapter: MakeAdapter, below: list[int]
) -> None:
    adapters = top(tiny, make_adapter, 1) * 2
    adapters[1] = replace(adapters[0], name="shifted", method=Shifted(layers=(1, 2)))
    inputs = texts(tiny, 3)
    rows = shuffled_rows([*adapters, replace(adapters[0]), replace(adapters[1])], inputs)
    with torch.inference_mode():
        together = outputs_by_row(tiny, rows)
        assert below == [bucket_for_onednn(2 * sum(map(len, inputs)))]
        alone = [outputs_by_row(tiny, [row])[0] for row in rows]
    for row_together, row_alone in zip(together, alone, strict=True):
        torch.testing.assert_close(row_together, row_alone, rtol=1e-6, atol=1e-6)
    first, moved = (
        torch.stack([line for line, (owner, _) in zip(together, rows, strict=True) if owner is a])
        for a in adapters
    )
    assert not torch.allclose(first, moved)


def test_token_types_are_part_of_a_text(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    (row,) = tokenise(tiny, ["my card the bank"], None, 40)
    pair = replace(row, token_type_ids=[0, 0, 0, 1, 1, 1])
    adapters = top(tiny, make_adapter, 4)
    rows: Rows = [(adapter, inputs) for adapter in adapters for inputs in (row, pair)]
    with torch.inference_mode():
        together = outputs_by_row(tiny, rows)
        alone = [outputs_by_row(tiny, [row])[0] for row in rows]
    for row_together, row_alone in zip(together, alone, strict=True):
        torch.testing.assert_close(row_together, row_alone, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(together[0], together[1])


def test_threads_share_without_mixing_up(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    predictor = Predictor(tiny, top(tiny, make_adapter))
    lines = [" ".join(random.Random(n).choices(WORDS, k=8)) for n in range(8)]
    requests = [[(name, line) for name in predictor.names] for line in lines]
    expected = [[predictor([one])[0] for one in part] for part in requests]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor, requests * 5))
    for answers, solo in zip(found, expected * 5, strict=True):
        for answer, other in zip(answers, solo, strict=True):
            assert answer["adapter"] == other["adapter"]
            assert answer["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_the_layer_that_saves_most_is_chosen() -> None:
    rows = [TokenSequence([1] * n, [0] * n) for n in (4, 4, 4, 4, 4)]
    packed = pack(rows, [0, 1, 2, 3, 4], [0] * 5)
    same, different = ["a"] * 5, list("abcde")
    assert sharing_depth(packed, same, [0, 0, 0, 0, 0], 6) == 0
    assert sharing_depth(packed, different, [3, 3, 3, 6, 6], 6) == 0
    assert sharing_depth(packed, same, [3, 3, 3, 3, 3], 6) == 3
    assert sharing_depth(packed, same, [0, 3, 3, 5, 5], 6) == 3  # 3 layers x 3 rows over 5 x 1
    assert sharing_depth(packed, same, [2, 5, 5, 5, 5], 6) == 5
    assert sharing_depth(packed, different, [0, 0, 2, 2, 0], 6, repeated=False) == 2
    many_rows = pack([*rows, TokenSequence([1] * 900, [0] * 900)], [0, 1, 2, 3, 4, 5], [0] * 6)
    assert sharing_depth(many_rows, [*same, "b"], [3, 3, 3, 3, 3, 0], 6) == 0  # not worth it


# Training: what lies below the adapter is kept from epoch to epoch.


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_training_with_and_without_the_cache_is_the_same(
    tiny: Backbone, method: str, below: list[int]
) -> None:
    recipe = recipe_for(
        "t/top",
        write_rows(1, 40),
        {"type": method, "layers": [1, 2], **({"dropout": 0.2} if method == "lora" else {})},
        {"dropout": 0.2},
        epochs=4,
        accumulation=2,
    )
    cached, calls = train_alone(recipe, tiny), len(below)
    below.clear()
    plain = train_alone(with_changes(recipe, training={"cache_mb": 0}), tiny)
    # 4 epochs of 4 batches in 2 pieces, one check each, and the last one
    assert (calls, len(below)) == (1 * 4 * 2 + 5, 4 * 4 * 2 + 5)
    for (_, one), (_, other) in zip(
        cached.training["losses"], plain.training["losses"], strict=True
    ):
        assert one == pytest.approx(other, abs=2e-6)  # they are rounded to 1e-6
    assert_same_weights(cached, plain, tolerance=1e-5)


def test_an_adapter_of_all_layers_keeps_nothing(tiny: Backbone, below: list[int]) -> None:
    recipe = recipe_for("t/all", write_rows(1, 40), epochs=2)
    train_alone(recipe, tiny)
    assert len(below) == 2 * 4 + 3


def test_joint_training_shares_texts_and_cache(tiny: Backbone) -> None:
    rows = write_rows(1, 40)
    lora: dict[str, Any] = {"type": "lora", "dropout": 0.3}
    recipes = [
        recipe_for("a", rows, {**lora, "layers": [1, 2]}, {"dropout": 0.3}, epochs=3),
        recipe_for("b", rows, {**lora, "layers": [1, 2]}, epochs=2, seed=1),
        recipe_for("c", rows, lora, {"dropout": 0.3}, epochs=3),
        recipe_for("d", rows, {"type": "bottleneck", "layers": [2]}, epochs=3, seed=3),
        recipe_for("e", rows, {"type": "prefix"}, epochs=3, seed=3),
    ]
    for cache in (1024, 0):
        some = [with_changes(recipe, training={"cache_mb": cache}) for recipe in recipes]
        for together, recipe in zip(train_together(some, tiny), some, strict=True):
            solo = train_alone(with_changes(recipe, training={"cache_mb": 0}), tiny)
            assert_equals_solo(together, solo)


def test_a_memory_keeps_no_more_than_its_bytes(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    (adapter,) = top(tiny, make_adapter, 1)
    inputs = texts(tiny, 6)
    memory = StateCache(max_bytes=3 * 4 * 32 * max(map(len, inputs)))
    expected = forward(tiny, [(adapter, row) for row in inputs])[0].values
    for _ in range(3):
        (piece,) = forward(tiny, [(adapter, row) for row in inputs], None, memory)
        torch.testing.assert_close(piece.values, expected, rtol=1e-6, atol=1e-6)
        assert 0 < memory.n_bytes <= memory.max_bytes
    known = [memory.get(1, (0, tuple(row.input_ids), tuple(row.token_type_ids))) for row in inputs]
    assert 0 < sum(states is not None for states in known) < len(inputs)
    assert memory.n_bytes == sum(states.nbytes for states in known if states is not None)


def test_pairs_and_windows_are_kept_apart(tiny: Backbone) -> None:
    path = Path("pairs.jsonl").resolve()
    lines = [
        {"text": "card " * (1 + n % 40), "text_pair": WORDS[n], "label": "ab"[n % 2]}
        for n in range(30)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    recipe = recipe_for(
        "t/pairs",
        str(path),
        {"type": "lora", "layers": [2]},
        {"long_text": "windows", "max_length": 16, "stride": 4},
        epochs=3,
    )
    recipe = with_changes(recipe, data={"text_pair": "text_pair"})
    cached = train_alone(recipe, tiny)
    assert_same_weights(
        cached, train_alone(with_changes(recipe, training={"cache_mb": 0}), tiny), tolerance=1e-5
    )
