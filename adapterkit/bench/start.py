"""Start-up: seconds until a fresh process has imported, helped or answered."""

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
    """Whole processes, from start to end.

    Attributes:
        backbone: What the first answer is asked of.
        rounds: Processes of each kind.
        peers: Import PEFT, where it is installed.

    Raises:
        AdapterkitError: There are less than one rounds.
    """

    backbone: str = "minilm"
    rounds: int = 5
    peers: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise AdapterkitError(f"rounds must be at least 1, got {self.rounds}")

    def run(self) -> dict[str, Any]:
        """Times, and ratios of medians.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each kind `seconds` (the median) with
            `min` and `max`, and `faster_than_peft`: `import peft` over it.

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
        systems = {name: partial(_process, command) for name, command in commands.items()}
        times = take_turns(systems, self.rounds)
        seconds = {name: [ms / 1000 for ms in measured] for name, measured in times.items()}
        peft = seconds.get("import peft")
        rows = []
        for name, measured in seconds.items():
            faster = None if peft is None else ratio(peft, measured)
            rows.append({"system": name, **spread(measured, "seconds"), "faster_than_peft": faster})
        return {"bench": "start", "settings": asdict(self), "machine": machine(), "rows": rows}


def _process(arguments: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise AdapterkitError(f"python {' '.join(arguments)} failed: {last}")
