"""JSON files of an adapter folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backbone.json_object import read_json_object
from ..errors import AdapterError

LINE = 100
"""Most characters of a line that can be broken."""


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of an adapter folder.

    Raises:
        AdapterError: The file is missing or does not hold a JSON object.
    """
    return read_json_object(folder, name, "an adapter folder", AdapterError)


def to_json(content: Mapping[str, Any]) -> bytes:
    """A JSON object as text with lines of at most `LINE` characters, if they can be broken."""
    return f"{_format(content)}\n".encode()


def _format(content: Any, indent: str = "") -> str:
    """JSON with as many list items in a line as fit, so that labels and curves take few lines."""
    one_line = json.dumps(content, ensure_ascii=False)
    if len(indent) + len(one_line) <= LINE or not isinstance(content, (Mapping, list, tuple)):
        return one_line
    inner = f"{indent}  "
    lines: list[str] = []
    if isinstance(content, Mapping):
        begin, end = "{}"
        for key, value in content.items():
            lines.append(f"{json.dumps(key, ensure_ascii=False)}: {_format(value, inner)}")
    else:
        begin, end = "[]"
        for item in (_format(value, inner) for value in content):
            fits = lines and len(inner) + len(lines[-1]) + len(item) + 2 <= LINE
            if fits and "\n" not in lines[-1] + item:
                lines[-1] += f", {item}"
            else:
                lines.append(item)
    return "\n".join([begin, inner + f",\n{inner}".join(lines), indent + end])
