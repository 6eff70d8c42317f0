"""The files of a backbone: where they are, and what they say about its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import content_digest
from ..errors import BackboneError
from .embedded import EMBEDDED, embedded_folder
from .families.base import Family, family_of
from .json_object import read_json_object
from .lm_head import BIAS, DENSE, NORM
from .packing import Pooling
from .regular_file import check_regular_file
from .weight_files import StoredWeights, modern_name, read_tensors

READ_ENDINGS = (".json", ".txt", ".model", ".jinja")
"""Endings of the files that transformers may read beside the weights."""

MAX_FILE_BYTES = 256 * 2**20
"""The largest of these files."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with a backbone.

    Attributes:
        folder: The folder.
        family: The family of its model type.
        weights: What its weight files hold.
        weights_fingerprint: `sha256:` and the hash of the backbone's weights with their names and
            shapes. Heads and the pooler are left out, so a task model has the fingerprint of its
            backbone.
        pooling: The default pooling: that of `1_Pooling/config.json` if there is one, else the
            pooler if the weights have one, else the mean.
        has_pooler: Whether the weights hold the family's pooler.
        transform: Dense layer and norm of a head by which the family pools, float32, by the names
            in `lm_head`; empty if the weights have none.
        declares_lower_case: Whether `tokenizer_config.json` says that the tokenizer lower-cases.
        lm_head: The head for masked language modelling over tied word embeddings, float32, by the
            names in `lm_head`; empty if the weights have none.
    """

    folder: Path
    family: Family
    weights: StoredWeights
    weights_fingerprint: str
    pooling: Pooling
    has_pooler: bool
    transform: dict[str, Tensor]
    declares_lower_case: bool
    lm_head: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Reads a folder, with every byte of its weights.

        Raises:
            BackboneError: The folder is not a supported checkpoint in safetensors.
        """
        try:
            return cls._read(folder)
        except OSError as error:
            raise BackboneError(f"{folder}: cannot be read ({error.strerror})") from None

    @classmethod
    def _read(cls, folder: Path) -> Checkpoint:
        settings = _json(folder, "config.json")
        _check_files(folder)
        try:
            family = family_of(settings.get("model_type"))
        except BackboneError as error:
            raise BackboneError(f"{folder}: {error}") from None
        faults = family.setting_faults(settings)
        if faults:
            raise BackboneError(f"{folder / 'config.json'}: {'; '.join(faults)}")
        tokenizer = _tokenizer_settings(folder)
        weights = StoredWeights.read(folder, family.prefix, family.stored_names)
        has_pooler = any(map(family.is_pooler_weight, weights.backbone))
        head = _head(weights, family)
        has_decoder = BIAS in head and settings.get("tie_word_embeddings", True)
        transform = {name: tensor for name, tensor in head.items() if name != BIAS}
        return cls(
            folder=folder,
            family=family,
            weights=weights,
            weights_fingerprint=_weights_fingerprint(weights, family),
            pooling=_pooling(folder, has_pooler),
            has_pooler=has_pooler,
            transform=transform if family.pools_by_head else {},
            declares_lower_case=bool(tokenizer.get("do_lower_case")),
            lm_head=head if has_decoder else {},
        )


def locate(model: str, revision: str | None = None) -> Path:
    """The local folder of a model: embedded, given as a path, or downloaded from the hub.

    Raises:
        BackboneError: The model is not found, or the embedded one is damaged.
    """
    if model == EMBEDDED:
        return embedded_folder()
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


def _json(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder, name, "a backbone", BackboneError)


def _check_files(folder: Path) -> None:
    """Refuses files that transformers would open though they are not regular, or huge.

    Raises:
        BackboneError: There is one.
    """
    for path in sorted(folder.iterdir()):
        if path.name.endswith(READ_ENDINGS):
            try:
                check_regular_file(path, MAX_FILE_BYTES, BackboneError)
            except FileNotFoundError:
                raise BackboneError(f"{path}: a link to a file that does not exist") from None
    if (folder / "adapter_config.json").exists():
        raise BackboneError(
            f"{folder}: adapter_config.json says that this is a PEFT adapter, not a backbone; "
            "merge it into its model first, or name its model as the backbone"
        )


def _weights_fingerprint(weights: StoredWeights, family: Family) -> str:
    content = "".join(
        f"{name} {tensor.digest}\n"
        for name, tensor in sorted(weights.backbone.items())
        if family.is_backbone_weight(name)
    )
    return content_digest(content.encode())


def _head(weights: StoredWeights, family: Family) -> dict[str, Tensor]:
    """Dense layer, norm and, if there is one, the bias of the decoder; empty without the first two.

    A bias that is missing is zero, as transformers takes it and as some families have none.
    """
    wanted = {f"{path}.{end}" for path in (DENSE, NORM) for end in ("weight", "bias")} | {BIAS}
    found = {}
    for name, tensor in weights.tensors.items():
        module, _, end = modern_name(name).rpartition(".")
        ours = f"{family.lm_head.get(module)}.{end}"
        if ours in wanted:
            found[ours] = tensor
    if not {f"{DENSE}.weight", f"{NORM}.weight"} <= found.keys():
        return {}
    head = {
        name: tensor.to(torch.float32, copy=True) for name, tensor in read_tensors(found).items()
    }
    no_bias = torch.zeros(head[f"{NORM}.weight"].shape)
    return {f"{DENSE}.bias": no_bias, f"{NORM}.bias": no_bias.clone(), **head}


def _pooling(folder: Path, has_pooler: bool) -> Pooling:
    pooling = folder / "1_Pooling"
    if (pooling / "config.json").exists():
        modes = _json(pooling, "config.json")
        if modes.get("pooling_mode_mean_tokens"):
            return "mean"
        if modes.get("pooling_mode_cls_token"):
            return "cls"
    return "pooler" if has_pooler else "mean"


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`; empty if there is none.

    Raises:
        BackboneError: It names a tokenizer that is code of the checkpoint.
    """
    name = "tokenizer_config.json"
    settings = _json(folder, name) if (folder / name).exists() else {}
    code = settings.get("auto_map")
    if isinstance(code, dict) and code.get("AutoTokenizer"):
        raise BackboneError(
            f"{folder / name}: auto_map: {code['AutoTokenizer']!r:.80} is a tokenizer of its own, "
            "and code of a checkpoint is never run"
        )
    return settings
