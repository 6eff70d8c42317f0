"""Typed dataclasses from plain mappings and back: recipe sections, command-line values, files."""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
)

from .errors import did_you_mean

LARGEST_FACTOR = 10_000.0
"""Products of two such factors and a hidden state are far from the end of float32."""

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    tuple: "a list",
    dict: "keys and values",
}


def build(cls: Any, values: Any, where: str) -> Any:
    """Builds a dataclass from a mapping; every key must be known, every value of its type.

    Args:
        cls: The dataclass; nested dataclasses are built from nested mappings.
        values: The mapping.
        where: Path of the mapping in messages, such as `training`; empty for the top level.

    Raises:
        ValueError: A key is unknown or missing, or a value is of another type. The message names
            the key by its full path and, for an unknown key, the nearest valid one.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {values!r}")
    hints = _hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}
    for key in values:
        if key not in known:
            path = f"{where}.{key}" if where else str(key)
            raise ValueError(f"{path}: there is no such key; {did_you_mean(str(key), known)}")
    found = {}
    for name, field in known.items():
        path = f"{where}.{name}" if where else name
        if name in values:
            found[name] = convert(hints[name], values[name], path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{path}: this key is required")
    try:
        return cls(**found)
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; annotations are evaluated once a class."""
    return get_type_hints(cls)


def build_kind(
    kinds: Mapping[str, Any], values: Any, where: str, default: str | None = None
) -> Any:
    """Builds the dataclass that the mapping's `type` names from the mapping's other keys.

    Args:
        kinds: Dataclass by type.
        values: The mapping.
        where: Path of the mapping in messages.
        default: The type of a mapping without one; None if it must have one.

    Raises:
        ValueError: As for `build`, or the type is missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {values!r}")
    if "type" not in values and default is None:
        raise ValueError(f"{where}.type: this key is required; one of {', '.join(sorted(kinds))}")
    kind = values.get("type", default)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where}.type: '{kind}' is not known; {did_you_mean(str(kind), kinds)}")
    return build(kinds[kind], {k: v for k, v in values.items() if k != "type"}, where)


def convert(hint: Any, value: Any, where: str) -> Any:
    """Converts a value to a type, strictly: only a whole number may stand for a number.

    A list may stand for a tuple, and a text for a number if it is one (`1e-4`).

    Raises:
        ValueError: The value is not of the type.
    """
    if is_dataclass(hint):
        return build(hint, value, where)
    try:
        return _validator(hint).validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
    members = _members(hint)
    index = next((part for part in fault["loc"] if isinstance(part, int)), None)
    if index is not None and len(members) == 1:  # an item of a tuple
        members, where, value = get_args(members[0])[:1], f"{where}[{index}]", fault["input"]
    advice = "; put it in quotes" if members == (str,) and isinstance(value, (int, float)) else ""
    raise ValueError(f"{where}: expected {_words(members)}, got {value!r}{advice}")


@cache
def _validator(hint: Any) -> TypeAdapter[Any]:
    config = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(_annotated(hint), config=config)


def _annotated(hint: Any) -> Any:
    """Adds to a type what strict validation lacks: lists, numbers as texts, texts that encode."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is float:
        return Annotated[float, BeforeValidator(_number)]
    if hint is str:
        return Annotated[str, AfterValidator(_encodable)]
    if origin is tuple:
        items = types.GenericAlias(tuple, (_annotated(arguments[0]), ...))
        return Annotated[items, BeforeValidator(_tuple)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_annotated, arguments))]  # noqa: UP007, built at run time
    return hint


def _number(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _encodable(value: str) -> str:
    value.encode()  # raises UnicodeEncodeError, a ValueError, for half of a surrogate pair
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows, None aside."""
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    return tuple(member for member in get_args(hint) if member is not type(None))


def _words(members: tuple[Any, ...]) -> str:
    """What a message calls the types that are expected."""
    if len(members) == 1 and get_origin(members[0]) is Literal:
        return f"one of {', '.join(map(str, get_args(members[0])))}"
    return " or ".join(map(_word, members))


def _word(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return WORDS.get(get_origin(hint) or hint, str(hint))


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that a file can hold: half of a surrogate pair is not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def dump(section: Any) -> dict[str, Any]:
    """Turns a dataclass into a plain mapping, its `type` first if it has one (see `build`)."""
    plain: dict[str, Any] = {"type": section.type} if hasattr(section, "type") else {}
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            value = dump(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def keys_of(cls: Any) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every key of a section; meanings come from its docstring."""
    meanings: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        meanings |= _meanings(kind.__doc__ or "")
    rows = []
    for field in fields(cls):
        value = field.default
        if value is MISSING and field.default_factory is not MISSING:
            value = field.default_factory()
        default = "required" if value is MISSING else _default_text(value)
        rows.append((field.name, default, meanings.get(field.name, "")))
    return rows


def _default_text(value: Any) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, Mapping) and not value:
        return "none"
    if is_dataclass(value):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        parts = [f"{name}: {_default_text(v)}" for name, v in given.items() if v is not None]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meanings(doc: str) -> dict[str, str]:
    """The `Attributes:` part of a docstring: text of each attribute, on one line."""
    meanings: dict[str, str] = {}
    name = None
    for line in doc.partition("Attributes:")[2].splitlines():
        indent = len(line) - len(line.lstrip())
        text = line.strip()
        head, colon, rest = text.partition(":")
        if text and colon and indent <= 8 and head.isidentifier():
            name = head
            meanings[name] = rest.strip()
        elif text and name is not None:
            meanings[name] += f" {text}"
    return meanings


def check_least(settings: object, least: int, *names: str) -> None:
    """Checks that settings are not below a bound; None (a setting that is omitted) passes.

    Raises:
        ValueError: A setting is below the bound, or NaN.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")


def check_factor(settings: object, *names: str) -> None:
    """Checks that a factor on what an adapter adds cannot make an answer overflow.

    Raises:
        ValueError: Its absolute value is more than `LARGEST_FACTOR`, or it is NaN.
    """
    for name in names:
        value = getattr(settings, name)
        if not abs(value) <= LARGEST_FACTOR:
            raise ValueError(f"{name}: expected at most {LARGEST_FACTOR:,.0f}, got {value}")


def check_share(settings: object, *names: str) -> None:
    """Checks that settings are shares: 0 or more and less than 1.

    Raises:
        ValueError: A setting is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: expected 0 or more and less than 1, got {value}")
