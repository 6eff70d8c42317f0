"""A recipe: everything one training run depends on, as a short YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..adapter.adapter import MOST_MEMBERS
from ..backbone.embedded import EMBEDDED
from ..backbone.load_options import (
    AUTO_MAP,
    Device,
    DeviceMap,
    Dtype,
    LoadOptions,
    Quantization,
)
from ..backbone.model import Backbone
from ..data.dataset import Data
from ..errors import AdapterkitError, RecipeError, did_you_mean
from ..methods.base import Method, default_method, methods
from ..names import check_name
from ..schema import build, build_kind, check_least, convert, dump
from ..tasks.base import Task, default_task, tasks
from ..yaml12 import read_yaml
from .augmentation import Augmentation
from .search_space import SearchSpace, with_values
from .trackers import check_trackers


@dataclass(frozen=True)
class BackboneSection:
    """The frozen model.

    Attributes:
        model: minilm (embedded), a local folder or a hub name.
        dtype: float32, bfloat16 or float16: dtype of the frozen weights and of hidden states.
        quantization: none; 8bit or 4bit: the frozen linears, by bitsandbytes, for memory; int8:
            their products on a CPU, for speed. Heads never.
        device: auto (the GPU where there is one), cpu or cuda.
        device_map: Where the weights of each layer lie, for a model larger than the memory of its
            device, as in transformers: auto, a file, or names of modules to cpu, disk or the number
            of a GPU. Batches are computed on the device.
        revision: Branch, tag or commit of a hub model.
    """

    model: str = "minilm"
    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    device: Device = "auto"
    device_map: str | dict[str, str | int] | None = None
    revision: str | None = None

    def source(self, folder: Path) -> str:
        """The model, as a path from here where it is a folder.

        Args:
            folder: What a relative path starts from.
        """
        local = self.model != EMBEDDED and (folder / self.model).is_dir()
        return str(folder / self.model) if local else self.model

    def _device_map(self, folder: Path) -> DeviceMap | None:
        """The map, or the path of its file from here."""
        given = self.device_map
        return str(folder / given) if isinstance(given, str) and given != AUTO_MAP else given

    def load(self, folder: Path, prepared: bool = True, sharded: bool = False) -> Backbone:
        """The backbone.

        Args:
            folder: What a relative path starts from.
            prepared: As in `Backbone.load`.
            sharded: As in `LoadOptions`.

        Raises:
            BackboneError: It cannot be loaded.
        """
        place = self._device_map(folder)
        options = LoadOptions(self.dtype, self.quantization, self.device, place, sharded)
        return Backbone.load_with(
            self.source(folder), options, revision=self.revision, prepared=prepared
        )


@dataclass(frozen=True)
class CheckpointSection:
    """When a training saves its state, to go on after an interruption.

    Attributes:
        minutes: Minutes between two checkpoints; 0 writes one only when a signal ends the training.
        steps: Optimiser steps between two checkpoints, beside the minutes.
    """

    minutes: float = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        check_least(self, 0, "minutes")
        check_least(self, 1, "steps")


@dataclass(frozen=True)
class Training:
    """How the adapter is trained.

    Attributes:
        epochs: Passes over the training rows; if omitted, as many as take 200 optimiser steps, but
            at least 3 and at most 24.
        batch_size: Rows in one optimiser step, over all processes.
        learning_rate: Peak learning rate of the adapter; if omitted, the method's default.
        head_learning_rate: Peak learning rate of the head; if omitted, the method's default.
        schedule: linear or cosine decay to zero, or constant.
        warmup: Share of the steps in which the learning rate rises from zero.
        weight_decay: AdamW's, on matrices.
        clip: Largest L2 norm of the gradient; 0 does not clip.
        adversarial: Against overfitting: every step also learns from its rows with their word
            embeddings moved to where the loss grows fastest (fast gradient method), each sequence
            by so large an L2 norm, such as 1.0; a step takes twice as long. 0 is off.
        accumulation: Pieces one batch is computed in, to save memory; the result is the same.
        max_tokens: Most tokens computed at a time, to save memory: a batch with more is computed
            in pieces, and the result is the same. auto: as many as fit into the free memory.
        gradient_checkpointing: Keep only the input of each layer for the backward pass, and compute
            the rest again: less memory, a third more work, and the same result to the last bit.
        mixed_precision: no, bf16 or fp16: dtype of products while training, by Accelerate. fp16 is
            for a GPU and does nothing on a CPU.
        seed: Fixes initial tensors, order of rows, dropout and the drawn split.
        keep_best: Keep the epoch with the best main validation metric, and not the last one.
        patience: Stop after so many epochs without a better one; if omitted, never.
        start_from: A saved adapter (folder, or name in the store) or a PEFT folder to go on from,
            of the same method and settings. If it was trained for another task or other labels,
            the head is a new one.
        cache_mb: Most megabytes of what the layers below the adapter's first make of the training
            rows, kept from epoch to epoch; texts beyond that are computed anew. 0 keeps none.
        on_top_of: A saved adapter (folder, or name in the store), such as one trained on texts of
            the domain, that is applied first and stays as it is; answering needs it too.
        ensemble: Members trained side by side from the seeds seed, seed + 1, ... on the same
            splits, kept as one adapter; every text is asked of all of them, in one batch, and
            their raw scores are averaged.
        checkpoint: When the state is saved in the store, for --resume: every so many minutes (0:
            only when a signal ends the training) or steps, as {minutes: 10} or {steps: 500}.
        timeout: Seconds that one of several processes waits for another before all end.
        log_steps: Optimiser steps between two lines of the log, which has a line for every epoch
            as well.
        trackers: Programs that the log is sent to: tensorboard, wandb, mlflow, trackio.
        project: Project of the run in wandb and trackio, its experiment in mlflow.
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    adversarial: float = 0.0
    accumulation: int = 1
    max_tokens: int | Literal["auto"] | None = None
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    keep_best: bool = True
    patience: int | None = None
    start_from: str | None = None
    cache_mb: int = 1024
    on_top_of: str | None = None
    ensemble: int = 1
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    timeout: int = 120
    log_steps: int = 10
    trackers: tuple[str, ...] = ()
    project: str = "adapterkit"

    def __post_init__(self) -> None:
        check_least(self, 1, "epochs", "batch_size", "accumulation", "patience", "timeout")
        if self.max_tokens != "auto":
            check_least(self, 1, "max_tokens")
        check_least(self, 1, "log_steps")
        check_trackers(self.trackers)
        check_least(self, 0, "weight_decay", "clip", "adversarial", "cache_mb")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 < rate < 10.0:
                raise ValueError(f"{name}: expected more than 0 and less than 10, got {rate}")
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation: a batch of {self.batch_size} rows cannot be computed in "
                f"{self.accumulation} pieces; give at most training.batch_size"
            )
        if not 1 <= self.ensemble <= MOST_MEMBERS:
            raise ValueError(f"ensemble: expected from 1 to {MOST_MEMBERS}, got {self.ensemble}")
        if not 0 <= self.seed <= 2**32 - self.ensemble:
            raise ValueError(
                f"seed: expected a number from 0 to 2**32 - {self.ensemble}, got {self.seed}"
            )
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"warmup: expected a share from 0 to 1, got {self.warmup}")


