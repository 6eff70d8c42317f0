"""The `search` section of a recipe: the values among which a search chooses, by key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import did_you_mean
from ..schema import build

SECTIONS = ("training", "method", "task", "augmentation")
"""Sections whose keys can be searched: trials share the rows and the backbone."""

SHARED = ("task.type", "training.ensemble", "training.mixed_precision", "training.trackers")
"""Keys that all trials must have in common."""

Value = bool | int | float | str | None


class Suggestions(Protocol):
    """What a trial of Optuna offers."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class Range:
    """Numbers from a lowest to a highest one; whole numbers if both ends are.

    Attributes:
        low: The lowest.
        high: The highest.
        log: Draw from the logarithm: as many from 0.001 to 0.01 as from 0.01 to 0.1.
        step: Distance of two numbers; 1 for whole numbers, else any number if omitted.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low} has no logarithm; give more than 0, or log: false")
        if self.log and self.step is not None:
            raise ValueError("step: does not go with log: true; leave one of them out")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step: {self.step} is not from 0 to high - low")
        if self.is_whole and self.step is not None and not isinstance(self.step, int):
            raise ValueError(f"step: {self.step} is no whole number, and low and high are")

    @property
    def is_whole(self) -> bool:
        """Whether it has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that show whether all are valid."""
        return self.low, self.high

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not self.low <= value <= self.high or (self.is_whole and not isinstance(value, int)):
            return False
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or math.isclose(steps, round(steps), abs_tol=1e-9)

    def suggest(self, trial: Suggestions, key: str) -> Value:
        """The value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(key, self.low, self.high, step=step, log=self.log)
        step_size = None if self.step is None else float(self.step)
        return trial.suggest_float(
            key, float(self.low), float(self.high), step=step_size, log=self.log
        )

    def plain(self) -> dict[str, Any]:
        """The range as a recipe has it."""
        given = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return {key: value for key, value in given.items() if value not in (None, False)}


@dataclass(frozen=True)
class Choice:
    """Single values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that show whether all are valid."""
        return self.values

    def __contains__(self, value: object) -> bool:
        return any(value == one and type(value) is type(one) for one in self.values)

    def suggest(self, trial: Suggestions, key: str) -> Value:
        """The value of a trial."""
        chosen: Value = trial.suggest_categorical(key, list(self.values))
        return chosen

    def plain(self) -> list[Value]:
        """The values as a recipe has them."""
        return list(self.values)


@dataclass(frozen=True)
class SearchSpace:
    """Which keys of a recipe a search varies.

    Attributes:
        ranges: `section.key` to its values.
    """

    ranges: Mapping[str, Range | Choice] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Any) -> SearchSpace:
        """The space of a recipe's section `search`.

        Raises:
            ValueError: It is not valid; the message names the key.
        """
        if not isinstance(plain, Mapping):
            raise ValueError(f"search: expected keys and their values, got {plain!r}")
        ranges = {str(key): _values_of(str(key), values) for key, values in plain.items()}
        for key in ranges:
            section, _, name = key.partition(".")
            if section not in SECTIONS or not name:
                raise ValueError(
                    f"search.{key}: expected a key such as training.learning_rate; "
                    f"{did_you_mean(section, SECTIONS)}"
                )
            if key in SHARED:
                raise ValueError(f"search.{key}: all trials must have the same; leave it out")
            if f"{section}.type" in ranges and name != "type":
                raise ValueError(
                    f"search.{key}: cannot be searched beside search.{section}.type, whose kinds "
                    "have other keys"
                )
        return cls(ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def changes_to_check(self) -> Iterator[tuple[str, Value]]:
        """Keys and values such that all values are valid if these are."""
        return ((key, value) for key, values in self.ranges.items() for value in values.ends)

    def suggest(self, trial: Suggestions) -> dict[str, Value]:
        """The values of a trial, by key."""
        return {key: values.suggest(trial, key) for key, values in self.ranges.items()}

    def plain(self) -> dict[str, Any]:
        """The section as a recipe has it."""
        return {key: values.plain() for key, values in self.ranges.items()}


def with_values(content: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """The content of a recipe with other values and without its section `search`.

    Args:
        content: The content, as `Recipe.of` takes it.
        values: `section.key` to value. A `type` that is not the section's removes its other keys,
            which belong to another kind.
    """
    changed = {key: value for key, value in content.items() if key != "search"}
    for path, value in values.items():
        section, _, key = path.partition(".")
        old = dict(changed.get(section) or {})
        if key == "type" and old.get("type", value) != value:
            old = {}
        changed[section] = {**old, key: value}
    return changed


def _values_of(key: str, values: Any) -> Range | Choice:
    """The values of one key.

    Raises:
        ValueError: They are neither a range nor a list of different single values.
    """
    if isinstance(values, Mapping):
        found: Range = build(Range, values, f"search.{key}")
        return found
    if not isinstance(values, list) or not values:
        raise ValueError(
            f"search.{key}: expected {{low: ..., high: ...}} or a list of values, got {values!r}"
        )
    for value in values:
        if not isinstance(value, bool | int | float | str | None):
            raise ValueError(f"search.{key}: expected single values, got {value!r}")
        if sum(value == other and type(value) is type(other) for other in values) > 1:
            raise ValueError(f"search.{key}: {value!r} is there twice")
    return Choice(tuple(values))
