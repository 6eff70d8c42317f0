"""`adapterkit convert` loads tensors alone, and writes what it has read as safetensors."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.command_line import assert_refused, run_command

PEFT, HUB, HUB_HEAD = "adapter_model.bin", "pytorch_adapter.bin", "pytorch_model_head.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "theirs"
    found.mkdir()
    (found / "adapter_config.json").write_text("{}")
    return found


def tensors() -> OrderedDict[str, torch.Tensor]:
    whole = torch.arange(24.0).view(4, 6)
    return OrderedDict(a=whole, view=whole.T[1:3], half=whole[0].half(), index=torch.arange(3))


def test_tensors_are_written_beside_the_pickled_ones(folder: Path) -> None:
    for name in (PEFT, HUB, HUB_HEAD, "pytorch_model_adapter_fusion.bin"):
        torch.save(tensors(), folder / name)
    torch.save(tensors(), folder / "old.bin", _use_new_zipfile_serialization=False)
    (folder / "old.bin").replace(folder / HUB)
    (folder / "training_args.bin").write_bytes(b"not weights")
    written = [Path(file) for file in run_command("convert", folder, "--json").json["files"]]
    names = ["adapter.safetensors", "adapter_model.safetensors", "model_adapter_fusion.safetensors"]
    assert [file.name for file in written] == [*names, "model_head.safetensors"]
    for file in written:
        found = load_file(file)
        assert found.keys() == tensors().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert_refused("convert", folder, words="is there already; nothing was converted")


def test_a_new_folder_gets_the_other_files_too(folder: Path) -> None:
    torch.save(tensors(), folder / PEFT)
    (folder / "notes.txt").write_text("x")
    assert run_command("convert", folder, "--output", "new").code == 0
    assert sorted(os.listdir("new")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(os.listdir(folder)) == ["adapter_config.json", PEFT, "notes.txt"]
    assert_refused("convert", folder, "--output", "new", words="something is there already")


class Program:
    """What an attacker pickles: a folder is made when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("attacked",)


CONTENTS: dict[str, tuple[Any, str]] = {
    "a program": (Program(), "which is never loaded"),
    "a program among tensors": ({"a": torch.zeros(2), "b": Program()}, "which is never loaded"),
    "a module": (torch.nn.Linear(2, 2), "which is never loaded"),
    "a list": ([torch.zeros(2)], "holds list, expected tensors by name"),
    "nothing": ({}, "holds dict, expected tensors by name"),
    "a number": ({"a": torch.zeros(2), "n": 3}, "'n' is no tensor"),
    "inner weights": ({"state": {"a": torch.zeros(2)}}, "'state' is no tensor"),
    "tensors by number": ({1: torch.zeros(2)}, "1 is no tensor"),
    "a sparse tensor": ({"a": torch.eye(3).to_sparse()}, "'a' is no dense tensor"),
    "no numbers": ({"a": torch.empty(3, device="meta")}, "'a' is no dense tensor"),
    "complex numbers": ({"a": torch.zeros(2, dtype=torch.complex128)}, "'a' is no dense tensor"),
    "one number as many": ({"a": torch.zeros(1).expand(10**12)}, "4000000000000 bytes"),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_what_holds_more_than_tensors_is_refused(what: str, folder: Path) -> None:
    content, words = CONTENTS[what]
    torch.save(content, folder / PEFT)
    assert_refused("convert", folder, words=words)


def test_what_is_no_weights_file_is_refused(folder: Path) -> None:
    assert_refused("convert", folder, words="no pickled weights, such as adapter_model.bin")
    assert_refused("convert", folder / "none", words="there is no such folder")
    torch.save(tensors(), folder / "whole")
    content = (folder / "whole").read_bytes()
    for part in (b"", b"PK\x03\x04", content[:300], content[:-40], pickle.dumps(Program())):
        (folder / PEFT).write_bytes(part)
        assert_refused("convert", folder, words="damaged, or it holds more than tensors")
    (folder / PEFT).unlink()
    os.mkfifo(folder / PEFT)
    assert_refused("convert", folder, words="not a regular file")
