"""Trackers, which show the curves of trainings: TensorBoard, W&B, MLflow, trackio.

They are driven through the classes of Accelerate (`accelerate.tracking`), one instance a run:
`Accelerator.init_trackers` would give all runs that train side by side one tracker. Each of them
writes where it does by default, or where its own environment variables say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from ..errors import RecipeError, did_you_mean

TENSORBOARD_FOLDER = "runs"
"""Where TensorBoard's files are, below the working folder; its writer has the same default."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker knows it.

    Attributes:
        label: The run's name.
        started: When it was started, as a text that no other run has.
        project: The project or experiment that it belongs to.
        settings: Its settings, as nested plain data.
        identity: The tracker's name for it, if it was started before and goes on.
    """

    label: str
    started: str
    project: str
    settings: Mapping[str, Mapping[str, Any]]
    identity: str | None = None

    @property
    def name(self) -> str:
        """A name that no other run has."""
        return f"{self.label}/{self.started}"

    def config(self) -> dict[str, Any]:
        """The settings that have a value, `training.epochs` to 3."""
        return {
            f"{section}.{key}": value
            for section, keys in self.settings.items()
            for key, value in keys.items()
            if value is not None
        }


@dataclass(frozen=True)
class Tracker:
    """A tracker that was started for one run.

    Attributes:
        kind: Its name in recipes.
        inner: Accelerate's tracker.
        identity: Its own name for the run, with which the run can go on; None if it needs none.
        log_options: Further arguments of its `log`.
    """

    kind: str
    inner: GeneralTracker
    identity: str | None = None
    log_options: Mapping[str, Any] | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Sends numbers of a step."""
        self.inner.log(dict(values), step=step, **(self.log_options or {}))

    def finish(self) -> None:
        """Writes what is left and ends the tracker's run."""
        self.inner.finish()


def check_trackers(kinds: Iterable[str]) -> None:
    """Checks that trackers are known.

    Raises:
        ValueError: One is not.
    """
    for kind in kinds:
        if kind not in _STARTS:
            raise ValueError(f"trackers: '{kind}' is not known; {did_you_mean(kind, _STARTS)}")


def check_installed(kinds: Iterable[str]) -> None:
    """Checks that trackers are installed; nothing is imported.

    Raises:
        RecipeError: One is not.
    """
    for kind in kinds:
        if find_spec(kind) is None:
            raise RecipeError(
                f"training.trackers: {kind} is not installed; pip install {kind}, or "
                "'adapterkit[trackers]' for all of them"
            )


def start_tracker(kind: str, run: TrackedRun) -> Tracker:
    """Starts a tracker for a run, which may raise anything.

    Args:
        kind: Its name in recipes.
        run: The run.
    """
    return _STARTS[kind](run)


def _start_tensorboard(run: TrackedRun) -> Tracker:
    inner = TensorBoardTracker(run.name, TENSORBOARD_FOLDER)
    inner.start()
    if run.identity is None:
        inner.log({"settings": json.dumps(run.config(), ensure_ascii=False)}, step=0)
    return Tracker("tensorboard", inner, run.name)


def _start_wandb(run: TrackedRun) -> Tracker:
    inner = WandBTracker(
        run.project,
        name=run.name,
        id=run.started,
        config=run.config(),
        resume="allow",
        reinit="create_new",  # runs that train side by side are open at the same time
    )
    inner.start()
    return Tracker("wandb", inner, run.started)


def _start_mlflow(run: TrackedRun) -> Tracker:
    inner = MLflowTracker(run.project, run_name=run.name, run_id=run.identity, nested_run=True)
    inner.start()
    if run.identity is None:
        inner.store_init_configuration(run.config())
    identity = inner.tracker.info.run_id
    return Tracker("mlflow", inner, identity, {"run_id": identity})  # else: that started last


def _start_trackio(run: TrackedRun) -> Tracker:
    inner = TrackioTracker(run.project, name=run.name, config=run.config(), resume="allow")
    # It would end the run that was started before in this context.
    copy_context().run(inner.start)
    return Tracker("trackio", inner, run.name)


_STARTS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": _start_tensorboard,
    "wandb": _start_wandb,
    "mlflow": _start_mlflow,
    "trackio": _start_trackio,
}
