"""`adapterkit import`, and commands that are given a folder of PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.backbone.model import Backbone
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command


@pytest.fixture
def theirs(tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter) -> Path:
    """A folder as PEFT writes it, of the tiny backbone."""
    adapter = make_adapter(tiny, "lora", labels=("a", "b", "c"), pooling="pooler")
    folder = save_adapter(adapter, "theirs", tiny.geometry)
    for name in (CARD, SUMS):
        (folder / name).unlink()
    change(folder, base_model_name_or_path=str(tiny_folder), task_type="SEQ_CLS")
    return folder


def change(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def test_a_folder_of_peft_becomes_an_adapter_of_the_store(
    theirs: Path, tiny: Backbone, tiny_folder: Path
) -> None:
    found = run_command(
        *("import", theirs, "--name", "shop/intent", "--labels", "yes,no,其他", "--store", "shelf"),
        "--json",
    )
    assert found.json["task"] == "classification"
    adapter = load_adapter("shelf/shop/intent/1", tiny)
    assert adapter.fingerprint == tiny.fingerprint
    assert adapter.task.labels == ("yes", "no", "其他")  # type: ignore[attr-defined]
    assert adapter.training["imported"] == {"peft_type": "LORA", "base_model": str(tiny_folder)}
    direct = load_adapter(theirs, tiny, any_backbone=True)
    assert all(torch.equal(adapter.tensors[n], direct.tensors[n]) for n in direct.tensors)
    answer = run_command("predict", "shop/intent", "where is my card", "--store", "shelf", "--json")
    assert set(answer.json[0]["scores"]) == {"yes", "no", "其他"}


def test_a_folder_of_peft_is_answered_over_its_own_base_model(theirs: Path) -> None:
    """`--any-backbone` accepts weights that are not known; it is no choice of a backbone."""
    found = run_command("predict", theirs, "where is my card", "--any-backbone", "--json")
    assert set(found.json[0]["scores"]) == {"LABEL_0", "LABEL_1", "LABEL_2"}
    change(theirs, base_model_name_or_path="/no/such/model")
    assert_refused("predict", theirs, "a", "--any-backbone", words="/no/such/model")
    change(theirs, base_model_name_or_path=None)
    assert_refused("predict", theirs, "a", "--any-backbone", words="name the model with --backbone")


def test_what_does_not_fit_is_one_line(theirs: Path) -> None:
    folder = str(theirs)
    assert_refused("import", folder, "--name", "a/b/c/d", words="a/b/c/d")
    assert_refused("import", folder, "--name", "x", "--labels", "a,b", words="labels: 2 names")
    assert_refused("import", folder, "--name", "x", "--problem", "rank", words="single_label")
    assert_refused("import", "no/folder", "--name", "x", words="no/folder")
    assert_refused("predict", folder, "a", words="adapterkit import")
    assert not Path("adapters").exists()
