"""The recipe of a file of rows, for `adapterkit train ROWS`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import AdapterkitError, RecipeError

log = logging.getLogger("adapterkit")

PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
"""Texts that need no quotes in YAML, but for `NOT_TEXTS`."""

NOT_TEXTS = ("true", "false", "null")


@contextmanager
def recipes_of(
    files: Sequence[Path], columns: Mapping[str, str], name: str | None
) -> Iterator[list[Path]]:
    """The recipes among some files; a single file of rows has its recipe written.

    If the rows do not fit the recipe, which is an error inside this context, it is removed again:
    the next attempt has other options.

    Args:
        files: What the user named.
        columns: Name of a column of the rows by role.
        name: Name of the adapter of the rows.

    Raises:
        RecipeError: The options do not fit the files, or the recipe cannot be written.
    """
    from ..data.readers import FORMATS

    are_rows = [file.suffix in FORMATS for file in files]
    if not any(are_rows):
        if columns or name:
            raise RecipeError(
                f"--text, --label and --name are for a file of rows; {files[0]} is a recipe, and "
                "--set changes its keys"
            )
        yield list(files)
        return
    if len(files) > 1:
        raise RecipeError("one file of rows is trained at a time; write recipes for several")
    if not files[0].is_file():
        raise RecipeError(f"{files[0]}: there is no such file")
    recipe = write_recipe(files[0], {"data": columns}, name)
    try:
        yield [recipe]
    except AdapterkitError:
        recipe.unlink(missing_ok=True)
        raise
    log.info(f"{recipe}: the recipe of {files[0]}; see adapterkit train --keys for more keys")


def write_recipe(rows: Path, sections: Mapping[str, Mapping[str, str]], name: str | None) -> Path:
    """Writes a short recipe beside a file of rows.

    Args:
        rows: The file.
        sections: Section to its keys, such as `data` to the names of columns.
        name: Name of the adapter; that of the file if None.

    Returns:
        The recipe: the file's name with the ending `.yaml`.

    Raises:
        RecipeError: There is such a file already, or it cannot be written.
    """
    recipe = rows.with_suffix(".yaml")
    words = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", rows.stem).strip("._-")
    content: dict[str, Any] = {"name": name or words[:64] or "adapter", **sections}
    content["data"] = {"path": rows.name, **content.get("data", {})}
    lines = [f"{key}: {_flow(value)}" for key, value in content.items() if value]
    try:
        with recipe.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise RecipeError(
            f"{recipe} exists, so no recipe is written for {rows}: train {recipe}, or rename it"
        ) from None
    except OSError as error:
        raise RecipeError(f"{recipe}: cannot be written ({error.strerror})") from None
    return recipe


def _flow(value: str | Mapping[str, str]) -> str:
    """A text or a mapping of texts in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(word)}" for key, word in value.items()) + "}"
    is_plain = PLAIN.fullmatch(value) and value.lower() not in NOT_TEXTS
    return value if is_plain else json.dumps(value, ensure_ascii=False)
