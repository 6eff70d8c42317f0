"""The processes of one training: how they join, and what happens if one of them is lost."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import distributed
from torch._C._distributed_c10d import TCPStore  # torch.distributed exports it, but not its type

from ..backbone.model import Backbone
from ..errors import AdapterkitError
from .backbone_section import BackboneSection
from .recipe import Recipe

log = logging.getLogger("adapterkit")

SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which torchrun and the launchers of MPI give the number of processes."""

LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT")
"""Variables that `accelerate launch` sets together if it is asked for several processes."""

FSDP = "ACCELERATE_USE_FSDP"
"""Variable that `accelerate launch` sets if it is configured for FSDP."""

GRACE = 5.0
"""Seconds in which every process that is left must notice that another one was lost."""

NOTICED = "adapterkit/noticed/{}"
"""Key in the store of the process group under which a process says so."""


class ProcessError(AdapterkitError):
    """The processes of a training did not find each other, or one of them was lost."""


def on_cpu(section: BackboneSection) -> BackboneSection:
    """The section with `device: cpu` if that is what its device amounts to here.

    Accelerate starts processes on CPUs only if it is told so before anything is loaded.
    """
    wanted = _is_set("ACCELERATE_USE_CPU")
    auto = section.device == "auto" and (wanted or not torch.cuda.is_available())
    return replace(section, device="cpu") if auto else section


def join_processes(recipe: Recipe, *, cpu: bool) -> PartialState:
    """Joins this process to those that were launched with it; done once in a process.

    Args:
        recipe: The recipe; `training.timeout` bounds every wait for another process.
        cpu: Whether the backbone is on the CPU. If not, each process makes its own GPU the current
            one.

    Raises:
        ProcessError: Not all processes came, or this one would train alone beside others that do
            the same.
    """
    timeout = timedelta(seconds=recipe.training.timeout)
    try:
        state = PartialState(cpu=cpu, timeout=timeout)
    except (distributed.DistError, ValueError) as error:
        raise ProcessError(
            "the processes did not find each other (training.timeout is "
            f"{recipe.training.timeout} seconds): {_first_line(error)}"
        ) from None
    launched = max(int(os.environ.get(name) or 1) for name in SIZES)
    if launched > state.num_processes:
        raise ProcessError(
            f"{launched} processes were launched, and this one would train alone on "
            f"{state.device}; start them by accelerate launch --multi_gpu, or start one process"
        )
    if launched == 1 and state.num_processes == 1 and all(name in os.environ for name in LAUNCHED):
        raise ProcessError(
            "accelerate launch was asked for several processes and has started one, as it does "
            "with fewer than two GPUs; add --multi_gpu (for CPU processes too), or set "
            "--num_processes 1"
        )
    return state


def make_accelerator(recipe: Recipe, device: torch.device) -> Accelerator:
    """Accelerate, for the device of a loaded backbone and the recipe's precision.

    Raises:
        ProcessError: As for `join_processes`.
    """
    cpu = device.type == "cpu"
    join_processes(recipe, cpu=cpu)
    # Accelerate keeps the precision of a process's first training for good; ours may differ in it.
    AcceleratorState._reset_state()
    with _without(FSDP):  # Accelerate would divide the adapter, and not the backbone
        accelerator = Accelerator(cpu=cpu, mixed_precision=recipe.training.mixed_precision)
    if cpu and recipe.training.mixed_precision == "fp16" and accelerator.is_main_process:
        log.warning(
            "training.mixed_precision: fp16 does nothing on a CPU, where training is in float32; "
            "bf16 works on a CPU too"
        )
    return accelerator


def is_sharded() -> bool:
    """Whether the frozen weights are divided among the processes, which have joined: Accelerate is
    configured for FSDP (of either version), and there are several processes."""
    return _is_set(FSDP) and PartialState().num_processes > 1


def check_sharding(recipes: Sequence[Recipe], backbone: Backbone | None = None) -> None:
    """Checks that processes which share the weights can train some recipes.

    Args:
        recipes: The recipes.
        backbone: Their backbone, if it is loaded.

    Raises:
        ProcessError: They would train several adapters, each on its own, or the whole backbone is
            on every process.
    """
    if len(recipes) > 1 or any(recipe.training.ensemble > 1 for recipe in recipes):
        raise ProcessError(
            "FSDP: several recipes, or members of an ensemble, are divided among processes that "
            "train apart, and FSDP needs processes that train together; train one adapter, or "
            "choose no FSDP in accelerate config"
        )
    if backbone is not None and backbone.shards is None:
        raise ProcessError(
            "FSDP: this backbone was loaded as a whole on every process; leave it out of the call, "
            "so that the training loads it, or choose no FSDP in accelerate config"
        )


@contextmanager
def lost_process_named(recipe: Recipe, accelerator: Accelerator) -> Iterator[None]:
    """Turns the error of a lost connection into one that names the process that was lost.

    Raises:
        ProcessError: In place of the error, from processes on CPUs. With NCCL, torch itself ends
            a process that waits longer than the timeout.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _is_lost_connection(error):
            raise
        own, n_processes = accelerator.process_index, accelerator.num_processes
        lost = _lost_processes(accelerator)
        raise lost_process_error(lost, own, n_processes, recipe.training.timeout) from None


def lost_process_error(
    lost: Sequence[int], own: int, n_processes: int, timeout: int
) -> ProcessError:
    """The error with which a process ends if others are lost.

    Args:
        lost: Those processes.
        own: This process.
        n_processes: Number of processes.
        timeout: `training.timeout`.
    """
    names = " and ".join(map(str, lost)) or "unknown"
    return ProcessError(
        f"process {names} of {n_processes} (counted from 0) has ended, or did not answer for "
        f"{timeout} seconds (training.timeout); process {own} ends too"
    )


def connect_store(timeout: float) -> TCPStore:
    """A connection of its own to the store through which the process group was set up.

    Args:
        timeout: Seconds to wait for an answer.

    Raises:
        DistError: It does not answer: the process that has it was lost.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, timeout=timedelta(seconds=timeout))


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether the error is one of Gloo, which has no class of its own for them."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _lost_processes(accelerator: Accelerator) -> list[int]:
    """Those processes that do not notice, as this one does, that another was lost.

    The connections of the process group are closed by now. The store through which it was set up
    still answers, unless the process that has it was lost.
    """
    deadline = time.monotonic() + GRACE
    try:
        store = connect_store(GRACE)
        store.set(NOTICED.format(accelerator.process_index), "")
        while True:
            ranks = range(accelerator.num_processes)
            silent = [rank for rank in ranks if not store.check([NOTICED.format(rank)])]
            if len(silent) < 2 or time.monotonic() > deadline:
                return silent
            time.sleep(0.05)
    except distributed.DistError:
        return [0]


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on")


@contextmanager
def _without(variable: str) -> Iterator[None]:
    """Inside, an environment variable is not set."""
    before = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[variable] = before


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
