"""Training one adapter: from a recipe to an adapter with its history and scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import set_seed

from .adapter import Adapter
from .backbone import Backbone
from .data import fingerprint
from .errors import RecipeError
from .files import load_adapter
from .forward import text_limit
from .loop import Loop, Split, Trainee, scores
from .recipe import Recipe
from .task import Row

log = logging.getLogger("adapterkit")


def train(recipe: Recipe, backbone: Backbone | None = None, *, progress: bool = True) -> Adapter:
    """Trains the adapter a recipe describes, on as many processes as Accelerate was launched with.

    Args:
        recipe: The recipe.
        backbone: An already loaded backbone in place of the recipe's.
        progress: Show a progress bar.

    Returns:
        The adapter, with its history and metrics; the same on every process.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow it.
    """
    began = time.perf_counter()
    settings = recipe.training
    if backbone is None:
        backbone = load_backbone(recipe)
    # Accelerate keeps the precision of a process's first run for good; runs may differ in it.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=backbone.device.type == "cpu", mixed_precision=settings.mixed_precision
    )
    set_seed(settings.seed)
    rows = recipe.data.load(recipe.folder, settings.seed, recipe.task)
    adapter = fresh_adapter(recipe, backbone, rows["train"])
    splits = {name: ready(backbone, adapter, part) for name, part in rows.items()}
    if accelerator.is_main_process:
        _report(adapter, backbone, rows, splits)
    trainee = Trainee(backbone, adapter).to(backbone.device)
    loop = Loop(accelerator, trainee, adapter, splits, settings)
    trained = loop.run(progress and accelerator.is_main_process)
    method, tensors = trained.method.fold(trained.tensors)
    trained = replace(trained, method=method, tensors=tensors)
    metrics: dict[str, dict[str, float]] = {
        name: scores(accelerator, backbone, trained, splits[name])
        for name in ("validation", "test")
        if name in splits
    }
    record = {
        "recipe": recipe.plain(),
        "seed": settings.seed,
        "data": fingerprint(rows),
        "rows": {name: len(part) for name, part in splits.items()},
        "processes": accelerator.num_processes,
        "seconds": round(time.perf_counter() - began, 1),
        **loop.record(),
    }
    accelerator.free_memory()
    return replace(trained, training=record, metrics=metrics)


def load_backbone(recipe: Recipe) -> Backbone:
    """The recipe's backbone, on the device that Accelerate gives this process.

    Raises:
        BackboneError: It cannot be loaded.
    """
    # Joining the processes makes each one's own GPU its current one.
    PartialState(cpu=recipe.backbone.device == "cpu")
    return recipe.backbone.load(recipe.folder)


def fresh_adapter(recipe: Recipe, backbone: Backbone, rows: Sequence[Row]) -> Adapter:
    """The adapter before its first step: drawn from the recipe's seed, or from a saved one.

    Raises:
        AdapterkitError: Method or task do not fit the backbone, the rows or the saved adapter.
    """
    generator = torch.Generator().manual_seed(recipe.training.seed)
    geometry = backbone.geometry
    task = recipe.task.fit(rows, backbone.pooling)
    room = geometry.positions - recipe.method.num_virtual_tokens
    if task.max_length is not None and not 3 <= task.max_length <= room:
        raise RecipeError(
            f"task.max_length: {task.max_length} is not from 3 to {room}, the most that backbone "
            f"'{backbone.name}' takes with this method"
        )
    try:
        tensors = recipe.method.fresh(geometry, generator)
    except ValueError as error:
        raise RecipeError(f"method.{error}") from None
    head = task.fresh_head(geometry.hidden, generator)
    if recipe.training.start_from is not None:
        saved = load_adapter(recipe.folder / recipe.training.start_from, backbone)
        if saved.method.shapes(geometry) != recipe.method.shapes(geometry):
            raise RecipeError(
                f"training.start_from: {recipe.training.start_from} is {saved.method}, "
                f"the recipe asks for {recipe.method}"
            )
        if not task.same_answers(saved.task):
            raise RecipeError(
                f"training.start_from: {recipe.training.start_from} was trained for other answers"
            )
        tensors, head = recipe.method.resume(saved.tensors, geometry, generator), saved.head
    return Adapter(
        name=recipe.name,
        method=recipe.method,
        task=task,
        tensors=tensors,
        head=head,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
    )


def ready(backbone: Backbone, adapter: Adapter, rows: Sequence[Row]) -> Split:
    """Rows tokenised and their targets found.

    Raises:
        DataError: A row's label is not one the task knows.
    """
    limit = text_limit(backbone, adapter)
    examples = adapter.task.examples([row.fields for row in rows], backbone.reader, limit)
    targets = [
        adapter.task.target(row, example) for row, example in zip(rows, examples, strict=True)
    ]
    return Split(examples, targets)


def _report(
    adapter: Adapter,
    backbone: Backbone,
    rows: Mapping[str, Sequence[Row]],
    splits: Mapping[str, Split],
) -> None:
    counts = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    share = 100.0 * adapter.n_parameters / (adapter.n_parameters + backbone.n_parameters)
    log.info(
        f"{adapter.name}: {adapter.method.type} on {backbone.name}, {counts} rows, "
        f"{adapter.n_parameters:,} trainable parameters ({share:.2f}%)"
    )
    cut = sum(row.truncated for part in splits.values() for row in part.examples)
    if cut:
        log.warning(
            f"{cut} texts are longer than {text_limit(backbone, adapter)} tokens and were cut"
        )
    for warning in adapter.task.warnings(rows["train"]):
        log.warning(warning)
