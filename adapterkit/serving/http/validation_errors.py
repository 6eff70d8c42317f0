"""What is wrong with a body, a query or a path, in sentences without the names of types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

MOST_SENTENCES = 3
"""Most faults that an answer names."""

PLACES = ("body", "query", "path", "header")
"""Where FastAPI finds a value; the first part of a place."""

Context = Mapping[str, Any]

Describe = Callable[[Context], str]

SENTENCES: dict[str, Describe] = {
    "missing": lambda _: "is missing",
    "extra_forbidden": lambda _: "there is no such key",
    "string_type": lambda _: "expected a text",
    "string_too_short": lambda _: "the text is empty",
    "string_too_long": lambda context: f"is longer than {context['max_length']} characters",
    "bool_type": lambda _: "expected true or false",
    "int_type": lambda _: "expected a whole number",
    "int_parsing": lambda _: "expected a whole number",
    "int_parsing_size": lambda _: "the number is too large",
    "int_from_float": lambda _: "expected a whole number",
    "list_type": lambda _: "expected a list",
    "dict_type": lambda _: "expected an object",
    "model_type": lambda _: "expected an object",
    "model_attributes_type": lambda _: "expected an object",
    "too_short": lambda _: "the list is empty",
    "too_long": lambda context: f"expected at most {context['max_length']} items",
    "greater_than_equal": lambda context: f"expected at least {context['ge']}",
    "less_than_equal": lambda context: f"expected at most {context['le']}",
    "literal_error": lambda context: f"expected {context['expected']}",
    "value_error": lambda context: str(context["error"]),
}
"""By pydantic's type of an error, what is wrong with the value."""


def validation_message(details: Iterable[Mapping[str, Any]]) -> str:
    """The message about the errors that pydantic found.

    Args:
        details: Its errors: `type`, `loc` and `ctx`.
    """
    sentences = dict.fromkeys(map(_sentence, details))
    return "; ".join(list(sentences)[:MOST_SENTENCES])


def _sentence(detail: Mapping[str, Any]) -> str:
    describe: Describe | None = SENTENCES.get(detail["type"])
    what = "is not valid" if describe is None else describe(detail.get("ctx", {}))
    place = _place(detail["loc"])
    if not place:
        return what if detail["type"] == "value_error" else f"the body: {what}"
    return f"{place}{what}" if what.startswith("[") else f"{place}: {what}"


def _place(parts: tuple[str | int, ...]) -> str:
    """A place such as `requests[0].inputs`."""
    place = ""
    for part in parts[1:] if parts and parts[0] in PLACES else parts:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{part}" if place else part
    return place
