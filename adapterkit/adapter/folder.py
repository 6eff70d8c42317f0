"""Adapter folders: written completely or not at all, read with every tensor checked.

A folder holds `adapter_config.json` and `adapter_model.safetensors` in PEFT's own format, with
`adapterkit.json` (the card), for people `README.md` and `report/`, and `SHA256SUMS` over all of
them. The folder of an ensemble is that of its first member, with the weights of the others in
`members/1.safetensors`, `members/2.safetensors`, ..., whose digests are in the card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors

from ..atomic import content_digest, file_digest, write_folder
from ..backbone.embedded import EMBEDDED
from ..backbone.geometry import Geometry
from ..backbone.model import Backbone
from ..errors import AdapterError, AdapterkitError
from ..methods.base import Tensors, methods, writers_of
from ..names import check_name
from ..schema import build_kind, convert
from ..tasks.base import LEAST_TOKENS, tasks
from .adapter import Adapter as Adapter
from .adapter import FolderFormat, MemberWeights
from .card import CARD, card, read_card, read_parent
from .checksums import changed_files, read_sums, with_checksums
from .foreign_folder import load_foreign_adapter
from .json_file import read_json, to_json
from .model_card import REPORT, model_card, report_files
from .peft_format import (
    CONFIG,
    backbone_path,
    file_shapes,
    from_file_tensors,
    peft_config,
    peft_note,
    to_file_tensors,
)
from .weights import (
    WEIGHTS,
    Shapes,
    member_file,
    read_member,
    read_weights,
    tensor_errors,
    unexpected_members,
)

OVERRIDE = "pass any_backbone=True (--any-backbone) to use it all the same"
"""The way out if an adapter's backbone is another one or is not known."""

log = logging.getLogger("adapterkit")

SignatureCheck = Callable[[Path, bytes], None]
"""Refuses a folder, given with the content of its checksums, that is not signed as it must be."""


def save_adapter(adapter: Adapter, folder: str | Path, geometry: Geometry) -> Path:
    """Writes an adapter folder, completely or not at all.

    Args:
        adapter: The finished adapter.
        folder: The new folder.
        geometry: The backbone's.

    Returns:
        The folder.

    Raises:
        AdapterError: The folder exists already, or it cannot be written.
    """
    return write_folder(Path(folder), with_checksums(adapter_files(adapter, geometry)))


def adapter_files(adapter: Adapter, geometry: Geometry) -> dict[str, bytes]:
    """The files of an adapter folder, name to content; `with_checksums` adds their checksums.

    Args:
        adapter: The finished adapter.
        geometry: The backbone's.
    """
    reports = report_files(adapter)
    first, *others = (
        to_safetensors(to_file_tensors(member, geometry), metadata={"format": "pt"})
        for member in adapter.members
    )
    return {
        CONFIG: to_json(peft_config(adapter, geometry)),
        WEIGHTS: first,
        **{member_file(number): content for number, content in enumerate(others, start=1)},
        CARD: to_json(card(adapter, [content_digest(content) for content in others])),
        "README.md": model_card(adapter, reports, peft_note(adapter, geometry)).encode(),
        **{f"{REPORT}/{name}": content for name, content in reports.items()},
    }


def load_adapter(
    folder: str | Path,
    backbone: Backbone,
    *,
    any_backbone: bool = False,
    on_top_of: str | Path | None = None,
    check_signature: SignatureCheck | None = None,
) -> Adapter:
    """Reads an adapter folder of adapterkit, PEFT or AdapterHub, and those of its parents.

    Args:
        folder: The folder.
        backbone: The backbone to use it with; names and shapes are checked against it.
        any_backbone: Accept an adapter that was trained on other weights, or does not say on which.
        on_top_of: Where to look first for its parent: a folder or a store. Without it, and if the
            parent is not there, it is looked for beside the folder and in the store of the folder.
        check_signature: Called for the folder and for those of its parents
            (`Store.check_signature`).

    Raises:
        AdapterError: The folder is not sound; the message lists every error at once. Or a parent
            is missing, or is not the one that the adapter was trained on. Or a signature is missing
            or wrong.
    """
    folders = [Path(folder)]
    while (parent := parent_folder(folders[-1], on_top_of)) is not None:
        if parent.resolve() in [known.resolve() for known in folders]:
            raise AdapterError(f"{folder}: stands on itself, through {parent}")
        folders.append(parent)
    adapter = _load_single(folders.pop(), backbone, any_backbone, check_signature)
    check_fit(adapter, backbone, folder)
    while folders:
        child = folders.pop()
        try:
            single = _load_single(child, backbone, any_backbone, check_signature)
            adapter = replace(single, on_top_of=adapter)
        except ValueError as error:
            raise AdapterError(f"{child}: {error}") from None
        check_fit(adapter, backbone, folder)
    return adapter


