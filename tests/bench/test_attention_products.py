"""The products of attention that a benchmark counts, against plain formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from adapterkit.backbone.attention_shape import AttentionShape
from adapterkit.backbone.model import Backbone
from adapterkit.bench.attention_products import (
    LOCAL_BLOCK,
    TILE,
    BatchedProduct,
    attention_alone,
    attention_products,
    products_of,
)
from adapterkit.bench.systems import linear_flops
from helpers.families import save_family
from helpers.modernbert import SMALL, save_random_modernbert

LENGTHS = (TILE + 44, 5, 5)


def load_family(model_type: str, tiny_folder: Path, **shape: int) -> Backbone:
    folder = save_family(Path("model"), model_type, tiny_folder, "AutoModel", **shape)
    return Backbone.load(str(folder), device="cpu", prepared=False)


def counted(backbone: Backbone) -> int:
    """Multiply-adds of all products for rows of `LENGTHS`."""
    found = attention_products(backbone, LENGTHS)
    return sum(product.multiply_adds * count for product, count in found.items())


def local_pairs(length: int, window: int) -> int:
    """Pairs of a query and a key that some query of its block attends to; all in a short row."""
    token = torch.arange(length)
    is_near = (token[:, None] - token[None]).abs() <= window
    return sum(len(block) * int(block.any(0).sum()) for block in is_near.split(LOCAL_BLOCK))


def test_full_layers_multiply_every_pair_twice(tiny: Backbone) -> None:
    """Scores and weighted values take d multiply-adds for each pair and head: together 2 n n h."""
    geometry = tiny.geometry
    expected = sum(2 * n * n * geometry.hidden for n in LENGTHS) * geometry.layers
    assert counted(tiny) == expected


def test_heads_that_share_keys_are_multiplied_one_by_one(tiny_folder: Path) -> None:
    backbone = load_family("eurobert", tiny_folder)
    assert backbone.geometry.key_value_width < backbone.geometry.hidden
    assert counted(backbone) == sum(2 * n * n * 32 for n in LENGTHS) * 3


def test_local_layers_multiply_the_keys_within_reach(tiny_folder: Path) -> None:
    folder = save_random_modernbert(Path("model"), tiny_folder)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    config: Any = backbone.model.config
    kinds, window = config.layer_types, SMALL["local_attention"] // 2
    n_local = kinds.count("sliding_attention")
    assert 0 < n_local < len(kinds)
    pairs = sum(n_local * local_pairs(n, window) + (len(kinds) - n_local) * n * n for n in LENGTHS)
    assert counted(backbone) == 2 * pairs * backbone.geometry.hidden


def test_positions_are_multiplied_once_a_bucket(tiny_folder: Path) -> None:
    """DeBERTa has two further scores for each token and each bucket of the row's distances."""
    backbone = load_family("deberta-v2", tiny_folder, max_position_embeddings=TILE + 44)
    products = 0
    for n in LENGTHS:
        buckets = make_log_bucket_position(torch.arange(1 - n, n), 8, 40).clamp(-8, 7).unique()
        products += 2 * n * n + 2 * n * len(buckets)
    assert counted(backbone) == products * 32 * 3


def test_a_row_shorter_than_the_window_is_one_full_product() -> None:
    local, full = AttentionShape(heads=2, width=8, window=16), AttentionShape(heads=2, width=8)
    assert list(products_of(local, 17)) == list(products_of(full, 17))
    assert list(products_of(full, 17)) == [(2, 17, 8, 17), (2, 17, 17, 8)]


def test_the_counted_products_are_computed(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[BatchedProduct] = []

    def multiply(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        heads, rows, inner = left.shape
        found.append(BatchedProduct(heads, rows, inner, right.shape[2]))
        assert out.shape == (*left.shape[:2], right.shape[2])

    run = attention_alone(tiny, LENGTHS)
    monkeypatch.setattr(torch, "bmm", multiply)
    run()
    assert sorted(found) == sorted(attention_products(tiny, LENGTHS).elements())


def test_linears_that_layers_share_count_in_every_layer(tiny_folder: Path) -> None:
    backbone = load_family("albert", tiny_folder)
    assert len(backbone.linears) < len(backbone.computed_linears)
    assert linear_flops(backbone) == 2 * 3 * (4 * 32 * 32 + 2 * 32 * 48)
