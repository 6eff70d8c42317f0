"""Full fine-tuning: every weight of a backbone trained, the reference adapters are held against.

It is no way to serve: the weights belong to one task afterwards, and are not kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..errors import RecipeError
from ..methods.base import methods
from .plan import Plan
from .recipe import Recipe, Training
from .train import accelerate_over, carry_out, load_backbone
from .trainable import Trainee, Trainees

RATE = 1e-4
"""Peak learning rate of the backbone's weights, where the recipe leaves it open."""


@dataclass(frozen=True)
class FullFineTuning:
    """What full fine-tuning came to.

    Attributes:
        adapter: Head, record and scores; it answers nothing without the weights.
        n_parameters: Numbers that were trained.
    """

    adapter: Adapter
    n_parameters: int


class TrainableBackbone(Trainee):
    """A head, and the backbone under it."""

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        super().__init__(adapter)
        self.model = backbone.model.requires_grad_(True)
        self._best: dict[str, Tensor] = {}

    def parts(self, settings: Training) -> list[tuple[Mapping[str, nn.Parameter], float]]:
        model = dict(self.model.named_parameters())
        return [*super().parts(settings), (model, settings.learning_rate or RATE)]

    def kept(self) -> Adapter:
        self._best = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        return super().kept()

    def settle(self) -> None:
        self.model.load_state_dict(self._best, strict=False)


def check_tunable(recipe: Recipe) -> None:
    """Refuses what only an adapter can do.

    Raises:
        RecipeError: The recipe asks for it.
    """
    for key in ("on_top_of", "start_from"):
        if getattr(recipe.training, key) is not None:
            raise RecipeError(f"training.{key}: full fine-tuning has no adapter to begin with")
    if recipe.training.ensemble > 1:
        raise RecipeError("training.ensemble: full fine-tuning trains a single one; leave it at 1")


def fine_tune(recipe: Recipe, *, progress: bool = True) -> FullFineTuning:
    """Trains a recipe's head together with a backbone of its own, in float32.

    Data, head, epochs, schedule and seed are the recipe's; the hidden layers drop out as the
    backbone's configuration says, in attention nothing does.

    Args:
        recipe: The recipe; its method is left out.
        progress: Show a progress bar, and a line for every epoch.

    Raises:
        RecipeError: The recipe asks for what only an adapter can do.
        AdapterkitError: Recipe, data or backbone do not allow it.
    """
    began = time.perf_counter()
    check_tunable(recipe)
    section = replace(recipe.backbone, dtype="float32", quantization="none")
    recipe = replace(recipe, method=methods()["head"](), backbone=section)
    # Laid out for a frozen model, the linears would not see their weights change.
    backbone = load_backbone(recipe, prepared=False)
    accelerator = accelerate_over(backbone, recipe)
    if accelerator.num_processes > 1:
        raise RecipeError("full fine-tuning takes one process; start it without accelerate launch")
    plan = Plan.of(recipe, backbone)
    whole = TrainableBackbone(plan.adapter, backbone)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)  # the backbone's own dropout draws from it
        (adapter,) = carry_out([plan], Trainees(backbone, [whole]), accelerator, began, progress)
    return FullFineTuning(adapter, sum(p.numel() for p in whole.parameters()))
