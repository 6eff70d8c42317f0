"""The adapter before its first step: drawn from a seed, or continued from a saved one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..adapter.adapter import Adapter, MemberWeights
from ..adapter.card import CARD
from ..adapter.folder import load_adapter
from ..adapter.foreign_folder import load_foreign_method
from ..adapter.json_file import read_json
from ..adapter.peft_format import CONFIG, base_model
from ..adapter.references import find_folder
from ..adapter.stacking import ParentRef
from ..adapter.store import Store
from ..backbone.geometry import Geometry
from ..backbone.model import Backbone
from ..errors import RecipeError, UnknownAdapterError
from ..methods.base import Method, Tensors
from ..schema import dump
from ..tasks.base import LEAST_TOKENS, Task
from ..tasks.types import Row
from .recipe import Recipe


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        members: For each member the weights that it continues; with an empty head if that is drawn
            anew, None if the recipe names no adapter to start from.
        note: Says what they are; None if there are none.
        digest: sha256 of the weights that are continued.
    """

    members: Sequence[MemberWeights | None]
    note: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class MethodParents:
    """The saved adapters that a method needs.

    Attributes:
        tensors: What the method takes from them.
        record: Name and digest of each, for the card.
    """

    tensors: Tensors = field(default_factory=dict)
    record: Sequence[Mapping[str, str]] = ()


def fresh_adapter(
    recipe: Recipe,
    backbone: Backbone,
    rows: Sequence[Row],
    store: Store | None = None,
    *,
    parents: bool = True,
) -> Adapter:
    """The adapter before its first step: drawn from the recipe's seed, or a saved one to continue.

    An ensemble has all its members, each drawn from its own seed.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        rows: Its training rows.
        store: The store of the adapters that it names.
        parents: Load the saved adapters that its method needs; without them it cannot be trained.

    Raises:
        AdapterkitError: Method or task do not fit the backbone, the rows or the saved adapter.
    """
    task = recipe.task.fit(rows, backbone.pooling).bind_backbone(backbone.lm_head)
    below = _below(recipe, backbone, store)
    needs_parents = parents and recipe.method.parent_type is not None
    method_parents = MethodParents()
    if needs_parents:
        recipe, method_parents = _with_parents(recipe, backbone, store)
    _check_fit(recipe, backbone, below)
    start = _start(recipe, backbone, task, below, store)
    first, *others = (
        _drawn(recipe, backbone, task, recipe.training.seed + number, member, method_parents)
        for number, member in enumerate(start.members)
    )
    record: dict[str, Any] = {}
    if start.note is not None:
        record = {"start": start.note, "start_digest": start.digest}
    if method_parents.record:
        record["parents"] = [*method_parents.record]
    return Adapter(
        name=recipe.name,
        method=recipe.method,
        task=task,
        tensors=first.tensors,
        head=first.head,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
        training=record,
        on_top_of=below,
        extra_members=tuple(others),
    )


def _check_fit(recipe: Recipe, backbone: Backbone, below: Adapter | None) -> None:
    """Checks that the method fits the backbone, and that both leave room for a text.

    Raises:
        RecipeError: The method does not, or the room is less than `LEAST_TOKENS` or than
            `task.max_length`.
    """
    virtual, longest = recipe.method.position_offset, recipe.task.max_length
    positions = backbone.geometry.positions
    taken = below.position_offset if below is not None else 0
    room = positions - taken - virtual
    if longest is not None and not LEAST_TOKENS <= longest <= room:
        raise RecipeError(
            f"task.max_length: {longest} is not from {LEAST_TOKENS} to {room}, the most that "
            f"backbone '{backbone.name}' takes with this method"
        )
    try:
        recipe.method.shapes(backbone.geometry)
    except ValueError as error:
        raise RecipeError(f"method.{error}") from None
    if room < LEAST_TOKENS:
        raise RecipeError(
            f"method.num_virtual_tokens: {virtual} leave no room for a text beside the {taken} "
            f"of training.on_top_of; there are {positions}"
        )


def _with_parents(
    recipe: Recipe, backbone: Backbone, store: Store | None
) -> tuple[Recipe, MethodParents]:
    """The recipe with its method over the saved adapters that it needs, and what it takes of them.

    Raises:
        RecipeError: An adapter does not fit the method.
        AdapterkitError: It cannot be loaded, or was trained on another backbone.
    """
    method = recipe.method
    check = None if store is None else store.check_signature
    found, record = {}, []
    for reference in method.parents:
        folder = _folder(recipe, "method.of", reference, store)
        adapter = load_adapter(folder, backbone, check_signature=check)
        below = adapter.on_top_of
        if adapter.extra_members or below is not None:
            fault = f"is an ensemble of {adapter.n_members} members"
            fault = fault if below is None else f"stands on '{below.name}'"
            raise RecipeError(f"method.of: {reference} {fault}; only single adapters fit")
        found[reference] = (adapter.method, adapter.to("cpu").tensors)
        record.append(vars(ParentRef.of(adapter)))
    try:
        method, tensors = method.with_parents(found, backbone.geometry)
    except ValueError as error:
        raise RecipeError(f"method.{error}") from None
    return replace(recipe, method=method), MethodParents(tensors, record)


