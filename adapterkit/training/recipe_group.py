"""Recipes that one process trains side by side and publishes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..adapter.adapter import Adapter
from ..adapter.publication import publish_or_keep
from ..adapter.store import Store
from ..atomic import folder_bytes
from ..errors import AdapterError
from .optimizer import default_epochs
from .plan import Rows
from .recipe import Recipe
from .token_budget import STEP_TOKENS
from .train import StoppedError, load_backbone, train_many


@dataclass(frozen=True)
class RecipeGroup:
    """Recipes of one backbone. It can be sent to another process.

    Attributes:
        recipes: The recipes.
        store: Folder or URL of the store that the adapters are published in.
        resume: Go on from the newest checkpoint of each recipe.
        max_tokens: Most tokens of several recipes in one step.
    """

    recipes: Sequence[Recipe]
    store: str
    resume: bool = False
    max_tokens: int = STEP_TOKENS

    def train(self, rows: Mapping[str, Rows] | None = None) -> GroupResult:
        """Trains the recipes and publishes what was trained to its end.

        Args:
            rows: Rows by name of a recipe, as `train_many` takes them.

        Raises:
            AdapterkitError: As for `train_many`, but for the faults of single recipes, which are in
                the result.
        """
        store, backbone = Store(self.store), load_backbone(self.recipes)
        result = GroupResult()
        try:
            adapters = train_many(
                self.recipes,
                backbone,
                rows=rows,
                store=store,
                resume=self.resume,
                max_tokens=self.max_tokens,
            )
        except StoppedError as error:
            adapters = error.finished
            result.faults.append(str(error))
        if not PartialState().is_main_process:
            return result
        for adapter in adapters:
            try:
                folder = publish_or_keep(adapter, store, backbone.geometry)
                result.summaries.append(_summary(adapter, folder))
            except AdapterError as error:
                result.unpublished.append(str(error))
        return result


@dataclass
class GroupResult:
    """What came out of a group.

    Attributes:
        summaries: Size, scores and time of each adapter that was published.
        unpublished: Why an adapter was not published, and where it is now.
        faults: Why some recipes failed before their end.
    """

    summaries: list[dict[str, Any]] = field(default_factory=list)
    unpublished: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: GroupResult) -> None:
        """Adds the result of another group."""
        self.summaries += other.summaries
        self.unpublished += other.unpublished
        self.faults += other.faults


def cost(recipe: Recipe, rows: Rows) -> int:
    """An estimate of the work of a recipe: the rows that its members see in all epochs."""
    n_rows, training = len(rows["train"]), recipe.training
    epochs = training.epochs or default_epochs(math.ceil(n_rows / training.batch_size))
    return n_rows * epochs * training.ensemble


def _summary(adapter: Adapter, folder: Path) -> dict[str, Any]:
    """Size, scores and time of an adapter that was just trained."""
    return {
        "name": adapter.name,
        "folder": str(folder),
        "bytes": folder_bytes(folder),
        "parameters": adapter.n_parameters,
        "metrics": adapter.metrics,
        "intervals": adapter.training.get("intervals", {}),
        "seconds": adapter.training["seconds"],
    }
