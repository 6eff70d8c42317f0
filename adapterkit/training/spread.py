"""Several runs on several processes: each process trains some of them, as if it was alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, gather_object, send_to_device

from .loop import Loop, LoopOptions
from .peers import Peers
from .recipe import Recipe
from .run import Run
from .trainable import TrainableAdapters

log = logging.getLogger("adapterkit")

ALONE = {
    "num_processes": 1,
    "process_index": 0,
    "local_process_index": 0,
    "distributed_type": DistributedType.NO,
}
"""Accelerate's state in a process that trains alone."""


def divide(costs: Sequence[int], n_processes: int) -> list[list[int]]:
    """Divides runs among processes: the most expensive first, each to the one with the least work.

    Graham (1969), Bounds on multiprocessing timing anomalies: at most 4/3 of the shortest time.

    Args:
        costs: Cost of each run, in any unit.
        n_processes: Number of processes.

    Returns:
        For each process the indices of its runs, ascending.
    """
    parts: list[list[int]] = [[] for _ in range(n_processes)]
    work = [0] * n_processes
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        process = work.index(min(work))
        parts[process].append(index)
        work[process] += costs[index]
    return [sorted(part) for part in parts]


def train_spread(
    recipe: Recipe,
    accelerator: Accelerator,
    trainables: TrainableAdapters,
    runs: Sequence[Run],
    options: LoopOptions,
) -> None:
    """Takes every step of some runs, each on one of the processes.

    All processes must call this with the same runs. Afterwards each has the final state of all.

    Args:
        recipe: The first recipe; all share its precision.
        accelerator: Accelerate's, of all processes.
        trainables: The adapters under training.
        runs: The run of each, in the same order.
        options: Options of the loop; a callback sees the runs of its process alone.

    Raises:
        ProcessError: One of the processes was lost.
    """
    parts = divide([run.cost for run in runs], accelerator.num_processes)
    if accelerator.is_main_process:
        _log_parts(parts, runs)
    own = parts[accelerator.process_index]
    _drop_shared_logs(parts, runs)
    peers = Peers(recipe, runs, show_progress=options.progress)
    own_options = replace(options, callbacks=[*options.callbacks, peers], is_apart=True)
    with peers.watching():
        if own:
            own_runs = [runs[index] for index in own]
            with _alone(recipe) as single:
                Loop(single, trainables.select(own), own_runs, own_options).run()
        peers.wait()
    states = [(index, send_to_device(runs[index].state_dict(), "cpu")) for index in own]
    for index, state in gather_object(states):
        if index not in own:
            runs[index].load_state_dict(state)


@contextmanager
def _alone(recipe: Recipe) -> Iterator[Accelerator]:
    """Inside, Accelerate takes this process for the only one.

    It has one state for a whole process and no name for a part of the processes.

    Yields:
        Accelerate's, for this process.
    """
    processes, precision = vars(PartialState()), vars(AcceleratorState())
    before = dict(processes), dict(precision)
    processes |= ALONE
    AcceleratorState._reset_state()
    try:
        cpu = processes["device"].type == "cpu"
        yield Accelerator(cpu=cpu, mixed_precision=recipe.training.mixed_precision)
    finally:
        for state, own in zip((processes, precision), before, strict=True):
            state.clear()
            state.update(own)


def _drop_shared_logs(parts: Sequence[Sequence[int]], runs: Sequence[Run]) -> None:
    """Leaves the log file of an ensemble to one process: what members on others log is in the
    adapter alone."""
    owners: dict[Path, int] = {}
    for process, part in enumerate(parts):
        for run in (runs[index] for index in part):
            if run.log_file is not None and owners.setdefault(run.log_file, process) != process:
                run.log_file = None


def _log_parts(parts: Sequence[Sequence[int]], runs: Sequence[Run]) -> None:
    for process, part in enumerate(parts):
        labels = ", ".join(runs[index].label for index in part) or "nothing"
        log.info(f"process {process} of {len(parts)} trains {labels}")
