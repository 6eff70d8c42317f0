"""The weights of a checkpoint: safetensors files, in one piece or in shards, never pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BackboneError
from .json_object import read_json_object
from .regular_file import check_regular_file

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
    """A tensor in a safetensors file.

    Attributes:
        file: The file.
        name: Its name there.
        dtype: Its dtype as the format spells it, such as `F32`.
        shape: Its shape.
        digest: SHA-256 of dtype, shape and bytes.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


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
    def read(cls, folder: Path, prefix: str) -> StoredWeights:
        """Reads every byte of a checkpoint's weights.

        Args:
            folder: The checkpoint.
            prefix: Name of the backbone inside task models, without a dot.

        Raises:
            BackboneError: The files are missing or not sound.
        """
        stored: dict[str, StoredTensor] = {}
        for file in weight_files(folder):
            for name, tensor in _stored_tensors(file).items():
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


def _stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by their names.

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
            found = {}
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                dtype, shape = entry["dtype"], entry["shape"]
                digest = hashlib.sha256(f"{dtype} {shape} ".encode() + file.read(end - begin))
                found[name] = StoredTensor(path, name, dtype, tuple(shape), digest.hexdigest())
            return found
    except (SafetensorError, OSError, ValueError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{path}: not a sound safetensors file ({reason:.300})") from None


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
                    content[name] = file.get_tensor(tensor.name)
    return content


def modern_name(name: str) -> str:
    """The name of a tensor today, if an old checkpoint calls it otherwise."""
    module, _, end = name.rpartition(".")
    return f"{module}.{OLD_NAMES[end]}" if end in OLD_NAMES else name
