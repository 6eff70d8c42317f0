"""The results of trainings that have ended, while others of the same command go on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..adapter.store import Store
from ..atomic import write_file
from ..errors import AdapterkitError
from .checkpoint import CheckpointPlace, check_origin, origin_of
from .plan import Plan

log = logging.getLogger("adapterkit")

ORIGIN = "origin.json"


class PartialResults:
    """The results of a comparison or a cross-validation so far, in a folder of a store.

    The folder has `PART.json` for each training that has ended, the checkpoints of the one at work
    in `PART/`, and `origin.json`: recipe, rows and backbone of all. It is removed at the end.

    Args:
        store: The store.
        command: Name of the command.
        plan: The recipe with its rows and its backbone.
        resume: Whether the command goes on. If not, what an earlier one has left is removed.
        is_main_process: Whether this process writes; of several processes one does.

    Raises:
        AdapterkitError: It goes on, and the results are of another recipe, of other rows or of
            another backbone; or the folder cannot be written.
    """

    def __init__(
        self, store: Store, command: str, plan: Plan, *, resume: bool, is_main_process: bool
    ) -> None:
        self._store = store
        self._folder = store.partial_results_dir(command, plan.recipe.name)
        self._resume = resume
        self._writes = is_main_process
        origin = origin_of(plan)
        saved = self._read(ORIGIN) if resume else None
        if saved is not None:
            what = f"{plan.recipe.name}: the results in {self._folder} are of another {command}"
            check_origin(saved, origin, what)
        elif self._writes:
            if resume:
                log.info(f"{plan.recipe.name}: there is no earlier {command}, so it begins")
            elif self._folder.exists():
                log.info(f"{self._folder}: removed; --resume would have gone on from there")
            self.remove()
            self._write(ORIGIN, origin)

    def result(
        self, part: str, train: Callable[[CheckpointPlace], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The result of one training, which is not trained again if it has ended before.

        Args:
            part: Name of the training.
            train: Trains with checkpoints in a place; returns plain data.

        Raises:
            AdapterkitError: The result cannot be read or written.
        """
        found = self._read(f"{part}.json") if self._resume else None
        if found is not None:
            if self._writes:
                log.info(f"{part}: has ended before")
            return found
        folder = self._folder / part
        place = CheckpointPlace(lambda name, member: folder / f"member={member}", self._resume)
        result = dict(train(place))
        if self._writes:
            self._write(f"{part}.json", result)
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def remove(self) -> None:
        """Removes the folder."""
        if self._writes:
            self._store.discard(self._folder)

    def _read(self, name: str) -> dict[str, Any] | None:
        """The content of a file; None if there is none."""
        path = self._folder / name
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise AdapterkitError(
                f"{path}: cannot be read ({error}); remove it, or begin anew without --resume"
            ) from None
        return content

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        path: Path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(content, ensure_ascii=False).encode())
        except OSError as error:
            raise AdapterkitError(
                f"{path}: cannot be written ({error.strerror}); with --resume the command goes on "
                "from the results before it"
            ) from None
