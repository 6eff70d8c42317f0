"""`adapterkit compare`: one recipe by several methods, as a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..atomic import check_output, write_output
from .options import JsonOption, json_text

# As in the other commands, modules that need torch are imported inside it.


def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML recipe.")],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Methods to compare, with commas between them; all if omitted."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="How often each is trained; scores are averaged.")
    ] = 1,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: --set method.r=16."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw score against parameters as PNG."),
    ] = None,
    store: Annotated[
        Path,
        typer.Option("--store", help="Store that keeps the results so far until the end."),
    ] = Path("adapters"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the results of an interrupted run, if any."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe by several methods, with the same head, data, epochs and seeds.

    \b
    adapterkit compare intent.yaml --seeds 3 --plot comparison.png
    adapterkit compare intent.yaml --methods lora,full --set training.epochs=5

    The method head is a linear probe of the frozen backbone, and full trains all of its weights:
    the two that adapters are compared with. The recipe's own method keeps its settings; the others
    have their defaults. A method over saved adapters is compared by a recipe of that method alone.
    Nothing is published.

    A comparison that was ended, by a signal or by a fault, goes on with --resume: until it has
    ended, the result of each training and checkpoints of the one at work are in the store.
    """
    from ..training.recipe import Recipe

    plan = Recipe.load(recipe, changes or [])
    if plot is not None:
        check_output(plot, (".png",), "--plot")
    from accelerate import PartialState

    from ..adapter.store import Store
    from ..training.comparison import check_names, method_names
    from ..training.comparison import compare as compare_methods
    from ..training.comparison_table import comparison_table

    names = method_names(plan)
    if methods is not None:
        names = [name.strip() for name in methods.split(",") if name.strip()]
    check_names(names, plan)
    results = Store(store)
    results.check_target(plan.name)
    result = compare_methods(plan, names, seeds, store=results, resume=resume)
    if not PartialState().is_main_process:
        return
    typer.echo(json_text(result) if as_json else comparison_table(result))
    if plot is not None:  # at the end, since it may fail, and the results are kept nowhere else
        from ..adapter.plots import plot_comparison

        write_output(plot, plot_comparison(result))
        typer.echo(f"the plot is in {plot}", err=True)
