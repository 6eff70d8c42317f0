"""Typed sections from plain mappings: accepted values, refused values and their messages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from adapterkit.data.dataset import Data
from adapterkit.methods.base import methods
from adapterkit.schema import build, build_kind, convert, dump, is_text, keys_of
from adapterkit.tasks.base import tasks
from adapterkit.training.backbone_section import BackboneSection
from adapterkit.training.recipe import Recipe
from adapterkit.training.training_section import Training

KINDS: list[Any] = [*methods().values(), *tasks().values()]
SECTIONS: list[Any] = [Data, BackboneSection, Training, *KINDS]


@dataclass(frozen=True)
class Wheel:
    """A wheel.

    Attributes:
        size: Diameter in inches,
            rim: included.
        spokes: How many.
    """

    size: float
    spokes: int = 32

    def __post_init__(self) -> None:
        if self.spokes < 3:
            raise ValueError(f"spokes: expected at least 3, got {self.spokes}")


@dataclass(frozen=True)
class Bike:
    """A bike with one wheel.

    Attributes:
        wheel: The only wheel.
        colour: Colour of the frame.
        gears: Number of teeth of each gear.
        lamp: Whether it has a lamp.
        brake: Type of the brake.
    """

    wheel: Wheel
    colour: str | None = None
    gears: tuple[int, ...] = (12, 24)
    lamp: bool = True
    brake: Literal["disc", "rim"] = "disc"


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 3, 3),
        (float, 0.5, 0.5),
        (float, 3, 3.0),
        (float, "2e-3", 0.002),
        (float, "1E5", 100000.0),
        (str, "我的卡", "我的卡"),
        (str, "no", "no"),
        (bool, False, False),
        (int | None, None, None),
        (int | None, 7, 7),
        (float | None, "1e-4", 0.0001),
        (tuple[int, ...], [3, 1], (3, 1)),
        (tuple[str, ...], (), ()),
        (tuple[int, ...] | None, [0], (0,)),
        (Literal["cls", "mean"], "mean", "mean"),
        (Literal["cls", "mean"] | None, None, None),
        (str | float | None, "dev.csv", "dev.csv"),
        (str | float | None, 0.2, 0.2),
        (str | float | None, 0, 0.0),
    ],
)
def test_values_of_the_type_are_accepted(hint: Any, value: Any, expected: Any) -> None:
    actual = convert(hint, value, "place")
    assert actual == expected
    assert type(actual) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "3", "expected a whole number, got '3'"),
        (int, 3.0, "expected a whole number, got 3.0"),
        (int, True, "expected a whole number, got True"),
        (int, None, "expected a whole number, got None"),
        (float, "fast", "expected a number, got 'fast'"),
        (float, True, "expected a number, got True"),
        (float, [1.0], "expected a number, got [1.0]"),
        (float, float("nan"), "expected a number, got nan"),
        (float, float("inf"), "expected a number, got inf"),
        (float, "-inf", "expected a number, got '-inf'"),
        (float, 10**400, f"expected a number, got 1{'0' * 400}"),
        (str, 5, "expected a text, got 5; put it in quotes"),
        (str, False, "expected a text, got False; put it in quotes"),
        (str, ["a"], "expected a text, got ['a']"),
        (str, "half \ud83d", "expected a text, got 'half \\ud83d'"),
        (bool, 1, "expected true or false, got 1"),
        (bool, "yes", "expected true or false, got 'yes'"),
        (int | None, "3", "expected a whole number, got '3'"),
        (tuple[int, ...], 3, "expected a list, got 3"),
        (tuple[str, ...], "query", "expected a list, got 'query'"),
        (tuple[str, ...], {"query"}, "expected a list, got {'query'}"),
        (Literal["cls", "mean"], "max", "expected one of cls, mean, got 'max'"),
        (Literal["cls", "mean"], ["cls"], "expected one of cls, mean, got ['cls']"),
        (str | float | None, True, "expected a text or a number, got True"),
        (str | float | None, {"a": 1}, "expected a text or a number, got {'a': 1}"),
        (float | Literal["tuned"], "off", "expected a number or 'tuned', got 'off'"),
        (float | tuple[float, ...], [1.0, "x"], "expected a number or a list, got [1.0, 'x']"),
        (Wheel, 26, "expected keys and values, got 26"),
    ],
)
def test_values_of_another_type_are_refused(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^place: ") as caught:
        convert(hint, value, "place")
    assert str(caught.value) == f"place: {message}"


def test_a_message_names_the_index_in_a_list() -> None:
    with pytest.raises(ValueError, match=r"^layers\[2\]: expected a whole number, got 'x'$"):
        convert(tuple[int, ...], [0, 1, "x"], "layers")


def test_nested_sections_are_built() -> None:
    values = {"wheel": {"size": 26}, "gears": [11], "brake": "rim"}
    assert build(Bike, values, "bike") == Bike(Wheel(26.0), None, (11,), True, "rim")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weel": {}}, "bike.weel: there is no such key; did you mean 'wheel'?"),
        ({"qqq": 1}, "bike.qqq: there is no such key; valid are: brake, colour, gears, lamp, whe"),
        ({"wheel": {"size": 1}, 5: 1}, "bike.5: there is no such key; valid are: brake"),
        ({"wheel": {"size": 1, "spoke": 1}}, "bike.wheel.spoke: there is no such key; did you me"),
        ({"wheel": {}}, "bike.wheel.size: this key is required"),
        ({}, "bike.wheel: this key is required"),
        ({"wheel": None}, "bike.wheel: expected keys and values, got None"),
        ({"wheel": {"size": 1, "spokes": 2}}, "bike.wheel.spokes: expected at least 3, got 2"),
        ({"wheel": {"size": 1}, "gears": [1, None]}, "bike.gears[1]: expected a whole number"),
        ([("wheel", 1)], "bike: expected keys and values"),
        ("wheel", "bike: expected keys and values, got 'wheel'"),
    ],
)
def test_a_message_names_the_full_path(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^bike") as caught:
        build(Bike, values, "bike")
    assert str(caught.value).startswith(message)


def test_a_message_without_path_starts_with_the_key() -> None:
    with pytest.raises(ValueError, match=r"^spoke: there is no such key; did you mean 'spokes'\?$"):
        build(Wheel, {"spoke": 3}, "")
    with pytest.raises(ValueError, match=r"^size: this key is required$"):
        build(Wheel, {}, "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "weel"}, "part.type: 'weel' is not known; did you mean 'wheel'?"),
        ({"type": None}, "part.type: 'None' is not known; valid are: bike, wheel"),
        ({"type": ["wheel"]}, "part.type: '['wheel']' is not known; did you mean 'wheel'?"),
        ({"size": 3}, "part.type: this key is required; one of bike, wheel"),
        ("wheel", "part: expected keys and values, got 'wheel'"),
        (None, "part: expected keys and values, got None"),
        ({"type": "wheel", "size": "x"}, "part.size: expected a number, got 'x'"),
    ],
)
def test_a_kind_is_chosen_by_its_type(values: Any, message: str) -> None:
    kinds = {"wheel": Wheel, "bike": Bike}
    assert build_kind(kinds, {"type": "wheel", "size": 3}, "part") == Wheel(3.0)
    with pytest.raises(ValueError, match=r"^part") as caught:
        build_kind(kinds, values, "part")
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_every_kind_survives_dump_and_build(kind: Any) -> None:
    section = kind()
    values = dump(section)
    assert next(iter(values)) == "type"
    assert build_kind({kind.type: kind}, values, "x") == section


def test_nested_sections_survive_dump_and_build() -> None:
    bike = Bike(Wheel(26.0, 36), "red", (1, 2), False, "rim")
    assert dump(bike)["wheel"] == {"size": 26.0, "spokes": 36}
    assert dump(bike)["gears"] == [1, 2]
    assert build(Bike, dump(bike), "bike") == bike


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_has_a_default_and_a_meaning(section: Any) -> None:
    rows = keys_of(section)
    assert [name for name, _, _ in rows] == [field.name for field in fields(section)]
    for name, default, meaning in rows:
        assert default, name
        assert default != "required", f"{name}: a recipe may omit every key"
        assert meaning, f"{name} has no meaning in the docstring"


def test_every_part_of_a_recipe_has_a_meaning() -> None:
    assert all(meaning for _, _, meaning in keys_of(Recipe))


def test_keys_of_shows_default_and_full_meaning() -> None:
    assert keys_of(Wheel) == [
        ("size", "required", "Diameter in inches, rim: included."),
        ("spokes", "32", "How many."),
    ]
    shown = {name: default for name, default, _ in keys_of(Bike)}
    assert shown == {
        "wheel": "required",
        "colour": "automatic",
        "gears": "[12, 24]",
        "lamp": "true",
        "brake": "disc",
    }


@pytest.mark.parametrize("value", ["", "a", "我的卡", "¿dónde?", "🙂", "a\0b"])
def test_unicode_strings_are_texts(value: str) -> None:
    assert is_text(value)


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"], "\ud83d", "a\udcff"])
def test_half_surrogate_pairs_and_other_values_are_not_texts(value: object) -> None:
    assert not is_text(value)
