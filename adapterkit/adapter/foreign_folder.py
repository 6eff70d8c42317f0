"""Adapter folders that other programs wrote and that have no card: of PEFT, and of AdapterHub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..atomic import file_digest
from ..backbone.model import Backbone
from ..errors import AdapterError, AdapterkitError
from ..methods.adapterhub_part import WAY_OUT
from ..methods.base import Method, Tensors
from ..methods.peft_folder import PeftFolder
from .adapter import Adapter
from .adapterhub_import import (
    ADAPTERHUB_FILES,
    FUSION_CONFIG,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    HUB_WEIGHTS,
    AdapterHubFolder,
    is_adapterhub,
)
from .card import CARD
from .checksums import changed_files, read_sums
from .json_file import read_json
from .peft_format import CONFIG
from .peft_head import HeadFacts
from .peft_import import read_peft, read_peft_method
from .weights import WEIGHTS, read_weights, unexpected_members, value_errors


def load_foreign_adapter(
    folder: str | Path,
    backbone: Backbone,
    facts: HeadFacts | None = None,
    on_top_of: Adapter | None = None,
    sums: bytes | None = None,
) -> Adapter:
    """Reads an adapter folder that another program wrote, which has no card.

    The adapter has no fingerprint, since the folder does not say on which weights it was trained.
    One of AdapterHub's library that has several methods is a stack of as many adapters.

    Args:
        folder: The folder.
        backbone: The base model that it was trained on.
        facts: What the folder does not say about its head.
        on_top_of: The adapter below it in a stack of AdapterHub's library.
        sums: The content of its checksums, if it has been read.

    Raises:
        AdapterError: The folder is not sound, or cannot be computed exactly here.
    """
    path = Path(folder)
    with _content(path, backbone, read_sums(path) if sums is None else sums) as (content, digest):
        name, facts = path.resolve().name, facts or HeadFacts()
        if isinstance(content, AdapterHubFolder):
            adapter = content.adapter(name, facts, on_top_of)
        elif on_top_of is not None:
            raise ValueError(f"PEFT has no stacks, so it was not trained on '{on_top_of.name}'")
        else:
            adapter = read_peft(name, content, facts)
        return replace(adapter, digest=digest)


def load_foreign_method(folder: Path, backbone: Backbone) -> tuple[Method, Tensors, str]:
    """The method of a folder that another program wrote, its tensors and the digest of its weights
    file, whatever its task is.

    Args:
        folder: The folder, without a card.
        backbone: The base model.

    Raises:
        AdapterError: The folder is not sound, or cannot be computed exactly here.
    """
    with _content(folder, backbone, read_sums(folder)) as (content, digest):
        if isinstance(content, AdapterHubFolder):
            return *content.method(), digest
        return *read_peft_method(content), digest


@contextmanager
def _content(
    folder: Path, backbone: Backbone, sums: bytes
) -> Iterator[tuple[PeftFolder | AdapterHubFolder, str]]:
    """The content of a folder, and the digest of its weights file, to be read inside the context,
    which names the folder in errors."""
    config = read_json(folder, CONFIG)
    names = [HUB_WEIGHTS if is_adapterhub(config) else WEIGHTS]
    has_head = is_adapterhub(config) and (folder / HEAD_CONFIG).is_file()
    head_config = read_json(folder, HEAD_CONFIG) if has_head else None
    names += [HEAD_WEIGHTS] * has_head
    weights = [read_weights(folder, name) for name in names]
    errors = [
        f"{name}: {error}"
        for name, tensors in zip(names, weights, strict=True)
        for error in value_errors(tensors)
    ]
    # A card that the checksums name must be there.
    digest = file_digest(folder / names[0])
    others = (CONFIG, CARD, *(ADAPTERHUB_FILES if is_adapterhub(config) else ()))
    errors += changed_files(folder, {**dict.fromkeys(others), names[0]: digest}, sums)
    errors += unexpected_members(folder, 0)
    if (folder / FUSION_CONFIG).exists():
        errors.append(f"{FUSION_CONFIG}: AdapterFusion has no form here; {WAY_OUT}")
    if errors:
        raise AdapterError(f"{folder}: {'; '.join(errors)}")
    try:
        if is_adapterhub(config):
            head = weights[1] if has_head else {}
            yield AdapterHubFolder(config, weights[0], head_config, head, backbone), digest
        else:
            yield PeftFolder.of(config, weights[0], backbone), digest
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AdapterError(f"{folder}: {CONFIG} lacks or garbles {error}") from None
    except (ValueError, RuntimeError, IndexError, ArithmeticError, AdapterkitError) as error:
        # torch raises the first three for shapes and indices that do not fit
        raise AdapterError(f"{folder}: {' '.join(str(error).split())}") from None
