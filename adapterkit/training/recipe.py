"""A recipe: everything one training run depends on, as a short YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data.dataset import Data
from ..errors import AdapterkitError, RecipeError, did_you_mean
from ..methods.base import Method, default_method, methods
from ..names import check_name
from ..schema import build, build_kind, convert, dump
from ..tasks.base import Task, default_task, tasks
from ..yaml12 import read_yaml
from .augmentation import Augmentation
from .backbone_section import BackboneSection
from .search_space import SearchSpace, with_values
from .training_section import Training


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