def _drawn(
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    seed: int,
    saved: MemberWeights | None,
    parents: MethodParents,
) -> MemberWeights:
    """The first tensors and head of one member: drawn from its seed, or those of a saved one, of
    which an empty head is drawn too.

    Raises:
        RecipeError: The method needs frozen weights that cannot be read, or the saved member has
            other parents.
    """
    geometry = backbone.geometry
    generator = torch.Generator().manual_seed(seed)
    tensors = recipe.method.init_tensors(geometry, generator) | parents.tensors
    head = task.fresh_head(geometry.hidden, generator)
    if saved is None:
        try:
            return MemberWeights(recipe.method.begin(tensors, backbone.frozen_weights), head)
        except ValueError as error:
            raise RecipeError(f"method.type: {recipe.method.type}: {error}") from None
    for name, tensor in parents.tensors.items():
        if not torch.equal(saved.tensors[name].cpu(), tensor):
            raise RecipeError(
                f"training.start_from: {recipe.training.start_from} was trained over other weights "
                f"of {', '.join(recipe.method.parents)}; name the same versions (method.of)"
            )
    return MemberWeights(
        recipe.method.init_from(saved.tensors, geometry, generator), saved.head or head
    )


def _start(
    recipe: Recipe, backbone: Backbone, task: Task, below: Adapter | None, store: Store | None
) -> Start:
    """What the members of a recipe start from.

    All members continue a single adapter, or each its own member of an ensemble of the same size.
    A head is continued if its answers mean the same; a PEFT folder does not say what they mean.

    Raises:
        AdapterkitError: `training.start_from` does not fit the recipe.
    """
    reference, wanted = recipe.training.start_from, recipe.training.ensemble
    if reference is None:
        return Start([None] * wanted)
    folder = _folder(recipe, "training.start_from", reference, store)
    if not (folder / CARD).is_file():
        method, tensors, digest = load_foreign_method(folder, backbone)
        _check_same_method(reference, method, recipe.method, backbone.geometry)
        base = base_model(read_json(folder, CONFIG))
        note = f"{reference}, a PEFT folder that names '{base}' as its backbone"
        return Start([MemberWeights(tensors, {})] * wanted, f"{note}, with a new head", digest)
    saved = load_adapter(folder, backbone)
    _check_same_method(reference, saved.method, recipe.method, backbone.geometry)
    if [floor.digest for floor in saved.stack[:-1]] != (
        [floor.digest for floor in below.stack] if below is not None else []
    ):
        raise RecipeError(
            f"training.start_from: {reference} stands on another adapter than training.on_top_of"
        )
    if saved.n_members not in (1, wanted):
        raise RecipeError(
            f"training.start_from: {reference} is an ensemble of {saved.n_members} members, "
            f"training.ensemble is {wanted}; make it {saved.n_members}, or start from a single "
            "adapter"
        )
    members = [MemberWeights(member.tensors, member.head) for member in saved.members]
    members = members if saved.extra_members else members * wanted
    if task.same_answers(saved.task):
        return Start(members, f"{reference}, with its head", saved.digest)
    answers = f"{saved.task.type} with other answers"
    return Start(
        [MemberWeights(member.tensors, {}) for member in members],
        f"{reference}, which was trained for {answers}, with a new head",
        saved.digest,
    )


def _check_same_method(reference: str, saved: Method, wanted: Method, geometry: Geometry) -> None:
    """Checks that saved tensors compute the same by the method of a recipe.

    Raises:
        RecipeError: They do not.
    """
    if saved.type != wanted.type:
        raise RecipeError(
            f"training.start_from: {reference} was trained by {saved.type}, the recipe asks for "
            f"{wanted.type}"
        )
    old, new = dump(saved), dump(wanted)
    differing = [key for key in new if _comparable(old[key]) != _comparable(new[key])]
    keys = [key for key in differing if key not in wanted.free_settings]
    if not keys and saved.shapes(geometry) != wanted.shapes(geometry):
        keys = differing
    if keys:
        raise RecipeError(
            f"training.start_from: {reference} has "
            f"{', '.join(f'{key}: {old.get(key)}' for key in keys)}, the recipe "
            f"{', '.join(f'{key}: {new[key]}' for key in keys)}; make them equal (section method)"
        )


def _comparable(value: object) -> object:
    """A setting, for which the order of a list (of linears or layers) does not matter."""
    return sorted(value) if isinstance(value, list) else value


def _folder(recipe: Recipe, key: str, reference: str, store: Store | None) -> Path:
    """The folder of a saved adapter: a path from the recipe's folder, or a name in the store.

    Raises:
        UnknownAdapterError: It is neither; the message names the key.
    """
    folder = recipe.folder / reference
    if (folder / CONFIG).is_file():
        return folder
    try:
        return find_folder(reference, store or Store("adapters"))
    except UnknownAdapterError as error:
        raise UnknownAdapterError(f"{key}: {error}") from None


def _below(recipe: Recipe, backbone: Backbone, store: Store | None) -> Adapter | None:
    """The frozen adapter below the recipe's, on the backbone's device; None if there is none."""
    reference = recipe.training.on_top_of
    if reference is None:
        return None
    check = None if store is None else store.check_signature
    folder = _folder(recipe, "training.on_top_of", reference, store)
    below = load_adapter(folder, backbone, check_signature=check)
    if below.extra_members:
        raise RecipeError(
            f"training.on_top_of: {reference} is an ensemble of {below.n_members} members; an "
            "adapter stands on a single one"
        )
    if store is not None:
        # Fails before the training if publishing would fail after it.
        store.parent_folder(ParentRef.of(below))
    return below.to(backbone.device)
