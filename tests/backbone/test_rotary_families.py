"""Families with rotary positions against plain loops: every method, forward and gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.geometry import ENTRY, LINEAR_SITES, NORM_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.methods.base import methods
from helpers import rotary
from helpers.adapters import MakeAdapter
from helpers.families import save_family
from helpers.plain_loop import check_against_plain_loop
from helpers.sequences import tokenise

TEXTS = ["where is my card", "a", "rain sun tea " * 9]
WIDE = {"hidden_size": 128}
"""Heads of 32 numbers, which the compiled kernel computes; torch computes those of 8."""

MODELS: list[tuple[str, dict[str, int]]] = [
    ("eurobert", {}),
    ("eurobert", WIDE),
    ("nomic_bert", WIDE),
    ("jina_embeddings_v3", {}),
]
"""Model types and measures; GTE has the layers of NomicBERT."""


@pytest.fixture(scope="module", params=MODELS)
def backbone(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Backbone:
    model_type, shape = request.param
    folder = tmp_path_factory.mktemp("rotary") / "backbone"
    save_family(folder, model_type, tiny_folder, **shape)
    return Backbone.load(str(folder), device="cpu")


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 3, "alpha": 2.0},
    "dora": {"r": 3},
    "vera": {"r": 5},
    "ia3": {"feedforward": ("attention_output", "ffn_down")},
    "bitfit": {},
    "ln_tuning": {"targets": (*NORM_SITES, ENTRY)},
    "prefix": {"num_virtual_tokens": 5},
    "pfeiffer": {},
    "houlsby": {"activation": "swish"},
    "parallel": {"scaling": 2.0},
}
"""Methods, the last three of which are placements of a bottleneck."""


def adapter_of(backbone: Backbone, make_adapter: MakeAdapter, method: str) -> Adapter:
    """A random adapter at all linears, on top of a prefix if it is no prefix itself."""
    settings = dict(METHODS[method])
    if method in ("pfeiffer", "houlsby", "parallel"):
        method, settings["placement"] = "bottleneck", method
    if {*LINEAR_SITES} & {*getattr(methods()[method], "targets", ())}:
        settings["targets"] = tuple(backbone.geometry.sites)
    adapter = make_adapter(backbone, method, name="t/top", seed=3, **settings)
    if method == "prefix":
        return adapter
    below = make_adapter(backbone, "prefix", name="t/below", num_virtual_tokens=3)
    return replace(adapter, on_top_of=below)


@pytest.mark.parametrize("method", METHODS)
def test_adapters_equal_the_plain_loop(
    backbone: Backbone, make_adapter: MakeAdapter, method: str
) -> None:
    check_against_plain_loop(
        backbone,
        tokenise(backbone, TEXTS, None, 60),
        partial(adapter_of, backbone, make_adapter, method),
        rotary.logits,
    )