@dataclass(frozen=True)
class Recipe:
    """Everything one training run depends on.

    Attributes:
        name: `tenant/name`, or `name` alone: what the adapter is called in the store.
        data: Where the rows are.
        task: What is learnt; its `type` names a file in `tasks/`. If omitted: classification.
        method: How the backbone is adapted; its `type` names a file in `methods/`. If omitted: the
            first method of `adapterkit compare`.
        backbone: The frozen model.
        training: How it is trained.
        augmentation: How its training rows are varied.
        search: Among which values of its keys `tune` searches; a training does not use it.
        folder: What relative paths start from; the recipe file's own folder.
    """

    name: str
    data: Data
    task: Task
    method: Method
    backbone: BackboneSection = field(default_factory=BackboneSection)
    training: Training = field(default_factory=Training)
    augmentation: Augmentation = field(default_factory=Augmentation)
    search: SearchSpace = field(default_factory=SearchSpace)
    folder: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if self.training.ensemble > 1 and self.task.ensemble_error is not None:
            raise ValueError(f"training.ensemble: {self.task.ensemble_error}")
        if self.augmentation.synonyms is not None and not self.task.augmentable:
            raise ValueError(
                f"augmentation.synonyms: {self.task.type} has answers that are places in a text, "
                "which other words would move; leave it out"
            )
        if self.augmentation.token_dropout and self.task.masks_tokens:
            raise ValueError(
                f"augmentation.token_dropout: {self.task.type} hides tokens by itself (task.share "
                "says how many); leave it out"
            )
        if not self.task.whole_batch:
            return
        why = f"{self.task.type} compares the rows of a batch with each other"
        cut = self.training.accumulation > 1 or self.training.max_tokens is not None
        if cut and self.training.adversarial:
            raise ValueError(
                f"training.adversarial: {why}, so a batch cannot be perturbed in pieces; leave out "
                "training.accumulation and training.max_tokens"
            )
        if self.training.batch_size < 2:
            raise ValueError(f"training.batch_size: {why}; give at least 2, 32 or more learn best")

    @classmethod
    def load(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Reads a YAML recipe.

        Args:
            path: The file.
            changes: `section.key=value`, applied on top of the file.

        Raises:
            RecipeError: The file or a change is not a valid recipe; the message names the place.
        """
        path = Path(path)
        content = read_content(path, changes)
        try:
            return cls.of(content, path.parent)
        except (ValueError, AdapterkitError) as error:
            raise RecipeError(f"{path}: {error}") from None

    @classmethod
    def of(cls, content: Mapping[str, Any], folder: Path | str = ".") -> Recipe:
        """A recipe from plain mappings.

        Raises:
            ValueError: A key or value is wrong; the message names it.
        """
        sections = {
            "backbone": BackboneSection,
            "training": Training,
            "augmentation": Augmentation,
        }
        kinds: dict[str, Mapping[str, Any]] = {"task": tasks(), "method": methods()}
        defaults = {"task": default_task().type, "method": default_method()}
        plain: dict[str, Any] = {key: {} for key in (*kinds, *sections)} | dict(content)
        search = SearchSpace.of(plain.pop("search", {}))
        valid = ("name", "data", *kinds, *sections)
        for key in plain:
            if key not in valid:
                single = {"data": Data, **sections}
                classes: dict[str, Sequence[Any]] = {name: [one] for name, one in single.items()}
                classes |= {name: [*one.values()] for name, one in kinds.items()}
                hint = _section_of(key, classes) or did_you_mean(str(key), (*valid, "search"))
                raise ValueError(f"{key}: there is no such key; {hint}")
        for key in valid:
            if key not in plain:
                raise ValueError(f"{key}: this key is required")
        recipe = cls(
            name=check_name(convert(str, plain["name"], "name")),
            folder=Path(folder),
            data=Data.of(plain["data"]),
            **{key: build(section, plain[key], key) for key, section in sections.items()},
            **{key: build_kind(kinds[key], plain[key], key, defaults[key]) for key in kinds},
            search=search,
        )
        for key, value in search.changes_to_check():
            try:
                cls.of(with_values(plain, {key: value}))
            except ValueError as error:
                raise ValueError(f"search.{key}: with {value}, {error}") from None
        return recipe

    def plain(self) -> dict[str, Any]:
        """The recipe as `of` takes it, every default written out, without `search`."""
        return {
            "name": self.name,
            "backbone": dump(self.backbone),
            "task": dump(self.task),
            "data": self.data.plain(self.task),
            "method": dump(self.method),
            "training": dump(self.training),
            "augmentation": dump(self.augmentation),
        }


def read_content(path: Path, changes: Iterable[str] = ()) -> dict[str, Any]:
    """The content of a YAML recipe, as `Recipe.of` takes it.

    Args:
        path: The file.
        changes: As in `Recipe.load`.

    Raises:
        RecipeError: It cannot be read, or a change is not one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None
    try:
        content = read_yaml(text)
        if not isinstance(content, Mapping):
            raise ValueError("expected keys and values (name, data, task, method, ...)")
        plain = dict(content)
        for change in changes:
            _apply(plain, change)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return plain


def _section_of(key: Any, classes: Mapping[str, Sequence[Any]]) -> str | None:
    """A hint that names the sections with a key; None if no section has it.

    Args:
        key: The key.
        classes: The dataclasses that a section may be, by its name.
    """
    found = [
        f"'{section}.{key}'"
        for section, kinds in classes.items()
        if any(key == one.name for kind in kinds for one in fields(kind))
    ]
    return f"did you mean {' or '.join(found)}?" if found else None


def _apply(plain: dict[str, Any], change: str) -> None:
    """Sets `section.key=value` in a plain recipe, also in a section of a section; the value is read
    as YAML."""
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"--set {change}: expected key=value or section.key=value")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"--set {change}: {error}") from None
    target = plain
    for depth, key in enumerate(keys[:-1], start=1):
        section = target.get(key) or {}
        if not isinstance(section, Mapping):
            where = ".".join(keys[:depth])
            raise ValueError(f"--set {change}: {where} is {section!r}, not keys and values")
        target[key] = dict(section)
        target = target[key]
    target[keys[-1]] = value
