"""`adapterkit cross-validate`: how much the scores of a recipe vary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, json_text

# As in the other commands, modules that need torch are imported inside it.


def cross_validate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML recipe.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: --set data.folds=10."),
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
    """Train a recipe once for each fold and print how much its scores vary; nothing is published.

    The recipe's data.folds is the number of folds, 5 if omitted. Every fold is trained for all
    epochs and scored after the last one; test rows are not used.

    A cross-validation that was ended, by a signal or by a fault, goes on with --resume: until it
    has ended, the result of each fold and checkpoints of the one at work are in the store.
    """
    from ..training.recipe import Recipe

    plan = Recipe.load(recipe, changes or [])
    from accelerate import PartialState

    from ..adapter.store import Store
    from ..training.cross_validation import cross_validate as cross_validate_recipe

    results = Store(store)
    results.check_target(plan.name)
    result = cross_validate_recipe(plan, store=results, resume=resume)
    if not PartialState().is_main_process:
        return
    if as_json:
        typer.echo(json_text(result))
        return
    from ..text_table import table

    names = list(result["mean"])
    lines = [(entry["fold"], entry["metrics"]) for entry in result["folds"]]
    lines += [(key, result[key]) for key in ("mean", "std")]
    # A fold may have a metric that another one leaves undefined.
    rows = [[str(first), *(f"{scores[name]:.4f}" for name in names)] for first, scores in lines]
    typer.echo(table(["fold", *names], rows))
