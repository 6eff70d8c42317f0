"""Typed dataclasses from plain mappings and back: recipe sections, command-line values, files."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from .errors import did_you_mean

WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def build(cls: Any, values: Any, where: str) -> Any:
    """A dataclass from a mapping, every key known and every value of its type.

    Args:
        cls: The dataclass; nested dataclasses are built from nested mappings.
        values: The mapping.
        where: What messages call it, such as `training`.

    Raises:
        ValueError: An unknown key, a missing one, or a value of another type. The message names
            the key by its full path and, for an unknown key, the nearest valid one.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {values!r}")
    hints = _hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}
    for key in values:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            raise ValueError(f"{place}: there is no such key; {did_you_mean(str(key), known)}")
    found = {}
    for name, field in known.items():
        place = f"{where}.{name}" if where else name
        if name in values:
            found[name] = convert(hints[name], values[name], place)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{place}: this key is required")
    try:
        return cls(**found)
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields: read from their text once, not for every file."""
    return get_type_hints(cls)


def build_kind(kinds: Mapping[str, Any], values: Any, where: str) -> Any:
    """The dataclass that the mapping's own `type` names, from the rest of the mapping.

    Raises:
        ValueError: As `build`; or the type is missing or unknown.
    """
    if not isinstance(values, Mapping) or "type" not in values:
        raise ValueError(f"{where}.type: this key is required; one of {', '.join(sorted(kinds))}")
    kind = values["type"]
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where}.type: '{kind}' is not known; {did_you_mean(str(kind), kinds)}")
    return build(kinds[kind], {k: v for k, v in values.items() if k != "type"}, where)


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value as a type: a whole number may stand for a number, nothing else is bent.

    Raises:
        ValueError: The value is not of the type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build(hint, value, where)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(
            f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}"
        )
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(
                convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
            )
        raise ValueError(f"{where}: expected a list, got {value!r}")
    if hint is type(None):
        if value is None:
            return None
        raise ValueError(f"{where}: expected nothing, got {value!r}")
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        # YAML 1.1 reads 2e-3 as a text: it wants a point. People do not.
        with suppress(ValueError, OverflowError):
            value = float(value)
    if isinstance(value, hint) and isinstance(value, bool) == (hint is bool) and _is_sound(value):
        return value
    quotes = "; put it in quotes" if hint is str and isinstance(value, (int, float)) else ""
    raise ValueError(f"{where}: expected {WORDS.get(hint, hint)}, got {value!r}{quotes}")


def _is_sound(value: object) -> bool:
    """Whether a number is finite and a text is one."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or is_text(value)


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that a file can hold: half of an emoji, cut apart, is none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    real = [hint for hint in hints if hint is not type(None)]
    if len(real) == 1:
        return convert(real[0], value, where)
    exact = [hint for hint in real if isinstance(hint, type) and type(value) is hint]
    for hint in exact or real:
        with suppress(ValueError):
            return convert(hint, value, where)
    words = " or ".join(map(_word, real))
    raise ValueError(f"{where}: expected {words}, got {value!r}")


def _word(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return "a list" if get_origin(hint) is tuple else str(WORDS.get(hint, hint))


def dump(section: Any) -> dict[str, Any]:
    """A dataclass as a plain mapping, its `type` first where it has one; `build` undoes it."""
    plain: dict[str, Any] = {"type": section.type} if hasattr(section, "type") else {}
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            value = dump(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def keys_of(cls: Any) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every key of a section, the meaning from its docstring."""
    meanings: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        meanings |= _meanings(kind.__doc__ or "")
    rows = []
    for field in fields(cls):
        default = "required" if field.default is MISSING else _shown(field.default)
        rows.append((field.name, default, meanings.get(field.name, "")))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meanings(doc: str) -> dict[str, str]:
    """The `Attributes:` part of a docstring: name to its text on one line."""
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
    """Refuses settings below a bound; None stands for one that is not given.

    Raises:
        ValueError: One is, or is no number.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")


def check_share(settings: object, *names: str) -> None:
    """Refuses shares that are not of 0 or more and less than 1.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: expected 0 or more and less than 1, got {value}")
