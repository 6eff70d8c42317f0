"""The weights of a checkpoint: safetensors files, in one piece or in shards, never pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BackboneError
from .json_object import read_json_object
from .regular_file import check_regular_file
from .stored_names import StoredNames, model_names

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

MAX_FILE_BYTES = 2**40
"""The largest weights file that is read; only its header is parsed."""

WRAPPERS = r"module|model|auto_model|0\.auto_model|_orig_mod"
"""What other programs write before the name of every tensor: `DataParallel`, a class of one's own,
sentence-transformers, `torch.compile`."""

OLD_NAMES = {"gamma": "weight", "beta": "bias"}
"""What old checkpoints call a norm's weight and bias, to today's names."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, or some rows of one.

    Attributes:
        file: The file.
        name: Its name there.
        dtype: Its dtype as the format spells it, such as `F32`.
        shape: Its shape.
        digest: SHA-256 of dtype, shape and bytes.
        rows: First and past-the-last row of the tensor in the file; None for all of it.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class StoredWeights:
    """All tensors of a checkpoint.

    Attributes:
        tensors: By their names without wrappers such as `module.`.
        root: What stands before the names of the backbone's tensors: `bert.` in a task model, empty
            in the backbone's own checkpoint.
    """

    tensors: Mapping[str, StoredTensor]
    root: str

    @classmethod
    def read(cls, folder: Path, prefix: str, stored_names: StoredNames) -> StoredWeights:
        """Reads every byte of a checkpoint's weights.

        Args:
            folder: The checkpoint.
            prefix: Name of the backbone inside task models, without a dot.
            stored_names: Parts of names that are others in the model (`Family.stored_names`).

        Raises:
            BackboneError: The files are missing or not sound.
        """
        stored: dict[str, StoredTensor] = {}
        for file in weight_files(folder):
            for name, tensor in _stored_tensors(file, stored_names):
                if name in stored:
                    raise BackboneError(f"{file}: {name!r:.80} is also in {stored[name].file.name}")
                stored[name] = tensor
        root = f"{prefix}."
        pattern = re.compile(rf"(?:(?!{re.escape(root)})(?:{WRAPPERS})\.)*")
        wrapper_of = {name: found[0] if (found := pattern.match(name)) else "" for name in stored}
        inside = [name for name in stored if name.startswith(wrapper_of[name] + root)]
        wrappers = Counter(wrapper_of[name] for name in inside or stored)
        ((wrapper, _),) = wrappers.most_common(1) or [("", 0)]
        tensors = {
            name.removeprefix(wrapper): tensor
            for name, tensor in stored.items()
            if name.startswith(wrapper)
        }
        return cls(tensors, root if inside else "")

    @property
    def backbone(self) -> dict[str, StoredTensor]:
        """The tensors under the root, by their names in the backbone; of a bare backbone all."""
        return {
            name.removeprefix(self.root): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(self.root)
        }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        BackboneError: There are none, or the index names others than there are.
    """
    for name in (SINGLE, INDEX):
        if not (folder / name).exists():
            continue
        names = [SINGLE] if name == SINGLE else _shards(folder)
        for shard in names:
            check_regular_file(folder / shard, MAX_FILE_BYTES, BackboneError)
        return [folder / shard for shard in names]
    raise BackboneError(
        f"{folder}: no {SINGLE}; pickled weights are never loaded, convert them first"
    )


def _shards(folder: Path) -> list[str]:
    """Names of the weight files that an index names."""
    index = read_json_object(folder, INDEX, "a backbone", BackboneError).get("weight_map")
    names = set(map(str, index.values())) if isinstance(index, dict) else set()
    if not names or any(Path(name).name != name or not _exists(folder / name) for name in names):
        raise BackboneError(f"{folder / INDEX}: names weight files that are not in the folder")
    return sorted(names)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _stored_tensors(path: Path, stored_names: StoredNames) -> list[tuple[str, StoredTensor]]:
    """The tensors of a safetensors file with their names in the model.

    The file has eight bytes with the length of the header, a JSON header, and the tensors' bytes.
    The library checks that the tensors fill the file end to end, so no byte is read twice.

    Raises:
        BackboneError: The file is not sound.
    """
    try:
        with safe_open(path, "pt"):
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
            header.pop("__metadata__", None)
            found: list[tuple[str, StoredTensor]] = []
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                whole = StoredTensor(path, name, entry["dtype"], tuple(entry["shape"]), "")
                found += _parts(whole, file.read(end - begin), model_names(name, stored_names))
            return found
    except (SafetensorError, OSError, ValueError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{path}: not a sound safetensors file ({reason:.300})") from None


def _parts(
    tensor: StoredTensor, content: bytes, names: Sequence[str]
) -> Iterator[tuple[str, StoredTensor]]:
    """A tensor, or equal shares of its rows, with names and digests.

    Args:
        tensor: The whole tensor.
        content: Its bytes, row after row.
        names: The names of its parts. If its rows cannot be shared, it gets the first name, under
            which it is refused as surplus or of a wrong shape.
    """
    n_rows = tensor.shape[0] if tensor.shape else 1
    if n_rows % len(names):
        names = names[:1]
    n_rows, n_bytes = n_rows // len(names), len(content) // len(names)
    for index, name in enumerate(names):
        shape, rows = tensor.shape, None
        if len(names) > 1:
            shape, rows = (n_rows, *shape[1:]), (index * n_rows, (index + 1) * n_rows)
        own = content[index * n_bytes : (index + 1) * n_bytes]
        digest = hashlib.sha256(f"{tensor.dtype} {list(shape)} ".encode() + own).hexdigest()
        yield name, replace(tensor, shape=shape, rows=rows, digest=digest)


def read_tensors(wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The content of stored tensors. It stays in the files until it is used.

    Args:
        wanted: Tensors by the names that they get.
    """
    content: dict[str, Tensor] = {}
    for path in {tensor.file for tensor in wanted.values()}:
        with safe_open(path, "pt") as file:
            for name, tensor in wanted.items():
                if tensor.file == path:
                    if tensor.rows is None:
                        content[name] = file.get_tensor(tensor.name)
                    else:
                        content[name] = file.get_slice(tensor.name)[slice(*tensor.rows)]
    return content


def modern_name(name: str) -> str:
    """The name of a tensor today, if an old checkpoint calls it otherwise."""
    module, _, end = name.rpartition(".")
    return f"{module}.{OLD_NAMES[end]}" if end in OLD_NAMES else name
