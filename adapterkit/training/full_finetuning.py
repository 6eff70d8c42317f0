"""Full fine-tuning: all weights of a backbone are trained, as a reference for adapters.

It cannot be served: afterwards the weights belong to one task, and they are not saved.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..errors import RecipeError
from ..methods.base import Method, methods
from .callbacks.base import Callback, Event
from .checkpoint import CheckpointPlace
from .loop import LoopOptions
from .plan import Plan, Rows
from .processes import make_accelerator
from .recipe import Recipe
from .train import checkpoint_callbacks, load_backbone, run_plans
from .trainable import TrainableAdapter, TrainableAdapters
from .training_section import Training

LEARNING_RATE = 1e-4
"""Peak learning rate of the backbone's weights if the recipe names none."""


@dataclass(frozen=True)
class FullFineTuning:
    """The result of full fine-tuning.

    Attributes:
        adapter: Head, record and metrics; it answers nothing without the trained backbone.
        n_parameters: Number of trained parameters.
    """

    adapter: Adapter
    n_parameters: int


class TrainableBackbone(TrainableAdapter):
    """A head, and the backbone below it.

    Args:
        adapter: The adapter with the head.
        backbone: The backbone, loaded with `prepared=False`; its own weights are trained.
    """

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        super().__init__(adapter)
        self.model = backbone.model.requires_grad_(True)

    def parameters_by_rate(
        self, settings: Training
    ) -> list[tuple[Mapping[str, nn.Parameter], float]]:
        model = dict(self.model.named_parameters())
        learning_rate = settings.learning_rate or LEARNING_RATE
        return [*super().parameters_by_rate(settings), (model, learning_rate)]


def check_tunable(recipe: Recipe) -> None:
    """Refuses what only an adapter can do.

    Raises:
        RecipeError: The recipe asks for it.
    """
    for key in ("on_top_of", "start_from"):
        if getattr(recipe.training, key) is not None:
            raise RecipeError(f"training.{key}: full fine-tuning has no adapter to begin with")
    if recipe.backbone.device_map is not None:
        raise RecipeError(
            "backbone.device_map: full fine-tuning changes all weights, so they lie on one device; "
            "leave it out"
        )
    if recipe.training.ensemble > 1:
        raise RecipeError("training.ensemble: full fine-tuning trains a single one; leave it at 1")


class _GeneratorState(Callback):
    """Saves with a run the generator from which the backbone draws its dropout."""

    type: ClassVar[str] = "generator_state"
    order: ClassVar[int] = 1  # after a checkpoint was loaded

    def on_start(self, event: Event) -> None:
        for run in event.all_runs:
            if self.type in run.callback_state:
                _generator(event.backbone.device).set_state(run.callback_state[self.type])

    def on_step(self, event: Event) -> None:
        for run in event.runs:
            run.callback_state[self.type] = _generator(event.backbone.device).get_state()


def fine_tune(
    recipe: Recipe,
    rows: Rows | None = None,
    place: CheckpointPlace | None = None,
    *,
    progress: bool = True,
) -> FullFineTuning:
    """Trains the head of a recipe together with a backbone of its own, in float32.

    Data, head, epochs, schedule and seed are the recipe's. The hidden layers have the dropout of
    the backbone's configuration; attention has none.

    Args:
        recipe: The recipe; its method is not used.
        rows: Its rows, as `load_rows` returns them; if omitted, they are read.
        place: Where its checkpoints are; if omitted, none are written.
        progress: Show a progress bar, and a line for every epoch.

    Raises:
        RecipeError: The recipe asks for what only an adapter can do.
        AdapterkitError: Recipe, data or backbone do not allow the training.
    """
    started = time.perf_counter()
    check_tunable(recipe)
    section = replace(recipe.backbone, dtype="float32", quantization="none")
    recipe = replace(recipe, backbone=section)
    # Prepared for a frozen model, the linears would not see their weights change.
    backbone = load_backbone([recipe], prepared=False)
    recipe = replace(recipe, method=_method_without_tensors())
    accelerator = make_accelerator(recipe, backbone.device)
    if accelerator.num_processes > 1:
        raise RecipeError("full fine-tuning takes one process; start it without accelerate launch")
    plan = Plan.of(recipe, backbone, rows=rows)
    trainable = TrainableBackbone(plan.adapter, backbone)
    trainables = TrainableAdapters(
        backbone, [trainable], recompute=recipe.training.gradient_checkpointing
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)  # seeds the backbone's own dropout
        saving = checkpoint_callbacks([plan], place)
        options = LoopOptions([_GeneratorState(), *saving], progress)
        (adapter,) = run_plans([plan], trainables, accelerator, options, started)
    return FullFineTuning(adapter, sum(p.numel() for p in trainable.parameters()))


def _generator(device: torch.device) -> torch.Generator:
    """Torch's own generator for a device."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device()]


def _method_without_tensors() -> Method:
    """The method that leaves the backbone as it is: only the head is trained beside it."""
    instances = (method() for method in methods().values())
    return next(one for one in instances if not one.sites and not one.num_virtual_tokens)
