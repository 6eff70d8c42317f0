"""`adapterkit data ...`: a report on the rows before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .group import CommandGroup
from .options import JsonOption, json_text

# As in the other commands, modules that need torch are imported inside them.

app = typer.Typer(
    cls=CommandGroup,
    name="data",
    help="Check a recipe's rows before training.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML recipe.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: --set data.path=b.csv."),
    ] = None,
    shown: Annotated[
        int,
        typer.Option("--rows", min=0, help="Training rows to show as the model reads them."),
    ] = 3,
    all_faults: Annotated[
        bool, typer.Option("--all-faults", help="List up to 20 faults, not only the first one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Count rows, tokens, labels and duplicates of each split, and show the first rows.

    \b
    adapterkit data check intent.yaml
    adapterkit data check intent.yaml --all-faults

    A row that cannot be trained on is an error that names file and row, as in training.
    """
    from ..training.recipe import Recipe

    plan = Recipe.load(recipe, changes or [])
    from ..training.checked_rows import faults
    from ..training.data_report import check as check_data
    from .data_text import report_text

    backbone = plan.backbone.load(plan.folder)
    if all_faults and (found := faults(plan, backbone)):
        if as_json:
            typer.echo(json_text({"faults": found}))
        for fault in [] if as_json else found:
            typer.echo(f"Error: {' '.join(fault.split())}", err=True)
        raise typer.Exit(2)
    report = check_data(plan, backbone, shown=shown, progress=True)
    typer.echo(json_text(report) if as_json else report_text(report))
