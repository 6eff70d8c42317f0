"""A server with many tenants under load, end to end: scenarios and what each of them measured."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..backbone.model import Backbone
from ..errors import AdapterkitError
from .connection import run_load
from .machine import machine
from .population import Population
from .scenarios import SCENARIOS, Scenarios


@dataclass(frozen=True)
class TenantsBench:
    """Scenarios of one server and many tenants.

    Attributes:
        scenarios: Names out of `SCENARIOS`.
        adapters: Number of adapters in the store.
        registered: Number of adapters in the store that does not fit into memory (`evict`).
        resident: Number of them that fit.
        seconds: Duration of each load.

    Raises:
        AdapterkitError: A scenario is not known.
    """

    scenarios: tuple[str, ...] = SCENARIOS
    adapters: int = 300
    registered: int = 10_000
    resident: int = 200
    seconds: float = 60.0

    def __post_init__(self) -> None:
        unknown = set(self.scenarios) - set(SCENARIOS)
        if unknown or not self.scenarios:
            raise AdapterkitError(
                f"scenarios: '{', '.join(sorted(unknown))}'; valid are {', '.join(SCENARIOS)}"
            )

    def run(self) -> dict[str, Any]:
        """Runs the scenarios.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: `scenario`, `what` and `value` of each
            figure.
        """
        backbone = Backbone.load("minilm", device="cpu")
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            scenarios = Scenarios(
                Population(backbone, Path(folder)),
                adapters=self.adapters,
                registered=self.registered,
                resident=self.resident,
                seconds=self.seconds,
            )
            for name in self.scenarios:
                for what, value in run_load(getattr(scenarios, name)()).items():
                    rows.append({"scenario": name, "what": what, "value": value})
                    tqdm.write(f"{name}: {what}: {value}", file=sys.stderr)
        return {"bench": "tenants", "settings": asdict(self), "machine": machine(), "rows": rows}
