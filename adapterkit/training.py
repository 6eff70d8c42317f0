"""Training: from recipes, one or many, to adapters with their histories and scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from .adapter import Adapter, Weights
from .augmentation import Augment, Augmented
from .backbone import Backbone
from .data import fingerprint
from .errors import AdapterkitError, DataError, RecipeError, did_you_mean
from .fanout import Memory
from .files import CONFIG, load_adapter
from .footing import Footing
from .forward import text_limit
from .geometry import Geometry
from .labelled import Split, ready
from .loop import STEP_TOKENS, Loop, outputs_of, scores_of
from .recipe import BackboneSection, Recipe
from .run import Run
from .store import Store, find_folder
from .task import Outputs, Row, Task
from .trainees import Trainee, Trainees

log = logging.getLogger("adapterkit")

HELD_OUT = ("validation", "test")


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
    _check_processes(recipes, accelerator.num_processes)
    own = augment or {}
    plans = [Plan.of(recipe, backbone, store, own.get(recipe.name)) for recipe in recipes]
    if accelerator.is_main_process:
        for plan in plans:
            _report(plan, backbone)
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


def check_together(recipes: Sequence[Recipe]) -> None:
    """Refuses recipes that cannot share a forward.

    Raises:
        RecipeError: There is none, two have one name, two differ in what all must share, or what
            is computed for all alike would not leave each as if trained alone.
    """
    if not recipes:
        raise RecipeError("there is no recipe to train")
    first, *others = recipes
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two recipes are called '{name}'; adapters need names of their own")
    for other in others:
        for what, mine, theirs in _shared(first, other):
            if mine != theirs:
                raise RecipeError(
                    f"{first.name} and {other.name} cannot be trained together: {what} is "
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


def _check_processes(recipes: Sequence[Recipe], processes: int) -> None:
    """Refuses what several processes cannot train.

    Raises:
        RecipeError: There are several recipes, one is of an ensemble, or one compares the rows of a
            whole batch.
    """
    if processes == 1:
        return
    if len(recipes) > 1:
        raise RecipeError(
            f"{len(recipes)} recipes on {processes} processes: several processes train one recipe "
            "at a time; start one process, or one command for each recipe"
        )
    members = recipes[0].training.ensemble
    if members > 1:
        raise RecipeError(
            f"training.ensemble: {members} members on {processes} processes: several processes "
            "train one adapter at a time; start one process"
        )
    task = recipes[0].task
    if task.whole_batch:
        raise RecipeError(
            f"task.type: {task.type} compares the rows of a batch with each other, so it "
            f"trains on one process, not on {processes}; start it without accelerate launch"
        )


def _shared(one: Recipe, other: Recipe) -> Iterator[tuple[str, object, object]]:
    """What two recipes must have in common: key and both values."""
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


@dataclass(frozen=True)
class Plan:
    """A recipe with all that its training begins with.

    Attributes:
        recipe: The recipe.
        rows: Of each split.
        adapter: The adapter before its first step, with all its members.
        splits: The rows made ready, the same for every member.
        augmented: The training rows as each epoch draws them; None where they stay as they are.
    """

    recipe: Recipe
    rows: Mapping[str, Sequence[Row]]
    adapter: Adapter
    splits: Mapping[str, Split]
    augmented: Augmented | None = None

    @property
    def starts(self) -> list[Adapter]:
        """The members, each as an adapter that is trained, and checked after every epoch, alone."""
        return [replace(member, others=()) for member in self.adapter.members]

    def runs(self, trainees: Iterator[Any]) -> list[Run]:
        """A run for each member, which takes the next trainee.

        Members differ in their seeds alone.
        """
        settings = self.recipe.training
        runs = []
        for number in range(settings.ensemble):
            own = replace(settings, seed=settings.seed + number, ensemble=1)
            called = f"{self.recipe.name} (seed {own.seed})" if settings.ensemble > 1 else None
            runs.append(Run(next(trainees), self.splits, own, called, self.augmented))
        return runs

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        backbone: Backbone,
        store: Store | None = None,
        augment: Augment | None = None,
    ) -> Plan:
        """Reads the rows and draws the fresh adapter.

        Raises:
            AdapterkitError: Recipe or data do not allow it.
        """
        try:
            rows = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)
            adapter = fresh_adapter(recipe, backbone, rows["train"], store)
            if adapter.task.tunes and "validation" not in rows:
                raise RecipeError(
                    f"task.{adapter.task.tunes}: it is tuned on validation rows, and there are "
                    "none; give some, or set data.validation above 0"
                )
            splits = {name: ready(backbone, adapter, part) for name, part in rows.items()}
            splits |= {n: splits[n].judged(adapter.task) for n in HELD_OUT if n in splits}
            augmented = _augmented(
                recipe, backbone, adapter, rows["train"], splits["train"], augment
            )
        except AdapterkitError as error:
            raise type(error)(f"{recipe.name}: {error}") from None
        return cls(recipe, rows, adapter, splits, augmented)


def _augmented(
    recipe: Recipe,
    backbone: Backbone,
    adapter: Adapter,
    rows: Sequence[Row],
    split: Split,
    augment: Augment | None,
) -> Augmented | None:
    """The training rows as each epoch draws them; None where they stay as they are."""
    settings = recipe.augmentation
    synonyms = settings.load(recipe.folder)
    if synonyms is None and augment is None and not settings.token_dropout:
        return None
    return Augmented(rows, split, settings, synonyms, augment, backbone, adapter)


def _memory(plans: Sequence[Plan]) -> Memory | None:
    """Where states of the training rows are kept; a single epoch, or rows that are other ones in
    every epoch, would never look at them again."""
    again = [
        plan.recipe.training
        for plan in plans
        if plan.augmented is None
        and not plan.recipe.training.adversarial
        and not plan.recipe.task.hides
    ]
    rooms = [training.cache_mb for training in again if training.epochs > 1]
    return Memory(max(rooms) * 1_000_000) if any(rooms) else None


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
        method, tensors = member.method.fold(member.tensors)
        folded.append(replace(member, method=method, tensors=tensors))
    first, *others = folded
    return replace(first, others=tuple(Weights(other.tensors, other.head) for other in others))


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


def fresh_adapter(
    recipe: Recipe, backbone: Backbone, rows: Sequence[Row], store: Store | None = None
) -> Adapter:
    """The adapter before its first step: drawn from the recipe's seed, or from a saved one; an
    ensemble has all its members, each drawn from its own seed.

    Raises:
        AdapterkitError: Method or task do not fit the backbone, the rows or the saved adapter.
    """
    geometry = backbone.geometry
    task = recipe.task.fit(rows, backbone.pooling).suited(backbone.lm_head)
    below = _below(recipe, backbone, store)
    taken = below.num_virtual_tokens if below is not None else 0
    room = geometry.positions - taken - recipe.method.num_virtual_tokens
    if task.max_length is not None and not 3 <= task.max_length <= room:
        raise RecipeError(
            f"task.max_length: {task.max_length} is not from 3 to {room}, the most that backbone "
            f"'{backbone.name}' takes with this method"
        )
    try:
        recipe.method.shapes(geometry)
    except ValueError as error:
        raise RecipeError(f"method.{error}") from None
    if room < 3:
        raise RecipeError(
            f"method.num_virtual_tokens: {recipe.method.num_virtual_tokens} leave no room for a "
            f"text beside the {taken} of training.on_top_of; there are {geometry.positions}"
        )
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
        others=tuple(others),
    )


def _drawn(
    recipe: Recipe, geometry: Geometry, task: Task, seed: int, saved: Adapter | None
) -> Weights:
    """What one member begins with: fresh from its seed, or a saved adapter's."""
    generator = torch.Generator().manual_seed(seed)
    tensors = recipe.method.fresh(geometry, generator)
    head = task.fresh_head(geometry.hidden, generator)
    if saved is None:
        return Weights(tensors, head)
    return Weights(recipe.method.resume(saved.tensors, geometry, generator), saved.head)


