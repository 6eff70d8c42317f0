"""Help that teaches, and the completion of names."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from adapterkit.cli.options import complete_adapters
from helpers.command_line import run_command


@pytest.mark.parametrize("group", [(), ("data",), ("client",), ("bench",)])
def test_the_list_of_commands_has_whole_sentences(group: tuple[str, ...]) -> None:
    lines = run_command(*group, "--help").out.partition("Commands:\n")[2]
    sentences = " ".join(lines.split())
    assert sentences.endswith(".")
    assert "..." not in sentences


def test_names_of_adapters_are_completed(tmp_path: Path) -> None:
    for name in ("acme/intent", "acme/topic", "globex", "other/draft"):
        (tmp_path / name).mkdir(parents=True)
        if name != "other/draft":
            (tmp_path / name / "aliases.json").write_text("{}")
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    context.params["store"] = tmp_path
    assert complete_adapters(context, "") == ["acme/intent", "acme/topic", "globex"]
    assert complete_adapters(context, "acme/t") == ["acme/topic"]
    context.params["store"] = tmp_path / "missing"
    assert complete_adapters(context, "") == []
