"""JSON objects in the files of a folder: of a backbone, or of an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import AdapterkitError
from .regular_file import check_regular_file

MAX_BYTES = 16 * 2**20
"""The largest JSON file that is read."""


def read_json_object(
    folder: Path, name: str, kind: str, error_type: type[AdapterkitError]
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        folder: The folder.
        name: The file in it.
        kind: What the folder is not if it lacks the file, such as `a backbone`.
        error_type: The exception that is raised.

    Raises:
        AdapterkitError: The folder or the file is missing, or does not hold a JSON object.
    """
    if not folder.is_dir():
        raise error_type(f"{folder}: there is no such folder")
    path = folder / name
    try:
        check_regular_file(path, MAX_BYTES, error_type)
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error_type(f"{folder}: not {kind}, {name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise error_type(f"{path}: expected a JSON object")
    return content