def _saved(
    recipe: Recipe, backbone: Backbone, task: Task, below: Adapter | None
) -> Sequence[Adapter | None]:
    """For each member the saved adapter it goes on from: all from a single one, or each from its
    own of an ensemble of as many; None where they begin afresh.

    Raises:
        AdapterkitError: It does not fit the recipe.
    """
    reference, wanted = recipe.training.start_from, recipe.training.ensemble
    if reference is None:
        return [None] * wanted
    saved, geometry = load_adapter(recipe.folder / reference, backbone), backbone.geometry
    if saved.method.shapes(geometry) != recipe.method.shapes(geometry):
        raise RecipeError(
            f"training.start_from: {reference} is {saved.method}, the recipe asks for "
            f"{recipe.method}"
        )
    if not task.same_answers(saved.task):
        raise RecipeError(f"training.start_from: {reference} was trained for other answers")
    if [floor.digest for floor in saved.floors[:-1]] != (
        [floor.digest for floor in below.floors] if below is not None else []
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
    return saved.members if saved.others else [saved] * wanted


def _below(recipe: Recipe, backbone: Backbone, store: Store | None) -> Adapter | None:
    """The frozen adapter a recipe's stands on, on the backbone's device."""
    reference = recipe.training.on_top_of
    if reference is None:
        return None
    folder = recipe.folder / reference
    if not (folder / CONFIG).is_file():
        folder = find_folder(reference, store or Store("adapters"))
    below = load_adapter(folder, backbone)
    if below.others:
        raise RecipeError(
            f"training.on_top_of: {reference} is an ensemble of {below.n_members} members; an "
            "adapter stands on a single one"
        )
    if store is not None:
        # Refuses before the training what publishing would refuse after it.
        store.holding(Footing.of(below))
    return below.to(backbone.device)


def judged(trained: Adapter, splits: Mapping[str, Split], said: Mapping[str, Outputs]) -> Adapter:
    """The adapter with its thresholds tuned on the validation rows, its metrics, and in `training`
    their intervals and what the task reports of the last split."""
    task, metrics = trained.task, {}
    record: dict[str, Any] = {"intervals": {}}
    if "validation" in said:
        held = splits["validation"]
        task = task.tuned(said["validation"], held.examples, held.targets)
    for name, outputs in said.items():
        predictions = splits[name].predictions(task, outputs)
        metrics[name] = scores_of(task, splits[name], outputs)
        record["intervals"][name] = task.intervals(predictions)
        record["report"] = {"split": name, **task.report(predictions)}
    return replace(trained, task=task, metrics=metrics, training={**trained.training, **record})


def _report(plan: Plan, backbone: Backbone) -> None:
    adapter, splits = plan.adapter, plan.splits
    counts = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    below = [*(floor.name for floor in adapter.floors[-2::-1]), backbone.name]
    share = 100.0 * adapter.n_parameters / (adapter.n_parameters + backbone.n_parameters)
    many = f"{adapter.n_members} members, " if adapter.others else ""
    log.info(
        f"{adapter.name}: {adapter.method.type} on {' on '.join(below)}, {many}{counts} rows, "
        f"{adapter.n_parameters:,} trainable parameters ({share:.2f}%)"
    )
    cut = sum(row.truncated for part in splits.values() for row in part.examples)
    if cut:
        log.warning(
            f"{cut} texts are longer than {text_limit(backbone, adapter)} tokens and were cut"
        )
    for warning in adapter.task.warnings(plan.rows["train"]):
        log.warning(warning)
