"""An adapter that was trained is kept, also if the store does not take it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.publication import publish_or_keep
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.names import ALIASES
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command, write_recipe


def test_an_adapter_is_published(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    store = Store("shelf")
    assert publish_or_keep(make_adapter(tiny), store, tiny.geometry) == store.path("acme/intent@1")


def test_an_adapter_that_is_not_published_is_kept_in_a_named_folder(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    Path("shelf/acme/intent", ALIASES).mkdir(parents=True)
    adapter = make_adapter(tiny)
    with pytest.raises(
        AdapterError, match=r"aliases\.json: cannot be written.*; it is kept in"
    ) as e:
        publish_or_keep(adapter, Store("shelf"), tiny.geometry)
    kept = load_adapter(re.findall(r"kept in (\S+)$", str(e.value))[0], tiny)
    assert all(torch.equal(kept.tensors[name], t) for name, t in adapter.tensors.items())


def test_training_keeps_the_adapters_that_cannot_be_published(tiny_folder: Path) -> None:
    Path("store/acme/topic", ALIASES).mkdir(parents=True)
    recipes = [
        write_recipe(tiny_folder, name=f"acme/{name}").rename(f"{name}.yaml")
        for name in ("topic", "other")
    ]
    result = run_command("train", *recipes, "--output", "store")
    assert result.code == 2
    assert "'acme/topic' was not published: store/acme/topic/aliases.json" in result.err
    (folder,) = Path().glob("unpublished-acme-topic-*")
    assert str(folder) in result.err
    assert Store("store").names() == ["acme/other"], "the others are published"
