"""The folders that AdapterHub's library wrote, and what it computed with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from helpers.paths import ROOT
from helpers.sequences import logits_of

FOLDERS = ROOT / "tests" / "fixtures" / "adapterhub"


@cache
def backbone_of(family: str) -> Backbone:
    return Backbone.load(str(FOLDERS / family / "base"), device="cpu")


@cache
def facts() -> dict[str, Any]:
    """The texts, and how the library's tokenizer divided them."""
    content: dict[str, Any] = json.loads((FOLDERS / "texts.json").read_text(encoding="utf-8"))
    return content


def library_outputs() -> dict[str, torch.Tensor]:
    """Name of a folder to the library's logits, or mean states, of all texts."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(FOLDERS / "expected.safetensors")
    return found


def own_outputs(adapter: Adapter, backbone: Backbone) -> torch.Tensor:
    """The same of an adapter of ours."""
    rows = [TokenSequence(ids, [0] * len(ids)) for ids in facts()["input_ids"]]
    return logits_of(backbone, adapter, rows)


def changed_folder(
    kind: str, to: Path, whole: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """A copy of a folder of BERT's with other settings.

    Args:
        kind: Name of the folder.
        to: The copy.
        whole: Changes of `adapter_config.json` itself.
        changes: Changes of the settings of the method in it.
    """
    shutil.copytree(FOLDERS / "bert" / kind, to)
    change_settings(to / "adapter_config.json", changes, whole or {})
    return to


def change_settings(
    file: Path, changes: Mapping[str, Any], whole: Mapping[str, Any] | None = None
) -> None:
    """Changes the settings in a file of the library, and what stands beside them."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **(whole or {})}
    content["config"] = {**content["config"], **changes}
    file.write_text(json.dumps(content), encoding="utf-8")
