"""Adapter folders: written at once or not at all, read with every tensor checked.

A folder holds `adapter_config.json` and `adapter_model.safetensors` (PEFT's own format for LoRA and
prefix tuning), `adapterkit.json` beside them, for people `README.md` and `report/`, and
`SHA256SUMS` over all of them. An ensemble's folder is its first member's with the weights of the
others in `members/1.safetensors`, `members/2.safetensors`, ..., whose digests are in the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from ..atomic import content_digest, file_digest, write_folder
from ..backbone.checkpoint import EMBEDDED, EMBEDDED_HUB_NAME
from ..backbone.families import Geometry
from ..backbone.model import Backbone
from ..errors import AdapterError, AdapterkitError
from ..methods.base import Method, Tensors, methods
from ..names import check_name
from ..schema import build_kind, convert
from ..tasks.base import Task, tasks
from .adapter import Adapter, MemberWeights
from .card import CARD, card, read_card, read_json, to_json
from .checksums import with_checksums
from .model_card import REPORT, model_card, report_files
from .stacking import WEIGHTS as WEIGHTS
from .stacking import ParentRef

CONFIG = "adapter_config.json"
MEMBERS = "members"
"""Folder of the weights of an ensemble's further members; nothing else may be in it."""
BARE = (None, "FEATURE_EXTRACTION")
"""PEFT's task types whose model is the backbone itself, not a task model around it."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def save_adapter(adapter: Adapter, folder: str | Path, geometry: Geometry) -> Path:
    """Writes an adapter folder, whole or not at all.

    Args:
        adapter: The adapter, trained and folded.
        folder: Where; nothing may be there yet.
        geometry: The backbone's.

    Returns:
        The folder.

    Raises:
        AdapterError: Something is there already, or it cannot be written.
    """
    return write_folder(Path(folder), with_checksums(adapter_files(adapter, geometry)))


def adapter_files(adapter: Adapter, geometry: Geometry) -> dict[str, bytes]:
    """The files of an adapter folder, name to content; `with_checksums` adds their checksums.

    Args:
        adapter: The adapter, trained and folded.
        geometry: The backbone's.
    """
    reports = report_files(adapter)
    own, *others = (
        to_safetensors(_to_file(member, geometry), metadata={"format": "pt"})
        for member in adapter.members
    )
    return {
        CONFIG: to_json(_peft_config(adapter, geometry)),
        WEIGHTS: own,
        **{member_file(number): content for number, content in enumerate(others, start=1)},
        CARD: to_json(card(adapter, [content_digest(content) for content in others])),
        "README.md": model_card(adapter, reports).encode(),
        **{f"{REPORT}/{name}": content for name, content in reports.items()},
    }


def member_file(number: int) -> str:
    """The weights file of an ensemble's member, counted from 0."""
    return f"{MEMBERS}/{number}.safetensors" if number else WEIGHTS


def load_adapter(
    folder: str | Path,
    backbone: Backbone,
    *,
    any_backbone: bool = False,
    on_top_of: str | Path | None = None,
) -> Adapter:
    """Reads an adapter folder, ours or PEFT's, and those it stands on.

    Args:
        folder: The folder.
        backbone: What it is to act on; names and shapes are checked against it.
        any_backbone: Accept an adapter trained on other weights, or one that does not say.
        on_top_of: Where an adapter that it stands on lies, as a folder or in a store; looked for
            beside the folder, and in the store that holds it, where it is not there.

    Raises:
        AdapterError: It is not sound; the message lists every fault at once. Or what it stands on
            is missing or not what it was trained on.
    """
    floors = [Path(folder)]
    while (below := parent_folder(floors[-1], on_top_of)) is not None:
        if below.resolve() in [floor.resolve() for floor in floors]:
            raise AdapterError(f"{folder}: stands on itself, through {below}")
        floors.append(below)
    adapter = _load_one(floors.pop(), backbone, any_backbone)
    while floors:
        top = floors.pop()
        try:
            adapter = replace(_load_one(top, backbone, any_backbone), on_top_of=adapter)
        except ValueError as error:
            raise AdapterError(f"{top}: {error}") from None
    return adapter


def parent_ref(folder: Path) -> ParentRef | None:
    """What an adapter folder's card says it stands on; None for most.

    Raises:
        AdapterError: The card is garbled.
    """
    if not (folder / CARD).is_file():
        return None
    try:
        return ParentRef.read(read_card(folder).get("on_top_of"))
    except ValueError as error:
        raise AdapterError(f"{folder}: {CARD}: {error}") from None


def parent_folder(folder: Path, on_top_of: str | Path | None = None) -> Path | None:
    """The folder of what an adapter folder stands on; None for most.

    Args:
        folder: The adapter folder.
        on_top_of: Where to look first, as `load_adapter` takes it.

    Raises:
        AdapterError: The card is garbled, or there is no folder with those weights.
    """
    below = parent_ref(folder)
    if below is None:
        return None
    places = [*([] if on_top_of is None else [Path(on_top_of)]), *folder.resolve().parents[:3]]
    try:
        return below.find(places)
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from None


