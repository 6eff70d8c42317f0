"""The formats of other libraries in which an adapter leaves adapterkit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..adapter.adapter import Adapter
from ..atomic import write_folder
from ..backbone.model import Backbone
from .merged_checkpoint import merged_checkpoint
from .peft_folder import peft_folder
from .verification import check_checkpoint

Writer = Callable[[Adapter, Backbone, Path], Path]
"""Writes an adapter of a backbone to a new folder, which it returns."""


def write_peft_folder(adapter: Adapter, backbone: Backbone, folder: Path) -> Path:
    """Writes a folder with which PEFT computes what the adapter computes.

    Raises:
        AdapterError: PEFT would compute something else, or the folder cannot be written.
    """
    return write_folder(folder, peft_folder(adapter, backbone))


def write_merged_checkpoint(adapter: Adapter, backbone: Backbone, folder: Path) -> Path:
    """Writes a checkpoint with which transformers computes what the adapter computes.

    Raises:
        AdapterError: It would compute something else, or the folder cannot be written.
    """
    check = partial(check_checkpoint, adapter=adapter, backbone=backbone)
    return write_folder(folder, merged_checkpoint(adapter, backbone), check)


FORMATS: Mapping[str, Writer] = {
    "peft": write_peft_folder,
    "merged": write_merged_checkpoint,
}
"""The formats of one adapter by the name that users give; those of runtimes are in `RUNTIMES`."""
