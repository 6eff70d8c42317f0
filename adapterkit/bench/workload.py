"""What systems are measured on: seeded rows, their owners, random adapters and backbones.

Rows are seeded, so that every run and every system measures the same ones.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from ..adapter.adapter import Adapter
from ..backbone.checkpoint import locate
from ..backbone.families.base import family_of
from ..backbone.geometry import LINEAR_SITES
from ..backbone.json_object import read_json_object
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..errors import BackboneError
from ..methods.base import methods
from ..quiet import quiet_warnings
from ..tasks.base import tasks

Kind = Literal["short", "long"]
Rows = list[tuple[Adapter | None, TokenSequence]]

LENGTHS = {"short": (2.6, 0.45, 4, 60, 64), "long": (4.3, 0.7, 16, 384, 32)}
"""Log-normal mu and sigma, shortest, longest and number of rows."""

LORA = "lora q+v"
"""Where one linear computes query, key and value, the mix edits all of it, as PEFT does."""

RANDOM = "random:"

MIXES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    LORA: [("lora", {})],
    "lora all six": [("lora", {"targets": LINEAR_SITES})],
    "prefix 20": [("prefix", {})],
    "bottleneck 16": [("bottleneck", {"size": 16})],
    "three methods": [("lora", {}), ("prefix", {}), ("bottleneck", {"size": 16})],
}
"""Methods and their settings by name of the mix; adapters have them in turn."""

LONGEST_PREFIX = 20
N_LABELS = 77
"""Number of labels of banking77."""


@contextmanager
def checkpoint(backbone: str) -> Iterator[Path]:
    """Yields the folder of a backbone, so that every system loads the same weights.

    Args:
        backbone: A shape with random weights, or what `Backbone.load` takes. A shape is `base`
            (BERT-base's), or `random:` and a model type, for the shape that transformers gives it,
            or a folder with the `config.json` of a shape.

    Raises:
        BackboneError: There is no such backbone.
    """
    if backbone != "base" and not backbone.startswith(RANDOM):
        yield locate(backbone)
        return
    from transformers import AutoModel, AutoTokenizer

    config = _shape("bert" if backbone == "base" else backbone.removeprefix(RANDOM))
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with quiet_warnings():
            AutoModel.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(folder)
        yield Path(folder)


def _shape(name: str) -> Any:
    """transformers' configuration of a model type, or that of a folder.

    Raises:
        BackboneError: The model type is not supported, or the folder has no readable configuration.
    """
    from transformers import AutoConfig

    settings: dict[str, Any] = {"model_type": name}
    if Path(name).is_dir():
        settings = read_json_object(Path(name), "config.json", "a configuration", BackboneError)
    family_of(settings.get("model_type"))  # refuses what is not supported
    return AutoConfig.for_model(**settings)


def lengths(kind: Kind, n: int | None = None) -> list[int]:
    """Number of tokens of each row, special tokens included.

    Args:
        kind: short or long.
        n: Number of rows; as many as the kind has if omitted.
    """
    mu, sigma, shortest, longest, usual = LENGTHS[kind]
    rng = random.Random(0)
    return [
        max(shortest, min(longest, int(rng.lognormvariate(mu, sigma)))) for _ in range(n or usual)
    ]


def bench_rows(
    kind: Kind, backbone: Backbone, n: int | None = None, length: int | None = None
) -> list[TokenSequence]:
    """Seeded rows of token ids with the kind's lengths, cut to what fits beside a prefix.

    Args:
        kind: short or long.
        backbone: The backbone that reads them.
        n: Number of rows; as many as the kind has if omitted.
        length: Tokens of every row, in place of the kind's lengths.
    """
    tokenizer = backbone.tokenizer
    limit = backbone.geometry.positions - LONGEST_PREFIX
    # The first ids are padding, special and unused tokens.
    words, rng = range(len(tokenizer) // 30, len(tokenizer)), random.Random(1)
    rows = []
    for usual in lengths(kind, n):
        size = min(length or usual, limit)
        middle = [rng.choice(words) for _ in range(size - 2)]
        ids = [tokenizer.cls_token_id, *middle, tokenizer.sep_token_id]
        rows.append(TokenSequence(ids, [0] * size))
    return rows


def owners_of(n_rows: int, tenants: int) -> list[int]:
    """Index of the tenant of each row: random, or one tenant a row if there are enough."""
    rng = random.Random(2)
    return [rng.randrange(tenants) if tenants < n_rows else row for row in range(n_rows)]


def assign_owners(inputs: Sequence[TokenSequence], adapters: Sequence[Adapter]) -> Rows:
    """Pairs each row with the adapter of its owner."""
    owners = owners_of(len(inputs), len(adapters))
    return [(adapters[owner], row) for owner, row in zip(owners, inputs, strict=True)]


def bench_adapters(backbone: Backbone, mix: str, n: int) -> list[Adapter]:
    """Random adapters of a mix, each with its own head of 2 to 10 labels."""
    is_fused = "qkv" in backbone.geometry.sites
    plans = MIXES[mix]
    if mix == LORA and is_fused:
        plans = [("lora", {"targets": ("qkv",)})]
    return [
        random_adapter(backbone, *plans[index % len(plans)], index, 2 + index % 9)
        for index in range(n)
    ]


def random_adapter(
    backbone: Backbone, kind: str, settings: dict[str, Any], seed: int, n_labels: int
) -> Adapter:
    """An adapter of a classifier as if trained: every tensor is random, none is zero."""
    method = methods()[kind](**settings)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.02
        for name, shape in method.shapes(backbone.geometry).items()
    }
    classification: Any = tasks()["classification"]
    task = classification(pooling="mean", labels=tuple(f"label {i}" for i in range(n_labels)))
    return Adapter(
        name=f"tenant{seed}/{kind}",
        method=method,
        task=task,
        tensors=tensors,
        head=task.fresh_head(backbone.geometry.hidden, generator),
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
    ).to(backbone.device)


def texts_of(tokenizer: Any, kind: Kind, n: int) -> list[str]:
    """Seeded texts with the kind's lengths.

    They consist of words that are one token each in a WordPiece vocabulary, so that a tokenizer
    yields the lengths of the workload.
    """
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    rng = random.Random(1)
    return [" ".join(rng.choices(words, k=size - 2)) for size in lengths(kind, n)]


def labelled_rows(tokenizer: Any, n: int) -> tuple[list[str], list[str]]:
    """Texts and labels like those of banking77: short rows, 77 labels in turn."""
    return texts_of(tokenizer, "short", n), [f"label {index % N_LABELS:02d}" for index in range(n)]


def tenant_rows(tokenizer: Any, tenant: int) -> list[dict[str, str]]:
    """Rows of a small tenant: 100 to 300 short texts for training and validation, 100 for test.

    Each of the 2 to 9 labels prefers a few words; half of the words of a text are drawn from the
    whole vocabulary, so that labels must be learnt and some texts are ambiguous.
    """
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    rng = random.Random(f"tenant {tenant}")
    labels = {f"label {n}": rng.sample(words, 12) for n in range(rng.randint(2, 9))}
    n = rng.randint(100, 300)
    rows = []
    for index, size in enumerate(rng.sample(lengths("short", 400), n + 100)):
        label = rng.choice(list(labels))
        text = [rng.choice(labels[label] if rng.random() < 0.5 else words) for _ in range(size - 2)]
        split = "test" if index >= n else "validation" if index % 10 == 0 else "train"
        rows.append({"text": " ".join(text), "label": label, "split": split})
    return rows
