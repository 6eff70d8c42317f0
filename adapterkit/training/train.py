"""Training: from recipes, one or many, to adapters with their histories and scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from accelerate import Accelerator

from ..adapter.adapter import Adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..data.memory import RowsInMemory
from ..errors import DataError, RecipeError, did_you_mean
from ..inference.shared_layers import StateCache
from .augmentation import Augment
from .callbacks.base import Callback
from .checkpoint import CheckpointPlace, Checkpoints, origin_of
from .checkpointing import Checkpointing
from .compatibility import check_together
from .loop import Loop, LoopOptions
from .plan import Plan, Rows, load_rows
from .processes import (
    check_sharding,
    is_sharded,
    join_processes,
    lost_process_named,
    make_accelerator,
    on_cpu,
)
from .recipe import Recipe
from .resume import Resume
from .short_training import warn_of_few_steps, warn_of_rising_scores
from .spread import train_spread
from .token_budget import STEP_TOKENS
from .trackers import check_installed
from .trainable import TrainableAdapter, TrainableAdapters
from .trained_adapters import evaluated_adapters

log = logging.getLogger("adapterkit")


class StoppedError(DataError):
    """Some runs failed before their end; the adapters of the others are not lost.

    Attributes:
        faults: Why the others failed, by the label of the run.
        finished: The adapters of the runs that did not fail.
    """

    def __init__(self, faults: Mapping[str, str], finished: list[Adapter]) -> None:
        super().__init__("; ".join(f"{label}: {fault}" for label, fault in faults.items()))
        self.faults = dict(faults)
        self.finished = finished


def train(
    recipe: Recipe,
    backbone: Backbone | None = None,
    *,
    rows: RowsInMemory | None = None,
    store: Store | None = None,
    augment: Augment | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    progress: bool = True,
) -> Adapter:
    """Trains the adapter of a recipe, on as many processes as Accelerate was launched with.

    Args:
        recipe: The recipe.
        backbone: A loaded backbone; if omitted, the recipe's backbone is loaded.
        rows: Rows in memory, for a recipe whose data names no source: a list of mappings, a data
            frame, a data set, or a mapping of splits to these.
        store: The store in which the recipe's `on_top_of` is looked up by name, and where the
            adapter will be published; if omitted, `adapters`. Checkpoints are written only into a
            store that is given.
        augment: Your own augmentation: a function from the values of a training row by role, and a
            random generator, to new values for the same roles; called in every epoch
            (`augmentation.Augment`).
        callbacks: Instances of callbacks beside the registered ones.
        resume: Go on from the newest checkpoint in the store, if there is one.
        progress: Show a progress bar, and a line for every epoch.

    Returns:
        The adapter, with its history and metrics; the same on every process.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow the training, or a checkpoint cannot
            be written, or is of another training.
        TrainingInterruptedError: SIGINT or SIGTERM ended the training, with a checkpoint.
    """
    return train_many(
        [recipe],
        backbone,
        rows={} if rows is None else {recipe.name: load_rows(recipe, rows)},
        store=store,
        augment={recipe.name: augment} if augment is not None else {},
        callbacks=callbacks,
        resume=resume,
        progress=progress,
    )[0]


def train_many(
    recipes: Sequence[Recipe],
    backbone: Backbone | None = None,
    *,
    rows: Mapping[str, Rows] | None = None,
    store: Store | None = None,
    parents: Store | None = None,
    augment: Mapping[str, Augment] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    progress: bool = True,
    max_tokens: int = STEP_TOKENS,
) -> list[Adapter]:
    """Trains the adapters of several recipes side by side over one backbone.

    Each has its own batches, learning rates, dropout, epochs and evaluation, so each comes out as
    if it had been trained alone; their current steps share one packed forward and backward.

    Args:
        recipes: The recipes, of one backbone and one precision.
        backbone: A loaded backbone; if omitted, the recipes' backbone is loaded.
        rows: Name of a recipe to its rows, as `load_rows` returns them; those of others are read.
        store: As in `train`.
        parents: The store in which adapters that the recipes name are looked up if `store` is
            omitted; nothing is written in it.
        augment: Name of a recipe to its augmentation, as in `train`.
        callbacks: As in `train`; one instance follows all runs.
        resume: As in `train`; each recipe has checkpoints of its own.
        progress: Show a progress bar, and a line for every epoch.
        max_tokens: Most tokens of several recipes' batches in one forward; it bounds memory.

    Returns:
        The adapters in the order of the recipes, with their histories and metrics.

    Raises:
        RecipeError: The recipes cannot be trained together.
        StoppedError: The loss of a run was not finite; it holds the adapters of the others.
        ProcessError: The processes did not find each other, or one of them was lost.
        AdapterkitError: A recipe, its data or the backbone do not allow the training; nothing was
            trained.
    """
    started = time.perf_counter()
    check_together(recipes)
    check_installed(tracker for recipe in recipes for tracker in recipe.training.trackers)
    augment = augment or {}
    _check_augment_names(augment, recipes)
    known = rows or {}
    by_recipe = [known.get(recipe.name) or load_rows(recipe) for recipe in recipes]
    if backbone is None:
        backbone = load_backbone(recipes)
    accelerator = make_accelerator(recipes[0], backbone.device)
    if is_sharded():
        check_sharding(recipes, backbone)
    plans = [
        Plan.of(recipe, backbone, store or parents, augment.get(recipe.name), rows)
        for recipe, rows in zip(recipes, by_recipe, strict=True)
    ]
    if store is None:
        plans = [replace(plan, log_file=None) for plan in plans]
    if store is None and resume:
        raise RecipeError("resume: checkpoints are in a store; give one (store=)")
    place = CheckpointPlace(store.checkpoint_dir, resume) if store is not None else None
    saving = checkpoint_callbacks(plans, place)
    options = LoopOptions([*callbacks, *saving], progress, max_tokens)
    return _train_plans(plans, backbone, accelerator, options, started)


def train_part(
    recipe: Recipe,
    backbone: Backbone,
    rows: Rows,
    store: Store | None,
    place: CheckpointPlace | None,
    *,
    progress: bool,
) -> Adapter:
    """Trains one of several recipes of a comparison or a cross-validation.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        rows: Its rows.
        store: The store in which the recipe's `on_top_of` is looked up by name.
        place: Where its checkpoints are; None writes none.
        progress: As in `train`.

    Raises:
        AdapterkitError: As for `train`.
        TrainingInterruptedError: As for `train`.
    """
    started = time.perf_counter()
    accelerator = make_accelerator(recipe, backbone.device)
    plan = replace(Plan.of(recipe, backbone, store, rows=rows), log_file=None)
    options = LoopOptions(checkpoint_callbacks([plan], place), progress)
    return _train_plans([plan], backbone, accelerator, options, started)[0]


def _train_plans(
    plans: Sequence[Plan],
    backbone: Backbone,
    accelerator: Accelerator,
    options: LoopOptions,
    started: float,
) -> list[Adapter]:
    """Trains the adapters of some plans over a frozen backbone; see `run_plans`."""
    if accelerator.is_main_process:
        for plan in plans:
            plan.log_summary(backbone)
    # Shared by all: which activations are kept changes no result. Kept ones would also keep the
    # weights of stored layers.
    recompute = backbone.has_stored_layers or any(
        plan.recipe.training.gradient_checkpointing for plan in plans
    )
    members = [TrainableAdapter(member) for plan in plans for member in plan.members]
    trainables = TrainableAdapters(backbone, members, _state_cache(plans), recompute)
    return run_plans(plans, trainables, accelerator, options, started)


def run_plans(
    plans: Sequence[Plan],
    trainables: TrainableAdapters,
    accelerator: Accelerator,
    options: LoopOptions,
    started: float,
) -> list[Adapter]:
    """Takes every step of some plans, and evaluates the trained adapters.

    Several processes share the steps of a single run, and divide several runs among them.

    Args:
        plans: The plans.
        trainables: The adapters under training, in the order of the plans, member after member.
        accelerator: Accelerate's.
        options: Options of the loop.
        started: When the work on the plans began, by `time.perf_counter`.

    Raises:
        StoppedError: The loss of a run was not finite; it holds the adapters of the others.
    """
    trainables = trainables.to(trainables.backbone.device)
    members = iter(trainables.members)
    by_plan = [(plan, plan.runs(members)) for plan in plans]
    runs = [run for _, runs in by_plan for run in runs]
    if accelerator.is_main_process:
        warn_of_few_steps(own[0] for _, own in by_plan)  # members take as many
    with lost_process_named(plans[0].recipe, accelerator):
        if accelerator.num_processes > 1 and len(runs) > 1:
            train_spread(plans[0].recipe, accelerator, trainables, runs, options)
        else:
            Loop(accelerator, trainables, runs, options).run()
        finished = [(plan, own) for plan, own in by_plan if all(run.fault is None for run in own)]
        adapters = evaluated_adapters(accelerator, trainables.backbone, finished, len(plans))
    if accelerator.is_main_process:
        warn_of_rising_scores(runs)
    seconds = round(time.perf_counter() - started, 1)
    adapters = [replace(a, training={**a.training, "seconds": seconds}) for a in adapters]
    accelerator.free_memory()
    faults = {run.label: run.fault for run in runs if run.fault is not None}
    if faults:
        raise StoppedError(faults, adapters)
    return adapters


def load_backbone(recipes: Sequence[Recipe], *, prepared: bool = True) -> Backbone:
    """The backbone that recipes share, on the device that Accelerate gives this process.

    Args:
        recipes: The recipes.
        prepared: As in `Backbone.load`.

    Raises:
        RecipeError: The recipes cannot be trained together; nothing was loaded.
        ProcessError: The processes did not find each other, or cannot share the weights (FSDP).
        BackboneError: It cannot be loaded.
    """
    check_together(recipes)
    first = recipes[0]
    section = on_cpu(first.backbone)
    join_processes(first, cpu=section.device == "cpu")
    sharded = is_sharded()
    if sharded:
        check_sharding(recipes)
    return section.load(first.folder, prepared, sharded)


def checkpoint_callbacks(plans: Sequence[Plan], place: CheckpointPlace | None) -> list[Callback]:
    """What writes the checkpoints of some plans, and what loads them if the training goes on."""
    if place is None:
        return []
    checkpoints, sections = {}, {}
    for plan in plans:
        origin = origin_of(plan)
        for member, label in enumerate(plan.seeds.values()):
            folder = place.folder(plan.recipe.name, member)
            checkpoints[label] = Checkpoints(folder, label, origin)
            sections[label] = plan.recipe.training.checkpoint
    saving: list[Callback] = [Checkpointing(checkpoints, sections)]
    return [*saving, Resume(checkpoints)] if place.resume else saving


def _check_augment_names(augment: Iterable[str], recipes: Sequence[Recipe]) -> None:
    names = [recipe.name for recipe in recipes]
    for name in augment:
        if name not in names:
            raise RecipeError(f"augment: no recipe is called '{name}'; {did_you_mean(name, names)}")


def _state_cache(plans: Sequence[Plan]) -> StateCache | None:
    """A cache for the states of training rows; None if no state would be used twice, because there
    is a single epoch or the rows differ from epoch to epoch."""
    repeating = [
        plan.recipe.training
        for plan in plans
        if plan.augmented is None
        and not plan.recipe.training.adversarial
        and not plan.recipe.task.masks_tokens
    ]
    sizes = [training.cache_mb for training in repeating if training.epochs != 1]
    return StateCache(max(sizes) * 1_000_000) if any(sizes) else None
