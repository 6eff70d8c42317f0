"""Which recipes can be trained side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from ..errors import RecipeError
from .backbone_section import BackboneSection
from .recipe import Recipe


def check_together(recipes: Sequence[Recipe]) -> None:
    """Checks that recipes can share a forward.

    Raises:
        RecipeError: There is no recipe, two have the same name, two differ in what all must share,
            or a setting would make the result of one depend on the others.
    """
    if not recipes:
        raise RecipeError("there is no recipe to train")
    first, *others = recipes
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two recipes are called '{name}'; adapters need names of their own")
    for other in others:
        for key, mine, theirs in _shared(first, other):
            if mine != theirs:
                raise RecipeError(
                    f"{first.name} and {other.name} cannot be trained together: {key} is "
                    f"{mine} in the first and {theirs} in the second"
                )
    if not others and first.training.ensemble == 1:
        return
    singly = "one recipe" if others else "without training.ensemble, one seed"
    if first.training.mixed_precision == "fp16":
        raise RecipeError(
            "training.mixed_precision: fp16 scales the gradients of all adapters alike; train "
            f"{singly} at a time, or with bf16"
        )
    if first.backbone.quantization == "int8":
        raise RecipeError(
            "backbone.quantization: int8 rounds the rows of all adapters alike; train "
            f"{singly} at a time, or without it"
        )


def _shared(one: Recipe, other: Recipe) -> Iterator[tuple[str, object, object]]:
    """What two recipes must have in common: the key and both values."""
    for field in fields(BackboneSection):
        mine, theirs = (
            recipe.backbone.source(recipe.folder)
            if field.name == "model"
            else getattr(recipe.backbone, field.name)
            for recipe in (one, other)
        )
        yield f"backbone.{field.name}", mine, theirs
    yield (
        "training.mixed_precision",
        one.training.mixed_precision,
        other.training.mixed_precision,
    )
