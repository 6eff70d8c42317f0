"""`adapterkit import`, and commands that are given a folder of PEFT or AdapterHub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.backbone.model import Backbone
from helpers.adapterhub import FOLDERS, backbone_of, library_outputs, own_outputs
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
        *(
            "import",
            theirs,
            "--name",
            "shop/intent",
            "--labels",
            "yes, no,其他",
            "--store",
            "shelf",
        ),
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
    words = "--labels 'a,,b': expected names with commas between them"
    assert_refused("import", folder, "--name", "x", "--labels", "a,,b", words=words)
    assert_refused("import", folder, "--name", "x", "--problem", "rank", words="single_label")
    assert_refused("import", "no/folder", "--name", "x", words="no/folder")
    assert_refused("predict", folder, "a", words="adapterkit import")
    assert not Path("adapters").exists()


def test_an_adapter_of_ours_is_not_imported_without_its_card(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    ours = save_adapter(make_adapter(tiny, pooling="pooler"), "ours", tiny.geometry)
    words = "`adapterkit compose ours --name x` publishes it as it is"
    assert_refused("import", ours, "--name", "x", words=words)


BERT = FOLDERS / "bert"
OVER_BERT = ("--backbone", BERT / "base")


def test_a_union_of_adapterhub_becomes_a_stack_of_the_store() -> None:
    name = ("--name", "shop/intent")
    found = run_command("import", BERT / "mix_and_match", *name, *OVER_BERT, "--json")
    assert found.json["task"] == "classification"
    backbone = backbone_of("bert")
    adapter = load_adapter("adapters/shop/intent/1", backbone)
    assert [part.name for part in adapter.stack] == ["shop/intent-prefix", "shop/intent"]
    assert {part.fingerprint for part in adapter.stack} == {backbone.fingerprint}
    assert adapter.training["imported"] == {"architecture": "union", "base_model": "base"}
    expected = library_outputs()["bert.mix_and_match"]
    torch.testing.assert_close(own_outputs(adapter, backbone), expected, rtol=0, atol=2e-5)
    answer = run_command("predict", "shop/intent", "where is my card", *OVER_BERT, "--json")
    direct = run_command(
        *("predict", BERT / "mix_and_match", "where is my card"),
        *(*OVER_BERT, "--any-backbone", "--json"),
    )
    assert set(answer.json[0]["scores"]) == {"refund", "delivery", "other"}
    assert answer.json[0]["scores"] == pytest.approx(direct.json[0]["scores"], abs=1e-5)


def test_a_stack_of_adapterhub_is_imported_from_below() -> None:
    run_command("import", BERT / "stack_low", "--name", "shop/en", *OVER_BERT)
    top = ("import", BERT / "stack_top", "--name", "shop/top", *OVER_BERT)
    found = run_command(*top, "--on-top-of", "shop/en")
    assert "shop/top" in found.out
    adapter = load_adapter("adapters/shop/top/1", backbone_of("bert"))
    expected = library_outputs()["bert.stack_top"]
    found_outputs = own_outputs(adapter, backbone_of("bert"))
    torch.testing.assert_close(found_outputs, expected, rtol=0, atol=2e-5)
    assert_refused(*top, "--on-top-of", "shop/other", words="shop/other")


def test_pickled_weights_of_adapterhub_are_converted_first() -> None:
    folder = Path("theirs")
    shutil.copytree(BERT / "prefix_flat", folder)
    for safe, pickled in (
        ("adapter.safetensors", "pytorch_adapter.bin"),
        ("model_head.safetensors", "pytorch_model_head.bin"),
    ):
        torch.save(load_file(folder / safe), folder / pickled)
        (folder / safe).unlink()
    command = ("import", folder, "--name", "shop/intent", *OVER_BERT)
    assert_refused(*command, words="adapterkit convert theirs")
    run_command("convert", folder)
    run_command(*command)
    adapter = load_adapter("adapters/shop/intent/1", backbone_of("bert"))
    expected = library_outputs()["bert.prefix_flat"]
    found = own_outputs(adapter, backbone_of("bert"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_peft_has_no_stacks(theirs: Path) -> None:
    run_command("import", theirs, "--name", "shop/intent")
    assert_refused(
        *("import", theirs, "--name", "shop/top", "--on-top-of", "shop/intent"),
        words="PEFT has no stacks",
    )
