"""The adapter before its first step: drawn from a seed, or continued from a saved one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..adapter.adapter import Adapter, MemberWeights
from ..adapter.folder import load_adapter
from ..adapter.peft_format import CONFIG
from ..adapter.stacking import ParentRef
from ..adapter.store import Store, find_folder
from ..backbone.geometry import Geometry
from ..backbone.model import Backbone
from ..errors import RecipeError
from ..methods.base import Method
from ..schema import dump
from ..tasks.base import LEAST_TOKENS, Task
from ..tasks.types import Row
from .recipe import Recipe


def fresh_adapter(
    recipe: Recipe, backbone: Backbone, rows: Sequence[Row], store: Store | None = None
) -> Adapter:
    """The adapter before its first step: drawn from the recipe's seed, or a saved one to continue.

    An ensemble has all its members, each drawn from its own seed.

    Raises:
        AdapterkitError: Method or task do not fit the backbone, the rows or the saved adapter.
    """
    geometry = backbone.geometry
    task = recipe.task.fit(rows, backbone.pooling).bind_backbone(backbone.lm_head)
    below = _below(recipe, backbone, store)
    _check_fit(recipe, backbone, below)
    saved = _saved(recipe, backbone, task, below)
    first, *others = (
        _drawn(recipe, geometry, task, recipe.training.seed + number, member)
        for number, member in enumerate(saved)
    )
    return Adapter(
        name=recipe.name,
        method=recipe.method,
        task=task,
        tensors=first.tensors,
        head=first.head,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
        on_top_of=below,
        extra_members=tuple(others),
    )


def _check_fit(recipe: Recipe, backbone: Backbone, below: Adapter | None) -> None:
    """Checks that the method fits the backbone, and that both leave room for a text.

    Raises:
        RecipeError: The method does not, or the room is less than `LEAST_TOKENS` or than
            `task.max_length`.
    """
    virtual, longest = recipe.method.num_virtual_tokens, recipe.task.max_length
    positions = backbone.geometry.positions
    taken = below.num_virtual_tokens if below is not None else 0
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


def _drawn(
    recipe: Recipe, geometry: Geometry, task: Task, seed: int, saved: Adapter | None
) -> MemberWeights:
    """The first tensors and head of one member: drawn from its seed, or a saved adapter's."""
    generator = torch.Generator().manual_seed(seed)
    tensors = recipe.method.init_tensors(geometry, generator)
    head = task.fresh_head(geometry.hidden, generator)
    if saved is None:
        return MemberWeights(tensors, head)
    return MemberWeights(recipe.method.init_from(saved.tensors, geometry, generator), saved.head)


def _saved(
    recipe: Recipe, backbone: Backbone, task: Task, below: Adapter | None
) -> Sequence[Adapter | None]:
    """For each member the saved adapter that it continues; None if the recipe names none.

    All members continue a single adapter, or each its own member of an ensemble of the same size.

    Raises:
        AdapterkitError: It does not fit the recipe.
    """
    reference, wanted = recipe.training.start_from, recipe.training.ensemble
    if reference is None:
        return [None] * wanted
    saved, geometry = load_adapter(recipe.folder / reference, backbone), backbone.geometry
    if saved.method.shapes(geometry) != recipe.method.shapes(geometry):
        raise RecipeError(
            f"training.start_from: {reference} {_difference(saved.method, recipe.method)}"
        )
    if not task.same_answers(saved.task):
        raise RecipeError(f"training.start_from: {reference} was trained for other answers")
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
    return saved.members if saved.extra_members else [saved] * wanted


def _difference(saved: Method, wanted: Method) -> str:
    """What a saved method and that of a recipe differ in."""
    if saved.type != wanted.type:
        return f"was trained by {saved.type}, the recipe asks for {wanted.type}"
    old, new = dump(saved), dump(wanted)
    keys = [key for key in new if old.get(key) != new[key]]
    return (
        f"has {', '.join(f'{key}: {old.get(key)}' for key in keys)}, the recipe "
        f"{', '.join(f'{key}: {new[key]}' for key in keys)}; make them equal (section method)"
    )


def _below(recipe: Recipe, backbone: Backbone, store: Store | None) -> Adapter | None:
    """The frozen adapter below the recipe's, on the backbone's device; None if there is none."""
    reference = recipe.training.on_top_of
    if reference is None:
        return None
    folder = recipe.folder / reference
    if not (folder / CONFIG).is_file():
        folder = find_folder(reference, store or Store("adapters"))
    below = load_adapter(folder, backbone)
    if below.extra_members:
        raise RecipeError(
            f"training.on_top_of: {reference} is an ensemble of {below.n_members} members; an "
            "adapter stands on a single one"
        )
    if store is not None:
        # Fails before the training if publishing would fail after it.
        store.parent_folder(ParentRef.of(below))
    return below.to(backbone.device)