def check_fit(adapter: Adapter, backbone: Backbone, folder: str | Path) -> None:
    """Checks that an adapter can read the frozen weights that it needs, and that its virtual tokens
    and those of its parents leave room for a text.

    Raises:
        AdapterError: It cannot, or they do not.
    """
    try:
        adapter.bound_tensors(backbone.frozen_weights)
    except ValueError as error:
        raise AdapterError(f"{folder}: {error}") from None
    virtual, positions = adapter.position_offset, backbone.geometry.positions
    if positions - virtual < LEAST_TOKENS:
        raise AdapterError(
            f"{folder}: {virtual} virtual tokens leave no room for a text; '{backbone.name}' has "
            f"{positions} positions"
        )


def parent_folder(folder: Path, on_top_of: str | Path | None = None) -> Path | None:
    """The folder of an adapter folder's parent; None without a parent.

    Args:
        folder: The adapter folder.
        on_top_of: Where to look first, as in `load_adapter`.

    Raises:
        AdapterError: The card is garbled, or there is no folder with the parent's weights.
    """
    parent = read_parent(folder)
    if parent is None:
        return None
    locations = [*([] if on_top_of is None else [Path(on_top_of)]), *folder.resolve().parents[:3]]
    try:
        return parent.find(locations)
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from None


def _load_single(
    folder: Path, backbone: Backbone, any_backbone: bool, check_signature: SignatureCheck | None
) -> Adapter:
    """Reads an adapter folder without its parent."""
    sums = read_sums(folder)
    if check_signature is not None:
        check_signature(folder, sums)
    if not (folder / CARD).is_file():
        if not any_backbone:
            raise AdapterError(f"{folder}: {_unknown_weights('the adapter')}")
        return load_foreign_adapter(folder, backbone, sums=sums)
    config, weights = read_json(folder, CONFIG), read_weights(folder)
    geometry = backbone.geometry
    try:
        content = read_card(folder)
        fields, digests = _fields_from_card(content), tuple(content.get("members", ()))
        empty = tuple(MemberWeights({}, {}) for _ in digests)
        adapter = Adapter(tensors={}, head={}, extra_members=empty, **fields)
        root = backbone_path(weights, geometry)
        shapes = file_shapes(adapter, geometry, root)
        keys = adapter.method.file_keys(geometry, root)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AdapterError(f"{folder}: {CARD} lacks or garbles {error}") from None
    except (ValueError, AdapterkitError) as error:
        raise AdapterError(f"{folder}: {error}") from None
    errors = [] if any_backbone else _backbone_errors(adapter, backbone)
    errors += [f"{WEIGHTS}: {error}" for error in tensor_errors(weights, shapes)]
    others, member_errors = _read_members(folder, digests, shapes)
    errors += member_errors
    digest = file_digest(folder / WEIGHTS)
    # The digests of further members are in the card.
    errors += changed_files(folder, {CONFIG: None, WEIGHTS: digest, CARD: None}, sums)
    if type(adapter.method) not in writers_of(config)[:1]:
        errors.append(f"{CONFIG} says {config.get('peft_type')}, {CARD} says {adapter.method.type}")
    if errors:
        raise AdapterError(f"{folder}: {'; '.join(errors)}")
    first, *extra = (
        from_file_tensors(member, adapter, geometry, keys) for member in (weights, *others)
    )
    if digests:
        digest = content_digest("\n".join((digest, *digests)).encode())
    return replace(
        adapter,
        tensors=first.tensors,
        head=first.head,
        extra_members=tuple(extra),
        digest=digest,
    )


