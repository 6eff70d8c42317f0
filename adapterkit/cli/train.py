"""`adapterkit train`: adapters from recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import AdapterError, AdapterkitError
from .options import JsonOption, check_workers, json_text

# As in the other commands, modules that need torch are imported inside them.


def train(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECIPE]...", help="YAML recipes, or one file of rows."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key of all: --set training.epochs=5."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="For a file of rows: column of the text.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="For a file of rows: column of the label.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="For a file of rows: name of the adapter.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="Store that the adapters are published in.")
    ] = Path("adapters"),
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", min=1, help="Most tokens of several recipes in one step; limits memory."
        ),
    ] = 4096,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option(
            "--engine",
            help="Divide several recipes among workers. Needs the extra adapterkit[ray].",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of the engine; one per CPU if omitted."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint of each recipe, if any."),
    ] = False,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="List every key of a recipe with its default and meaning."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the adapters that recipes describe; each becomes the next version of its name.

    \b
    A recipe can be this short (see --keys for the rest):
      name: acme/intent
      data: {path: intents.csv, text: text, label: label}
      method: {type: lora, r: 8}

    Without a recipe: adapterkit train intents.csv --text message --label topic writes intents.yaml
    beside the rows and trains it. It can be changed and trained again.

    Several recipes of one backbone train side by side in shared steps, and each adapter is the same
    as if it were trained alone: adapterkit train recipes/*.yaml

    Several processes share one recipe or divide several:
    accelerate launch -m adapterkit train RECIPE...
    So does Ray with many machines: adapterkit train recipes/*.yaml --engine ray --output s3://store

    Its log is .logs/NAME.jsonl in the store, then report/log.jsonl of the adapter; with
    training.trackers TensorBoard, W&B, MLflow or trackio have it as well.

    A training that was ended, by a signal or by a fault, goes on with --resume from its last
    checkpoint in the store; training.checkpoint says how often one is written.
    """
    from ..training.recipe import Recipe
    from ..training.recipe_keys import describe_keys

    if keys:
        typer.echo(describe_keys())
        return
    if not recipes:
        raise AdapterkitError("train needs a RECIPE; --keys lists the keys of one")
    check_workers(workers, engine)
    columns = {role: column for role, column in (("text", text), ("label", label)) if column}
    from ..adapter.store import Store
    from ..training.compatibility import check_together
    from ..training.plan import load_rows
    from ..training.recipe_group import RecipeGroup
    from .rows_recipe import recipes_of

    with recipes_of(recipes, columns, name) as files:
        plans = [Recipe.load(file, changes or []) for file in files]
        for plan in plans:
            Store(output).check_target(plan.name)  # what publishing would raise after the training
        check_together(plans)
        rows = {plan.name: load_rows(plan) for plan in plans}  # faults need no backbone
    group = RecipeGroup(plans, str(output), resume, max_tokens)
    if engine is None:
        result = group.train(rows)
    else:
        from ..cluster.ray_cluster import RayCluster
        from ..training.ray_training import train_on_ray

        result = train_on_ray(group, rows, RayCluster(workers))
    _print_summaries(result.summaries, as_json, as_list=len(plans) > 1)
    if result.unpublished or result.faults:
        raise AdapterError("; ".join([*result.unpublished, *result.faults]))


def _print_summaries(summaries: Sequence[dict[str, Any]], as_json: bool, *, as_list: bool) -> None:
    """Prints nothing if no adapter was trained to its end."""
    if as_json and summaries:
        typer.echo(json_text(summaries if as_list else summaries[0]))
    elif summaries:
        typer.echo("\n".join(map(_summary_text, summaries)))


def _summary_text(trained: dict[str, Any]) -> str:
    """A summary as text."""
    from ..adapter.model_card import score_text

    lines = []
    for split, scores in trained["metrics"].items():
        ends = trained["intervals"].get(split, {})
        values = (f"{name} {score_text(value, ends.get(name))}" for name, value in scores.items())
        lines.append(f"{split}: {', '.join(values)}")
    size, seconds = trained["bytes"] / 1000, trained["seconds"]
    return "\n".join([*lines, f"{trained['folder']} ({size:,.0f} kB, {seconds} s)"])
