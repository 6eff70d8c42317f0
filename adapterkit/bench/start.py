"""Start-up: seconds of a fresh process that imports, prints its help or answers one text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..errors import AdapterkitError
from .machine import has_peft, machine
from .timing import ratio, spread, take_turns

PYTHON = "python alone"


@dataclass(frozen=True)
class StartBench:
    """Whole processes, from start to exit.

    Attributes:
        backbone: The backbone that gives the first answer.
        rounds: Number of processes of each kind.
        peers: Also import PEFT, if it is installed.

    Raises:
        AdapterkitError: There is less than one round.
    """

    backbone: str = "minilm"
    rounds: int = 5
    peers: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise AdapterkitError(f"rounds must be at least 1, got {self.rounds}")

    def run(self) -> dict[str, Any]:
        """Measures the processes.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each kind `seconds` (the median) with
            `min` and `max`, and `faster_than_peft`: the time of `import peft` divided by it.

        Raises:
            AdapterkitError: A process fails.
        """
        answer = ["predict", "base", "I lost my card", "--backbone", self.backbone, "--json"]
        commands = {
            PYTHON: ["-c", "pass"],
            "import adapterkit": ["-c", "import adapterkit"],
            "adapterkit --help": ["-m", "adapterkit", "--help"],
            "first answer": ["-m", "adapterkit", *answer],
        }
        if self.peers and has_peft():
            commands["import peft"] = ["-c", "import peft"]
        systems = {name: partial(_run_python, command) for name, command in commands.items()}
        times = take_turns(systems, self.rounds)
        seconds = {name: [ms / 1000 for ms in measured] for name, measured in times.items()}
        peft = seconds.get("import peft")
        rows = []
        for name, measured in seconds.items():
            faster = None if peft is None else ratio(peft, measured)
            rows.append({"system": name, **spread(measured, "seconds"), "faster_than_peft": faster})
        return {"bench": "start", "settings": asdict(self), "machine": machine(), "rows": rows}


def _run_python(arguments: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AdapterkitError(f"python {' '.join(arguments)} failed: {last}")
