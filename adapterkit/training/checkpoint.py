"""Checkpoints: what one run needs to go on, in files that are complete or absent.

A checkpoint is a folder with `state.json` (plain data; a tensor is there as `{"$tensor": "3"}`) and
`tensors.safetensors`. Nothing is pickled. The folders of a run are numbered from 1, and the last
two are kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..atomic import content_digest, file_digest, write_folder
from ..errors import AdapterError, AdapterkitError
from .plan import Plan

STATE, TENSORS = "state.json", "tensors.safetensors"
TENSOR_KEY = "$tensor"
FORMAT = 2
KEPT = 2
"""Checkpoints that are kept; the older one serves if the disk has damaged the newer one, or if
the process was killed before it had written the newer one of all runs."""

WITHOUT_EFFECT = (
    *("checkpoint", "timeout", "cache_mb", "max_tokens", "gradient_checkpointing"),
    *("log_steps", "trackers", "project"),
)
"""Keys of `training` that do not change the adapter but for rounding, and so may change from start
to start."""


@dataclass(frozen=True)
class CheckpointPlace:
    """Where the checkpoints of trainings are.

    Attributes:
        folder: From the name of a recipe and the number of a member to its folder.
        resume: Whether the trainings go on from them.
    """

    folder: Callable[[str, int], Path]
    resume: bool = False


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: The folder of these checkpoints; the first one creates it.
        label: Name of the run in messages.
        origin: What the run depends on beside its state, as `origin_of` returns it: only
            checkpoints of that origin are read.
    """

    def __init__(self, folder: Path, label: str, origin: Mapping[str, Any]) -> None:
        self.folder = folder
        self.label = label
        self._origin = origin
        self._lock = FileLock(folder / "lock")

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint; None if there is none."""
        return next(self._newest_first(), None)

    def write(self, content: Mapping[str, Any]) -> Path | None:
        """Writes the next checkpoint and removes all but the last two.

        Args:
            content: Nested dicts (of string keys) and lists of plain data and tensors.

        Returns:
            Its folder; None if another process writes checkpoints of the same run.

        Raises:
            AdapterkitError: It cannot be written, and those before it are as they were.
        """
        if not self._acquire():
            return None
        tensors: dict[str, Tensor] = {}
        plain = _without_tensors(content, tensors)
        weights = to_safetensors(tensors)
        state = {
            "format": FORMAT,
            "origin": self._origin,
            "tensors": content_digest(weights),
            "content": plain,
        }
        number = int(newest.name) + 1 if (newest := self.newest()) else 1
        files = {STATE: json.dumps(state, ensure_ascii=False).encode(), TENSORS: weights}
        try:
            written = write_folder(self.folder / str(number), files)
        except AdapterError as error:
            left = f"{newest} is intact, --resume goes on from it" if newest else "it is the first"
            raise AdapterkitError(f"checkpoint {error}; {left}") from None
        for old in list(self._newest_first())[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return written

    def read(self) -> list[tuple[Path, dict[str, Any]]]:
        """Folder and content of the checkpoints that are sound, the newest first.

        Raises:
            AdapterkitError: There are only damaged ones, or the newest one belongs to another
                recipe, to other rows or to another backbone.
        """
        sound: list[tuple[Path, dict[str, Any]]] = []
        faults = []
        for folder in self._newest_first():
            try:
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                if sound and state["origin"] != self._origin:
                    break  # left by an earlier training
                if state["format"] != FORMAT:
                    raise AdapterkitError(f"{folder}: written by another version of adapterkit")
                what = f"{self.label}: the checkpoint {folder} is of another training"
                check_origin(state["origin"], self._origin, what)
                content = _with_tensors(state["content"], _read_tensors(folder, state))
                sound.append((folder, content))
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                faults.append(f"{folder}: damaged ({error})")
        if faults and not sound:
            raise AdapterkitError("; ".join(faults))
        return sound

    def _acquire(self) -> bool:
        """Keeps other processes from writing here until this one ends; False if one does so."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise AdapterkitError(
                f"checkpoint {self.folder}: cannot be written ({error.strerror})"
            ) from None
        return True

    def _newest_first(self) -> Iterator[Path]:
        numbered = (path for path in self.folder.glob("[0-9]*") if path.name.isdecimal())
        return iter(sorted(numbered, key=lambda path: int(path.name), reverse=True))


def origin_of(plan: Plan) -> dict[str, Any]:
    """All that a training depends on beside the state of its runs, as plain data."""
    recipe, floors = plan.recipe, plan.adapter.stack[:-1]
    plain = recipe.plain()
    synonyms = recipe.augmentation.synonyms
    training = {key: v for key, v in plain["training"].items() if key not in WITHOUT_EFFECT}
    origin = {
        "recipe": {**plain, "training": training},
        "rows": plan.record()["data"],
        "backbone": plan.adapter.fingerprint,
        "adapters below": [floor.digest for floor in floors],
        "synonyms": file_digest(recipe.folder / synonyms) if synonyms else None,
        "augment": plan.augmented.own if plan.augmented is not None else None,
    }
    if "parents" in plan.adapter.training:
        origin["adapters of the method"] = plan.adapter.training["parents"]
    if "start_digest" in plan.adapter.training:
        origin["adapter to start from"] = plan.adapter.training["start_digest"]
    found: dict[str, Any] = json.loads(json.dumps(origin))
    return found


def check_origin(saved: Mapping[str, Any], own: Mapping[str, Any], what: str) -> None:
    """Checks that what was saved belongs to this training.

    Args:
        saved: The origin that was saved with it.
        own: The origin of this training.
        what: Beginning of the message.

    Raises:
        AdapterkitError: It does not; the message names what differs.
    """
    differing = list(_differences(saved, own))
    if differing:
        raise AdapterkitError(
            f"{what}: {'; '.join(differing)}. Go on as it began, or begin anew without --resume"
        )


def _differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the origins of two trainings, each as a part of a message."""
    yield from _differing_keys(saved["recipe"], own["recipe"], "")
    yield from (f"other {key}" for key in own if key != "recipe" and saved.get(key) != own[key])


def _differing_keys(saved: Any, own: Any, path: str) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(own, dict):
        for key in {**own, **saved}:
            yield from _differing_keys(saved.get(key), own.get(key), f"{path}.{key}".lstrip("."))
    elif saved != own:
        yield f"{path} was {saved} and is now {own}"


def _read_tensors(folder: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Raises:
        ValueError: The file is not the one that was written with the state.
    """
    if file_digest(folder / TENSORS) != state["tensors"]:
        raise ValueError(f"{TENSORS} has changed")
    return load_file(folder / TENSORS)


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A copy with a reference in place of every tensor, which is added to `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {TENSOR_KEY: name}
    if isinstance(value, Mapping):
        return {key: _without_tensors(inner, tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(inner, tensors) for inner in value]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_without_tensors`; tuples come back as lists."""
    if isinstance(value, list):
        return [_with_tensors(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {TENSOR_KEY}:
        return tensors[value[TENSOR_KEY]]
    return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
