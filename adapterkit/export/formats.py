"""The formats in which an adapter leaves adapterkit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..adapter.adapter import Adapter
from ..atomic import write_folder
from ..backbone.model import Backbone
from ..backbone.weight_files import SINGLE
from .merged_checkpoint import merged_checkpoint
from .onnx_model import MODEL, check_onnx, check_onnx_model, onnx_model
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


def write_onnx_model(adapter: Adapter, backbone: Backbone, folder: Path) -> Path:
    """Writes an ONNX file that computes what the adapter computes, with tokenizer and settings.

    Raises:
        AdapterError: It would compute something else, or the folder cannot be written.
    """
    check_onnx(adapter)
    files = merged_checkpoint(adapter, backbone)
    with TemporaryDirectory() as drafts:
        checkpoint = write_merged_checkpoint(adapter, backbone, Path(drafts) / "merged")
        files[MODEL] = onnx_model(checkpoint, adapter, backbone)
    del files[SINGLE], files["README.md"]
    check = partial(check_onnx_model, adapter=adapter, backbone=backbone)
    return write_folder(folder, files, check)


FORMATS: Mapping[str, Writer] = {
    "peft": write_peft_folder,
    "merged": write_merged_checkpoint,
    "onnx": write_onnx_model,
}
"""Every format by the name that users give."""
