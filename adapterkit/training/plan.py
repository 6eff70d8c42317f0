"""A recipe with its rows read and its adapter drawn, before the first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..adapter.adapter import Adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..data.dataset import fingerprint
from ..data.memory import RowsInMemory
from ..errors import AdapterkitError, RecipeError
from ..inference.forward import text_limit
from ..inference.labelled import Split, prepare_rows
from ..tasks.types import Row
from .augmentation import Augment, Augmented
from .initial_adapter import fresh_adapter
from .recipe import Recipe
from .run import Run
from .trainable import TrainableAdapter

log = logging.getLogger("adapterkit")

HELD_OUT = ("validation", "test")

Rows = Mapping[str, Sequence[Row]]
"""Rows by split."""


@dataclass(frozen=True)
class Plan:
    """A recipe with all that its training needs at the start.

    Attributes:
        recipe: The recipe.
        rows: The rows of each split.
        adapter: The adapter before its first step, with all its members.
        splits: The rows with their tokens and targets, the same for every member.
        augmented: The training rows as each epoch draws them; None without augmentation.
        log_file: The file for the log of its runs; None without a store.
    """

    recipe: Recipe
    rows: Rows
    adapter: Adapter
    splits: Mapping[str, Split]
    augmented: Augmented | None = None
    log_file: Path | None = None

    @property
    def members(self) -> list[Adapter]:
        """The members of the ensemble, each as an adapter of its own; one if it is no ensemble."""
        return [replace(member, extra_members=()) for member in self.adapter.members]

    @property
    def seeds(self) -> dict[int, str]:
        """The seed of each member, and the label of its run."""
        name, settings = self.recipe.name, self.recipe.training
        if settings.ensemble == 1:
            return {settings.seed: name}
        members = range(settings.seed, settings.seed + settings.ensemble)
        return {seed: f"{name} (seed {seed})" for seed in members}

    def runs(self, trainables: Iterator[TrainableAdapter]) -> list[Run]:
        """A run for each member; members differ in their seeds alone.

        Args:
            trainables: The members under training, of which this takes as many as it has.
        """
        runs = []
        for seed, label in self.seeds.items():
            own = replace(self.recipe.training, seed=seed, ensemble=1)
            run = Run(next(trainables), self.splits, own, label, self.augmented)
            run.log_file = self.log_file
            runs.append(run)
        return runs

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        backbone: Backbone,
        store: Store | None = None,
        augment: Augment | None = None,
        rows: Rows | None = None,
    ) -> Plan:
        """Tokenises the rows of a recipe and draws its adapter.

        Args:
            recipe: The recipe.
            backbone: Its backbone.
            store: The store of its parent, which also has the log.
            augment: Its own augmentation.
            rows: Its rows, as `load_rows` returns them; if omitted, they are read.

        Raises:
            AdapterkitError: Recipe or data do not allow the training.
        """
        rows = load_rows(recipe) if rows is None else rows
        try:
            adapter = fresh_adapter(recipe, backbone, rows["train"], store)
            if adapter.task.tunable_key and "validation" not in rows:
                raise RecipeError(
                    f"task.{adapter.task.tunable_key}: it is tuned on validation rows, and there "
                    "are none; give some, or set data.validation above 0"
                )
            if recipe.training.patience is not None and "validation" not in rows:
                raise RecipeError(
                    "training.patience: validation rows say whether an epoch is better, and there "
                    "are none; give some, or leave it out"
                )
            splits = {name: prepare_rows(backbone, adapter, part) for name, part in rows.items()}
            splits |= {n: splits[n].for_evaluation(adapter.task) for n in HELD_OUT if n in splits}
            augmented = _augmented(
                recipe, backbone, adapter, rows["train"], splits["train"], augment
            )
        except AdapterkitError as error:
            raise type(error)(f"{recipe.name}: {error}") from None
        log_file = store.log_file(recipe.name) if store is not None else None
        return cls(recipe, rows, adapter, splits, augmented, log_file)

    def record(self) -> dict[str, Any]:
        """What the adapter's card keeps of recipe and rows."""
        return {
            "recipe": self.recipe.plain(),
            "seed": self.recipe.training.seed,
            "data": fingerprint(self.rows),
            "rows": {name: len(split) for name, split in self.splits.items()},
            **self.adapter.training,
        }

    def log_summary(self, backbone: Backbone) -> None:
        """Logs what will be trained on which rows, and warns of what is unusual about them."""
        adapter, splits = self.adapter, self.splits
        counts = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
        below = [*(floor.name for floor in adapter.stack[-2::-1]), backbone.name]
        trained = adapter.n_trained_parameters
        share = 100.0 * trained / (trained + backbone.n_parameters)
        many = f"{adapter.n_members} members, " if adapter.extra_members else ""
        log.info(
            f"{adapter.name}: {adapter.method.type} on {' on '.join(below)}, {many}{counts} rows, "
            f"{trained:,} trainable parameters ({share:.2f}%)"
        )
        if "start" in adapter.training:
            log.info(f"{adapter.name}: starts from {adapter.training['start']}")
        cut = sum(row.truncated for part in splits.values() for row in part.examples)
        if cut:
            log.warning(
                f"{cut} texts are longer than {text_limit(backbone, adapter)} tokens and were cut"
            )
        for warning in adapter.task.warnings(self.rows["train"], splits["train"].targets):
            log.warning(warning)


def load_rows(recipe: Recipe, rows: RowsInMemory | None = None) -> Rows:
    """The rows of each split of a recipe.

    Args:
        recipe: The recipe.
        rows: Rows in memory, for a recipe whose data names no source.

    Raises:
        DataError: A row is not valid, or there are no training rows.
    """
    seed = recipe.training.seed
    try:
        return recipe.data.load(recipe.folder, seed, recipe.task, rows=rows)
    except AdapterkitError as error:
        raise type(error)(f"{recipe.name}: {error}") from None


def load_rows_once(recipes: Sequence[Recipe]) -> list[Rows]:
    """The rows of recipes that differ in seed or fold alone: their source is read once.

    If it is streamed, the seed also chooses which rows are kept, so it is read once for each seed.

    Raises:
        DataError: As for `load_rows`.
    """
    read: dict[int | None, Rows] = {}
    found: list[Rows] = []
    for recipe in recipes:
        data, seed = recipe.data, recipe.training.seed
        key = seed if data.streaming else None
        try:
            if key not in read:
                read[key] = data.read(recipe.folder, seed, recipe.task)
            found.append(data.divide(read[key], recipe.folder, seed, recipe.task))
        except AdapterkitError as error:
            raise type(error)(f"{recipe.name}: {error}") from None
    return found


def _augmented(
    recipe: Recipe,
    backbone: Backbone,
    adapter: Adapter,
    rows: Sequence[Row],
    split: Split,
    augment: Augment | None,
) -> Augmented | None:
    """The training rows as each epoch draws them; None without augmentation."""
    settings = recipe.augmentation
    synonyms = settings.load(recipe.folder)
    if synonyms is None and augment is None and not settings.token_dropout:
        return None
    return Augmented(rows, split, settings, synonyms, augment, backbone, adapter)