def _load_one(folder: Path, backbone: Backbone, any_backbone: bool) -> Adapter:
    """An adapter folder by itself."""
    config = read_json(folder, CONFIG)
    found = _weights(folder)
    told: tuple[str, ...] = ()
    try:
        if (folder / CARD).is_file():
            content = read_card(folder)
            described, told = _from_card(content), tuple(content.get("members", ()))
        else:
            described = _from_peft(folder, config, found, backbone.geometry)
        unread = tuple(MemberWeights({}, {}) for _ in told)
        adapter = Adapter(tensors={}, head={}, extra_members=unread, **described)
        shapes = _shapes(adapter, backbone.geometry, _root(found, backbone.geometry))
        keys = adapter.method.file_keys(backbone.geometry, _root(found, backbone.geometry))
    except (KeyError, TypeError) as error:
        raise AdapterError(f"{folder}: {CARD} or {CONFIG} lacks or garbles {error}") from None
    except (ValueError, AdapterkitError) as error:
        raise AdapterError(f"{folder}: {error}") from None
    faults = []
    try:
        if not any_backbone:
            check_backbone(adapter, backbone, "the adapter")
    except AdapterError as error:
        faults.append(str(error))
    members = [found]
    faults += [f"{WEIGHTS}: {fault}" for fault in _faults(found, shapes)]
    for number, digest in enumerate(told, start=1):
        try:
            members.append(_member(folder, member_file(number), digest, shapes))
        except AdapterError as error:
            faults.append(str(error))
    faults += _unexpected_files(folder, len(told))
    if config.get("peft_type") != adapter.method.peft_type:
        faults.append(f"{CONFIG} says {config.get('peft_type')}, {CARD} says {adapter.method.type}")
    if faults:
        raise AdapterError(f"{folder}: {'; '.join(faults)}")
    start = adapter.method.head_prefix
    names = adapter.task.head_shapes(backbone.geometry.hidden)
    own, *others = (
        MemberWeights(
            _stacked(tensors, keys), {name: _own(tensors[start + name]) for name in names}
        )
        for tensors in members
    )
    digest = file_digest(folder / WEIGHTS)
    if others:
        digest = content_digest("\n".join((digest, *told)).encode())
    return replace(
        adapter, tensors=own.tensors, head=own.head, extra_members=tuple(others), digest=digest
    )


