"""A group of commands whose help shows the first sentence of each command in full."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """Click would cut each sentence to one line of the terminal."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the name and the first sentence of every command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(limit=1000))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
