"""Recipes divided among the workers of a Ray cluster; each trains its own side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..cluster.ray_cluster import RayCluster
from ..inference.progress_bar import progress_bar
from .plan import Rows
from .recipe_group import GroupResult, RecipeGroup, cost
from .spread import divide


def train_on_ray(group: RecipeGroup, rows: Mapping[str, Rows], cluster: RayCluster) -> GroupResult:
    """Trains a group of recipes in smaller groups, one on each worker.

    The recipes of a worker that is lost are trained again: from their last checkpoints if the group
    resumes, else from the start.

    Args:
        group: The group.
        rows: Rows of every recipe by its name, from which the work is estimated. The workers read
            their own.
        cluster: The cluster.

    Returns:
        The results of all, in the order of the recipes.

    Raises:
        AdapterkitError: A worker failed, or was lost too often.
    """
    costs = [cost(recipe, rows[recipe.name]) for recipe in group.recipes]
    parts = [part for part in divide(costs, cluster.n_workers) if part]
    groups = [replace(group, recipes=[group.recipes[index] for index in part]) for part in parts]
    result = GroupResult()
    with progress_bar(True, total=len(group.recipes), unit="recipe") as bar:
        for found, n in cluster.map(_train, groups):
            result.add(found)
            bar.update(n)
    order = {recipe.name: number for number, recipe in enumerate(group.recipes)}
    result.summaries.sort(key=lambda one: order[one["name"]])
    return result


def _train(group: RecipeGroup) -> tuple[GroupResult, int]:
    """The result of a group, and its number of recipes."""
    return group.train(), len(group.recipes)
