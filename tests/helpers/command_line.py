"""The command line, run in the process of the test."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from typer.testing import CliRunner

from adapterkit.cli.app import app

ROWS = "text,label,split\n" + "".join(
    f"{first} {second},{label},{split}\n"
    for first in ("my", "the", "a")
    for second, label in (
        ("card", "银行"),
        ("account", "银行"),
        ("rain", "lluvia"),
        ("sun", "lluvia"),
    )
    for split in ("train", "test")
)


class CommandResult(NamedTuple):
    """Exit code, standard output and standard error of one run of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as exactly one JSON document."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def run_command(*arguments: str | Path) -> CommandResult:
    log = logging.getLogger("adapterkit")
    before = log.handlers[:], log.level, log.propagate
    try:
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="adapterkit")
    finally:
        log.handlers[:], log.level, log.propagate = before
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def folder_contents(folder: Path) -> dict[str, bytes | None]:
    """The contents of every file under a folder, by path; None for a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def assert_one_line(result: CommandResult, words: str) -> None:
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "Traceback" not in line


def assert_refused(*arguments: str | Path, words: str) -> None:
    """Exit code 2, one line on standard error, and no file changed in the working folder."""
    before = folder_contents(Path())
    assert_one_line(run_command(*arguments), words)
    assert folder_contents(Path()) == before


def write_recipe(backbone: Path, name: str = "acme/topic", **sections: str) -> Path:
    parts = {
        "data": "{path: rows.csv}",
        "method": "{type: lora, r: 2}",
        "training": "{epochs: 2, batch_size: 8, learning_rate: 1e-2}",
        **sections,
    }
    lines = [f"name: {name}", *(f"{key}: {value}" for key, value in parts.items())]
    lines.append(f"backbone: {{model: {backbone}, device: cpu}}")
    Path("r.yaml").write_text("\n".join(lines), encoding="utf-8")
    Path("rows.csv").write_text(ROWS, encoding="utf-8")
    return Path("r.yaml")