def _member(folder: Path, name: str, digest: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The tensors of a further member, checked like the first's.

    Raises:
        AdapterError: They are not sound, or not those that the card speaks of.
    """
    path = folder / name
    if not path.is_file():
        raise AdapterError(f"{name} is missing")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{name}: truncated or not safetensors ({error})") from None
    faults = _faults(found, shapes)
    if not faults and (held := file_digest(path)) != digest:
        faults = [f"has weights {held[:19]}, {CARD} speaks of {digest[:19]}"]
    if faults:
        raise AdapterError("; ".join(f"{name}: {fault}" for fault in faults))
    return found


def _unexpected_files(folder: Path, n_others: int) -> list[str]:
    """What is among the members without being one of so many."""
    if not (folder / MEMBERS).is_dir():
        return []
    known = {member_file(number) for number in range(1, n_others + 1)}
    shown = (path for path in (folder / MEMBERS).iterdir() if not path.name.startswith("."))
    inside = sorted(path.relative_to(folder).as_posix() for path in shown)
    return [
        f"{name} does not belong here: {CARD} speaks of no such member"
        for name in inside
        if name not in known
    ]


def check_backbone(adapter: Adapter, backbone: Backbone, name: str) -> None:
    """Refuses an adapter that was trained on other weights.

    Args:
        adapter: The adapter.
        backbone: What it is to act on.
        name: What the message calls the adapter.

    Raises:
        AdapterError: The fingerprints differ, or the adapter has none.
    """
    override = "pass any_backbone=True (--any-backbone) to use it all the same"
    if adapter.fingerprint is None:
        raise AdapterError(
            f"{name} does not say which weights it was trained on ({CARD} is missing); {override}"
        )
    if adapter.fingerprint != backbone.fingerprint:
        raise AdapterError(
            f"{name} was trained on '{adapter.backbone}' ({adapter.fingerprint[:19]}), "
            f"not on '{backbone.name}' ({backbone.fingerprint[:19]}); {override}"
        )
    if adapter.lower_case != backbone.lower_case:
        raise AdapterError(
            f"{name} was trained with lower-casing {'on' if adapter.lower_case else 'off'}, "
            f"'{backbone.name}' has it {'on' if backbone.lower_case else 'off'}; {override}"
        )


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes in a weights file, from its header alone.

    Raises:
        AdapterError: It is missing or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: missing, truncated or not safetensors ({error})") from None


def _peft_config(adapter: Adapter, geometry: Geometry) -> dict[str, Any]:
    official = EMBEDDED_HUB_NAME if adapter.backbone == EMBEDDED else adapter.backbone
    return {
        "peft_type": adapter.method.peft_type,
        "task_type": adapter.task.peft_task_type,
        "base_model_name_or_path": official,
        "inference_mode": True,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.head}),
        **adapter.method.config(geometry),
    }


def _to_file(adapter: Adapter, geometry: Geometry) -> Tensors:
    root = "" if adapter.task.peft_task_type in BARE else f"{geometry.family.prefix}."
    file: Tensors = {}
    for key, (name, layer) in adapter.method.file_keys(geometry, root).items():
        file[key] = adapter.tensors[name] if layer is None else adapter.tensors[name][layer]
    for name, tensor in adapter.head.items():
        file[adapter.method.head_prefix + name] = tensor
    return {key: tensor.detach().cpu().float().contiguous() for key, tensor in file.items()}


def _stacked(found: Tensors, keys: Mapping[str, tuple[str, int | None]]) -> Tensors:
    tensors: Tensors = {}
    layers: dict[str, dict[int, torch.Tensor]] = {}
    for key, (name, layer) in keys.items():
        if layer is None:
            tensors[name] = _own(found[key])
        else:
            layers.setdefault(name, {})[layer] = found[key].float()
    for name, parts in layers.items():
        tensors[name] = torch.stack([parts[layer] for layer in sorted(parts)])
    return tensors


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy: what safetensors loads is mapped, and would change or die with the file."""
    return tensor.to(torch.float32, copy=True)


def _weights(folder: Path) -> Tensors:
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        hint = f"; {pickles[0]} is pickled, and pickled weights are never loaded" if pickles else ""
        raise AdapterError(f"{folder}: {WEIGHTS} is missing{hint}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path}: truncated or not safetensors ({error})") from None


def _root(found: Tensors, geometry: Geometry) -> str:
    prefix = f"{geometry.family.prefix}."
    return prefix if any(key.startswith(f"base_model.model.{prefix}") for key in found) else ""


def _shapes(adapter: Adapter, geometry: Geometry, root: str) -> dict[str, tuple[int, ...]]:
    """Name in the file to shape in the file."""
    ready = adapter.method.shapes(geometry)
    shapes = {}
    for key, (name, layer) in adapter.method.file_keys(geometry, root).items():
        shapes[key] = ready[name] if layer is None else ready[name][1:]
    for name, shape in adapter.task.head_shapes(geometry.hidden).items():
        shapes[adapter.method.head_prefix + name] = shape
    return shapes


def _faults(found: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    faults = [f"tensor '{key}' is missing" for key in shapes if key not in found]
    faults += [f"tensor '{key}' does not belong here" for key in found if key not in shapes]
    for key, shape in shapes.items():
        tensor = found.get(key)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            faults.append(
                f"tensor '{key}' has shape {list(tensor.shape)} where {list(shape)} is expected"
            )
        if tensor.dtype not in FLOATS:
            faults.append(f"tensor '{key}' holds {tensor.dtype}, expected floating point")
        elif not bool(torch.isfinite(tensor).all()):
            faults.append(f"tensor '{key}' holds NaN or infinite numbers")
    return faults


def _from_card(content: Mapping[str, Any]) -> dict[str, Any]:
    backbone = content["backbone"]
    return {
        "name": check_name(convert(str, content["name"], f"{CARD}: name")),
        "method": build_kind(methods(), content["method"], f"{CARD}: method"),
        "task": build_kind(tasks(), content["task"], f"{CARD}: task"),
        "backbone": str(backbone["name"]),
        "fingerprint": str(backbone["fingerprint"]),
        "lower_case": bool(backbone["lower_case"]),
        "training": content["training"],
        "metrics": content["metrics"],
    }


def _from_peft(
    folder: Path, config: Mapping[str, Any], found: Tensors, geometry: Geometry
) -> dict[str, Any]:
    """A folder that PEFT wrote: what it leaves out is PEFT's own default."""
    by_peft: dict[str, type[Method]] = {kind.peft_type: kind for kind in methods().values()}
    by_task: dict[str | None, type[Task]] = {
        kind.peft_task_type: kind for kind in tasks().values() if kind.foreign
    }
    peft_type, task_type = config.get("peft_type"), config.get("task_type")
    if peft_type not in by_peft:
        raise ValueError(f"{CONFIG}: peft_type {peft_type} is not known here")
    if task_type not in by_task:
        raise ValueError(f"{CONFIG}: task_type {task_type} is not known here")
    kind = by_peft[peft_type]
    start = kind.head_prefix
    head = {
        key.removeprefix(start): tuple(tensor.shape)
        for key, tensor in found.items()
        if key.removeprefix(start).startswith(("classifier.", "qa_outputs."))
    }
    return {
        "name": check_name(folder.resolve().name),
        "method": kind.from_config(config, found, geometry),
        "task": by_task[task_type].from_head(head),
        "backbone": str(config.get("base_model_name_or_path")),
        "fingerprint": None,
        "lower_case": False,
    }
