"""Weights files of an adapter folder: safetensors, read with every tensor checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from ..atomic import file_digest
from ..errors import AdapterError
from ..methods.base import Tensors
from ..schema import LARGEST_FACTOR

WEIGHTS = "adapter_model.safetensors"
"""An adapter's weights; of an ensemble those of its first member."""

MEMBERS = "members"
"""Folder of the weights of an ensemble's further members; nothing else may be in it."""

LARGEST_FILE = 2**32
"""Bytes of a weights file above which it is not read. Adapters have megabytes."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor in the file to its shape there."""


def member_file(number: int) -> str:
    """The weights file of an ensemble's member, counted from 0."""
    return f"{MEMBERS}/{number}.safetensors" if number else WEIGHTS


def read_weights(folder: Path, name: str = WEIGHTS) -> Tensors:
    """The tensors of an adapter folder's weights file, not checked.

    Args:
        folder: The folder.
        name: The file.

    Raises:
        AdapterError: The file is missing, pickled, truncated or not safetensors.
    """
    path = folder / name
    if not path.is_file():
        suffixes = (".bin", ".pt", ".pth", ".pkl")
        pickled = next((p.name for p in folder.iterdir() if p.suffix in suffixes), None)
        hint = (
            f"; {pickled} is pickled, and pickled weights are never loaded: `adapterkit convert "
            f"{folder}` writes its tensors as safetensors"
        )
        raise AdapterError(f"{folder}: {name} is missing{hint if pickled else ''}")
    try:
        return _tensors(path)
    except ValueError as error:
        raise AdapterError(f"{path}: {error}") from None


def read_member(folder: Path, number: int, digest: str, shapes: Shapes) -> Tensors:
    """The tensors of an ensemble's further member.

    Args:
        folder: The adapter folder.
        number: The member, counted from 0 for the first.
        digest: Digest of the file in the adapter's card.
        shapes: Its tensors must have these names and shapes.

    Raises:
        AdapterError: The file is missing, damaged, or another one than the card names.
    """
    name = member_file(number)
    path = folder / name
    if not path.is_file():
        raise AdapterError(f"{name} is missing")
    try:
        tensors = _tensors(path)
    except ValueError as error:
        raise AdapterError(f"{name}: {error}") from None
    errors = tensor_errors(tensors, shapes)
    if not errors and (actual := file_digest(path)) != digest:
        errors = [f"has weights {actual[:19]}, the card names {digest[:19]}"]
    if errors:
        raise AdapterError("; ".join(f"{name}: {error}" for error in errors))
    return tensors


def _tensors(path: Path) -> Tensors:
    """The tensors of a file, sorted by name. The file is read and not mapped: a mapped file that is
    truncated later would end the process, and every tensor of one leaves 64 bytes behind for ever.

    Raises:
        ValueError: The file cannot be read, is too large, or is not safetensors.
    """
    try:
        n_bytes = path.stat().st_size
        if n_bytes > LARGEST_FILE:
            raise ValueError(f"it has {n_bytes} bytes, at most {LARGEST_FILE} are read")
        return dict(sorted(load(path.read_bytes()).items()))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = f"unknown dtype {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"truncated or not safetensors ({reason})") from None


def tensor_errors(tensors: Tensors, shapes: Shapes) -> list[str]:
    """Everything that is wrong with the tensors of a file; empty if they are sound.

    Args:
        tensors: The tensors of the file.
        shapes: Names and shapes that they must have.
    """
    errors = [f"tensor '{key}' is missing" for key in shapes if key not in tensors]
    errors += [f"tensor '{key}' does not belong here" for key in tensors if key not in shapes]
    for key, shape in shapes.items():
        tensor = tensors.get(key)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            errors.append(
                f"tensor '{key}' has shape {list(tensor.shape)} where {list(shape)} is expected"
            )
        if tensor.dtype in FLOATS:
            errors += _number_errors(key, tensor)
        else:
            errors.append(f"tensor '{key}' holds {tensor.dtype}, expected floating point")
    return errors


def value_errors(tensors: Tensors) -> list[str]:
    """Everything that is wrong with the numbers in the tensors of a file, whatever their shapes.

    Args:
        tensors: The tensors of the file; indices may be integers.
    """
    errors = []
    for key, tensor in tensors.items():
        if tensor.dtype in FLOATS:
            errors += _number_errors(key, tensor)
        elif tensor.dtype not in INTEGERS:
            errors.append(f"tensor '{key}' holds {tensor.dtype}, which is not read")
    return errors


def _number_errors(key: str, tensor: Tensor) -> list[str]:
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0  # NaN if any number is
    if not math.isfinite(largest):
        return [f"tensor '{key}' holds NaN or infinite numbers"]
    if largest > LARGEST_FACTOR:
        return [f"tensor '{key}' holds numbers beyond {LARGEST_FACTOR:,.0f}"]
    return []


def unexpected_members(folder: Path, n_extra: int) -> list[str]:
    """Errors about files among the members that belong to no member.

    Args:
        folder: The adapter folder.
        n_extra: Number of further members in the card.
    """
    if not (folder / MEMBERS).is_dir():
        return []
    known = {member_file(number) for number in range(1, n_extra + 1)}
    visible = (path for path in (folder / MEMBERS).iterdir() if not path.name.startswith("."))
    names = sorted(path.relative_to(folder).as_posix() for path in visible)
    return [
        f"{name} does not belong here: the card names no such member"
        for name in names
        if name not in known
    ]


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes in a weights file; only its header is read.

    Raises:
        AdapterError: It is missing or not a safetensors file.
    """
    if not path.is_file():  # opening a pipe would wait for a writer
        raise AdapterError(f"{path}: missing, or not a regular file")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: missing, truncated or not safetensors ({error})") from None
