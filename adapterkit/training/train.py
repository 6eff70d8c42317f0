"""Training: from recipes, one or many, to adapters with their histories and scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from ..adapter.adapter import Adapter, MemberWeights
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..data.dataset import fingerprint
from ..errors import DataError, RecipeError, did_you_mean
from ..inference.labelled import Split
from ..inference.shared_layers import StateCache
from ..tasks.types import Outputs
from .augmentation import Augment
from .compatibility import check_processes, check_together
from .loop import STEP_TOKENS, Loop, outputs_of, scores_of
from .plan import HELD_OUT, Plan
from .recipe import Recipe
from .run import Run
from .trainable import Trainee, Trainees

log = logging.getLogger("adapterkit")


class StoppedError(DataError):
    """Runs stopped before their end; what the others came to is not lost.

    Attributes:
        finished: The adapters of the runs that did not stop.
    """

    def __init__(self, faults: Mapping[str, str], finished: list[Adapter]) -> None:
        super().__init__("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        self.finished = finished


def train(
    recipe: Recipe,
    backbone: Backbone | None = None,
    *,
    store: Store | None = None,
    augment: Augment | None = None,
    progress: bool = True,
) -> Adapter:
    """Trains the adapter a recipe describes, on as many processes as Accelerate was launched with.

    Args:
        recipe: The recipe.
        backbone: An already loaded backbone in place of the recipe's.
        store: Where the adapter is meant for, and what it stands on is looked up by name; names
            are looked up in `adapters` where left out.
        augment: Your own augmentation: from a training row's values by role, and where to draw
            from, to values for the same roles, anew in every epoch (`augmentation.Augment`).
        progress: Show a progress bar, and a line for every epoch.

    Returns:
        The adapter, with its history and metrics; the same on every process.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow it.
    """
    own = {recipe.name: augment} if augment is not None else {}
    return train_many([recipe], backbone, store=store, augment=own, progress=progress)[0]


def train_many(
    recipes: Sequence[Recipe],
    backbone: Backbone | None = None,
    *,
    store: Store | None = None,
    augment: Mapping[str, Augment] | None = None,
    progress: bool = True,
    max_tokens: int = STEP_TOKENS,
) -> list[Adapter]:
    """Trains the adapters of several recipes side by side over one backbone.

    Each keeps its own batches, rates, dropout, epochs and checks, so each comes out as if it had
    been trained alone; their current steps share one packed forward and backward.

    Args:
        recipes: The recipes, of one backbone and one precision.
        backbone: An already loaded backbone in place of the recipes'.
        store: As `train` takes it.
        augment: Name of a recipe to what `train` takes for it.
        progress: Show a progress bar, and a line for every epoch.
        max_tokens: Most tokens of several recipes' batches in one forward; it bounds memory.

    Returns:
        The adapters in the order of the recipes, with their histories and metrics.

    Raises:
        RecipeError: The recipes cannot be trained together.
        StoppedError: A run's loss became no number; it holds the adapters of the others.
        AdapterkitError: A recipe, its data or the backbone do not allow it; nothing was trained.
    """
    began = time.perf_counter()
    check_together(recipes)
    names = [recipe.name for recipe in recipes]
    for name in augment or {}:
        if name not in names:
            raise RecipeError(f"augment: no recipe is called '{name}'; {did_you_mean(name, names)}")
    if backbone is None:
        backbone = load_backbone(recipes[0])
    accelerator = accelerate_over(backbone, recipes[0])
    check_processes(recipes, accelerator.num_processes)
    own = augment or {}
    plans = [Plan.of(recipe, backbone, store, own.get(recipe.name)) for recipe in recipes]
    if accelerator.is_main_process:
        for plan in plans:
            plan.tell(backbone)
    members = [Trainee(start) for plan in plans for start in plan.starts]
    trainees = Trainees(backbone, members, _memory(plans))
    return carry_out(plans, trainees, accelerator, began, progress, max_tokens)


def carry_out(
    plans: Sequence[Plan],
    trainees: Trainees,
    accelerator: Accelerator,
    began: float,
    progress: bool = True,
    max_tokens: int = STEP_TOKENS,
) -> list[Adapter]:
    """Takes every step of some plans, and judges what comes of them.

    Args:
        plans: What the training begins with.
        trainees: What is trained, in the order of the plans, member after member.
        accelerator: Accelerate's.
        began: When the work on them began, by `time.perf_counter`.
        progress: As `train_many` takes it.
        max_tokens: As `train_many` takes it.

    Raises:
        StoppedError: A run's loss became no number; it holds the adapters of the others.
    """
    backbone = trainees.backbone
    trainees = trainees.to(backbone.device)
    fresh = iter(trainees.members)
    grouped = [plan.runs(fresh) for plan in plans]
    runs = [run for members in grouped for run in members]
    Loop(accelerator, trainees, runs, max_tokens).run(progress and accelerator.is_main_process)
    for run in runs:
        run.trainee.settle()
    adapters = _finished(accelerator, backbone, plans, grouped)
    seconds = round(time.perf_counter() - began, 1)
    adapters = [replace(a, training={**a.training, "seconds": seconds}) for a in adapters]
    accelerator.free_memory()
    faults = {run.called: run.fault for run in runs if run.fault is not None}
    if faults:
        raise StoppedError(faults, adapters)
    return adapters


def _memory(plans: Sequence[Plan]) -> StateCache | None:
    """Where states of the training rows are kept; a single epoch, or rows that are other ones in
    every epoch, would never look at them again."""
    again = [
        plan.recipe.training
        for plan in plans
        if plan.augmented is None
        and not plan.recipe.training.adversarial
        and not plan.recipe.task.masks_tokens
    ]
    rooms = [training.cache_mb for training in again if training.epochs > 1]
    return StateCache(max(rooms) * 1_000_000) if any(rooms) else None


def _finished(
    accelerator: Accelerator,
    backbone: Backbone,
    plans: Sequence[Plan],
    runs: Sequence[Sequence[Run]],
) -> list[Adapter]:
    """The adapters that were kept, folded, judged on every held-out split, with their records.

    Args:
        runs: Of each plan, a run for each member.
    """
    done = [
        (plan, members)
        for plan, members in zip(plans, runs, strict=True)
        if all(run.fault is None for run in members)
    ]
    trained = [_joined([run.kept[1] for run in members]) for _, members in done]
    said: list[dict[str, Outputs]] = [{} for _ in done]
    for name in HELD_OUT:
        having = [place for place, (plan, _) in enumerate(done) if name in plan.splits]
        asked = [(trained[place], done[place][0].splits[name]) for place in having]
        for place, outputs in zip(having, outputs_of(accelerator, backbone, asked), strict=True):
            said[place][name] = outputs
    finished = []
    for adapter, outputs_by_split, (plan, members) in zip(trained, said, done, strict=True):
        first, *others = members
        record = {
            "recipe": plan.recipe.plain(),
            "seed": plan.recipe.training.seed,
            "data": fingerprint(plan.rows),
            "rows": {name: len(part) for name, part in plan.splits.items()},
            "processes": accelerator.num_processes,
            "together": len(plans),
            **first.record(),
        }
        if others:
            record["members"] = [{"seed": run.settings.seed, **run.record()} for run in others]
        if plan.augmented is not None and plan.augmented.own is not None:
            record["augment"] = plan.augmented.own
        finished.append(judged(replace(adapter, training=record), plan.splits, outputs_by_split))
    return finished


def _joined(members: Sequence[Adapter]) -> Adapter:
    """Trained members, folded, as one adapter."""
    folded = []
    for member in members:
        method, tensors = member.method.finalize(member.tensors)
        folded.append(replace(member, method=method, tensors=tensors))
    first, *others = folded
    return replace(
        first, extra_members=tuple(MemberWeights(other.tensors, other.head) for other in others)
    )


def accelerate_over(backbone: Backbone, recipe: Recipe) -> Accelerator:
    """Accelerate, for the backbone's device and the recipe's precision."""
    # Accelerate keeps the precision of a process's first run for good; runs may differ in it.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=backbone.device.type == "cpu", mixed_precision=recipe.training.mixed_precision
    )


def load_backbone(recipe: Recipe, *, prepared: bool = True) -> Backbone:
    """The recipe's backbone, on the device that Accelerate gives this process.

    Args:
        recipe: The recipe.
        prepared: As `Backbone.load` takes it.

    Raises:
        BackboneError: It cannot be loaded.
    """
    # Joining the processes makes each one's own GPU its current one.
    PartialState(cpu=recipe.backbone.device == "cpu")
    return recipe.backbone.load(recipe.folder, prepared)


def judged(trained: Adapter, splits: Mapping[str, Split], said: Mapping[str, Outputs]) -> Adapter:
    """The adapter with its thresholds tuned on the validation rows, its metrics, and in `training`
    their intervals and what the task reports of the last split."""
    task, metrics = trained.task, {}
    record: dict[str, Any] = {"intervals": {}}
    if "validation" in said:
        held = splits["validation"]
        task = task.tune(said["validation"], held.examples, held.targets)
    for name, outputs in said.items():
        predictions = splits[name].predictions(task, outputs)
        metrics[name] = scores_of(task, splits[name], outputs)
        record["intervals"][name] = task.intervals(predictions)
        record["report"] = {"split": name, **task.report(predictions)}
    return replace(trained, task=task, metrics=metrics, training={**trained.training, **record})
