"""Pickled weights files of other programs, converted to safetensors: only tensors are loaded.

Nothing else in adapterkit opens such a file. Loading one as Python does would run what its author
wants. `torch.load(weights_only=True)` builds tensors and plain containers, and refuses the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..atomic import write_folder, write_output
from ..backbone.regular_file import check_regular_file
from ..errors import AdapterError, is_out_of_memory
from .checksums import LARGEST_FILE
from .weights import FLOATS, INTEGERS

DTYPES = (*FLOATS, *INTEGERS, torch.float64, torch.int8, torch.bool)

PICKLED = re.compile(r"(?:pytorch_)?(?P<stem>(?:adapter|model)\w*)\.bin")
"""Pickled weights of PEFT and AdapterHub, which name the same tensors as safetensors `stem`."""

COPIED = re.compile(r"\w+\.json|README\.md|\w+\.safetensors")
"""Files of an adapter folder that a converted one needs as well."""

LARGEST_COPY = 2**20
"""The largest file of settings or text, in bytes."""


def convert_folder(folder: Path, output: Path | None = None) -> list[Path]:
    """Writes the pickled weights of an adapter folder as safetensors.

    Args:
        folder: The folder, of PEFT or AdapterHub.
        output: A new folder for them, with the other files of the adapter; if omitted, they are
            written beside the pickled ones.

    Returns:
        The files, in the order of their names.

    Raises:
        AdapterError: It has no pickled weights, or they hold more than tensors; or a file is there
            already, or cannot be written.
    """
    if not folder.is_dir():
        raise AdapterError(f"{folder}: there is no such folder")
    names = sorted(path.name for path in folder.iterdir())
    targets = {name: f"{match['stem']}.safetensors" for name in names if (match := _match(name))}
    if not targets:
        raise AdapterError(
            f"{folder}: no pickled weights, such as adapter_model.bin or pytorch_adapter.bin"
        )
    for target in targets.values():
        if target in names:
            raise AdapterError(f"{folder / target}: is there already; nothing was converted")
    files = {
        target: to_safetensors(read_pickled(folder / name), metadata={"format": "pt"})
        for name, target in targets.items()
    }
    if output is None:
        for name, content in files.items():
            write_output(folder / name, content)
    else:
        write_folder(output, {**_other_files(folder, names), **files})
    return [(output or folder) / name for name in sorted(files)]


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled weights file, on the CPU; nothing else of it is loaded.

    Args:
        path: The file.

    Raises:
        AdapterError: It is missing, too large, damaged, or holds more than tensors by name.
    """
    check_regular_file(path, LARGEST_FILE, AdapterError)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds
        if is_out_of_memory(error) or isinstance(error, OSError):
            raise
        raise AdapterError(
            f"{path}: damaged, or it holds more than tensors, which is never loaded"
        ) from None
    return _checked(content, path)


def _match(name: str) -> re.Match[str] | None:
    return PICKLED.fullmatch(name)


def _checked(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors, each with memory of its own as safetensors needs it.

    Raises:
        AdapterError: The content is something else than plain tensors by name, or they are larger
            than the largest file.
    """
    if not isinstance(content, Mapping) or not content:
        raise AdapterError(f"{path}: holds {type(content).__name__}, expected tensors by name")
    n_bytes = 0
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise AdapterError(f"{path}: {name!r:.80} is no tensor; only tensors are converted")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
            raise AdapterError(f"{path}: {name!r:.80} is no dense tensor of ordinary numbers")
        n_bytes += tensor.numel() * tensor.element_size()  # one number may stand for many
    if n_bytes > LARGEST_FILE:
        raise AdapterError(f"{path}: {n_bytes} bytes of tensors, more than {LARGEST_FILE}")
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in content.items()
    }


def _other_files(folder: Path, names: list[str]) -> dict[str, bytes]:
    """The files of an adapter folder beside its pickled weights, name to content."""
    found = {}
    for name in filter(COPIED.fullmatch, names):
        is_weights = name.endswith(".safetensors")
        check_regular_file(
            folder / name, LARGEST_FILE if is_weights else LARGEST_COPY, AdapterError
        )
        found[name] = (folder / name).read_bytes()
    return found