def _read_members(
    folder: Path, digests: Sequence[str], shapes: Shapes
) -> tuple[list[Tensors], list[str]]:
    """The tensors of an ensemble's further members, and everything that is wrong with them."""
    members, errors = [], []
    for number, digest in enumerate(digests, start=1):
        try:
            members.append(read_member(folder, number, digest, shapes))
        except AdapterError as error:
            errors.append(str(error))
    return members, [*errors, *unexpected_members(folder, len(digests))]


def _backbone_errors(adapter: Adapter, backbone: Backbone) -> list[str]:
    try:
        check_backbone(adapter, backbone, "the adapter")
    except AdapterError as error:
        return [str(error)]
    return []


def _fields_from_card(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Adapter` that a card holds."""
    backbone = content["backbone"]
    return {
        "name": check_name(convert(str, content["name"], f"{CARD}: name")),
        "method": build_kind(methods(), content["method"], f"{CARD}: method"),
        "task": build_kind(tasks(), content["task"], f"{CARD}: task"),
        "backbone": str(backbone["name"]),
        "fingerprint": convert(str | None, backbone["fingerprint"], f"{CARD}: fingerprint"),
        "lower_case": bool(backbone["lower_case"]),
        "training": content["training"],
        "metrics": content["metrics"],
    }


def check_backbone(adapter: Adapter, backbone: Backbone, name: str) -> None:
    """Refuses an adapter that was trained on another backbone.

    Version 0.1.0 recorded a fingerprint of the weights alone, which is still accepted.

    Args:
        adapter: The adapter.
        backbone: The backbone to use it with.
        name: How the message calls the adapter.

    Raises:
        AdapterError: The fingerprints differ, or the adapter has none.
    """
    if adapter.fingerprint is None:
        raise AdapterError(_unknown_weights(name))
    if adapter.fingerprint not in (backbone.fingerprint, backbone.weights_fingerprint):
        raise AdapterError(
            f"{name} was trained on '{adapter.backbone}' ({adapter.fingerprint[:19]}), "
            f"not on '{backbone.name}' ({backbone.fingerprint[:19]}), whose weights, settings or "
            f"tokenizer are others; {OVERRIDE}"
        )
    is_old = adapter.fingerprint != backbone.fingerprint
    lower_case = backbone.declares_lower_case if is_old else backbone.lower_case
    if adapter.lower_case != lower_case:
        raise AdapterError(
            f"{name} was trained with lower-casing {'on' if adapter.lower_case else 'off'}, "
            f"'{backbone.name}' has it {'on' if lower_case else 'off'}; {OVERRIDE}"
        )
    if is_old and backbone.name != EMBEDDED:  # its other files are known by their hashes as well
        report_old_fingerprint(backbone.name)


def _unknown_weights(name: str) -> str:
    return (
        f"{name} does not say which weights it was trained on; bind a folder of PEFT to its base "
        f"model with `adapterkit import`, or {OVERRIDE}"
    )


@cache
def report_old_fingerprint(backbone: str) -> None:
    """Tells once what cannot be checked of adapters that version 0.1.0 trained."""
    log.info(
        f"'{backbone}': some adapters record a fingerprint of its weights alone, as version 0.1.0 "
        "did; that its tokenizer and settings are the same cannot be checked"
    )


class _Folders(FolderFormat):
    """The format of this module."""

    def save(self, adapter: Adapter, folder: str | Path, geometry: Geometry) -> Path:
        return save_adapter(adapter, folder, geometry)

    def load(self, folder: str | Path, backbone: Backbone, *, any_backbone: bool) -> Adapter:
        return load_adapter(folder, backbone, any_backbone=any_backbone)


Adapter.folder_format = _Folders()
