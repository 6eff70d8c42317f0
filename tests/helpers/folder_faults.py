"""Ways to damage the folder of an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[Path], None]


def change_json(file: str, **changes: object) -> Fault:
    def fault(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))

    return fault


def remove_file(file: str) -> Fault:
    def fault(folder: Path) -> None:
        (folder / file).unlink()

    return fault
