"""`adapterkit tune`: searches the best values for keys of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..atomic import check_output, write_output
from .options import JsonOption, check_workers, json_text

if TYPE_CHECKING:
    from ..training.tuning import SearchResult

# As in the other commands, modules that need torch are imported inside them.


def tune(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="The YAML recipe, with a section search.")
    ],
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials in all, with those of earlier starts.")
    ] = 40,
    parallel: Annotated[
        int,
        typer.Option("--parallel", min=1, help="Trials that train side by side in shared steps."),
    ] = 4,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option("--engine", help="Train trials on workers. Needs the extra adapterkit[ray]."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of the engine; one per CPU if omitted."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: --set training.epochs=5."),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="FILE", help="SQLite file of the trials; RECIPE.study.db if omitted."
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish the adapter of the best recipe.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option("--output", help="Store of adapters that RECIPE names, and of --publish."),
    ] = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """Search the best values for keys of a recipe, by its validation rows.

    \b
    The recipe says among which values, for keys of training, method, task or augmentation:
      search:
        training.learning_rate: {low: 1e-4, high: 1e-2, log: true}
        training.epochs: {low: 3, high: 15}
        method.r: [4, 8, 16]

    \b
    adapterkit tune intent.yaml --trials 40 writes beside the recipe
      intent.best.yaml    the recipe with the best values; adapterkit train trains it
      intent.trials.png   the plot of all trials
      intent.study.db     the trials, in one SQLite file

    The first trial has the recipe's own values, if these are among those of the search. A trial
    that is below the median of the others is given up early. The same command goes on after an
    interruption, or with more --trials. At the end the best recipe is trained once more, and its
    test rows are scored, for the first time. Nothing is published without --publish.
    """
    from ..training.recipe import Recipe, read_content

    check_workers(workers, engine)
    plan = Recipe.load(recipe, changes or [])
    content = read_content(recipe, changes or [])
    best, plot = recipe.with_suffix(".best.yaml"), recipe.with_suffix(".trials.png")
    check_output(plot, (".png",))
    from ..adapter.publication import publish_or_keep
    from ..adapter.store import Store
    from ..adapter.trial_plot import plot_trials
    from ..training.train import load_backbone
    from ..training.tuning import check_searchable
    from ..training.tuning import tune as search

    check_searchable(plan)
    store = Store(output)
    if publish:
        store.check_target(plan.name)
    backbone = load_backbone([plan])
    study, cluster = study or recipe.with_suffix(".study.db"), None
    if engine is not None:
        from ..cluster.ray_cluster import RayCluster

        cluster = RayCluster(workers)
    result = search(
        plan,
        backbone,
        trials=trials,
        parallel=parallel,
        study=study,
        store=store,
        cluster=cluster,
    )
    write_output(best, _best_recipe(content, result, recipe.name))
    write_output(plot, plot_trials(result.plain()))
    files = {"recipe": str(best), "plot": str(plot), "study": str(study)}
    if publish:
        files["folder"] = str(publish_or_keep(result.adapter, store, backbone.geometry))
    typer.echo(json_text(result.plain() | files) if as_json else _text(result, files))


def _best_recipe(content: dict[str, Any], result: SearchResult, name: str) -> bytes:
    """The recipe of the best trial as YAML.

    Args:
        content: The content of the recipe that was searched.
        result: The result.
        name: Name of the recipe's file.
    """
    from ..training.search_space import with_values
    from ..yaml12 import write_yaml

    head = (
        f"# The best of {len(result.trials)} trials of {name}: validation {result.metric} "
        f"{result.best.score:.4f}\n"
    )
    return (head + write_yaml(with_values(content, result.best.values))).encode()


def _text(result: SearchResult, files: dict[str, str]) -> str:
    """The best trials as a table, the scores of the best recipe, and the files."""
    from ..adapter.model_card import score_text
    from ..training.tuning_table import tuning_table

    lines = [tuning_table(result.trials, result.metric), "", "the best recipe, trained once more:"]
    for split, scores in result.adapter.metrics.items():
        ends = result.adapter.training["intervals"].get(split, {})
        values = (f"{name} {score_text(value, ends.get(name))}" for name, value in scores.items())
        lines.append(f"{split}: {', '.join(values)}")
    return "\n".join([*lines, "", *(f"{what}: {file}" for what, file in files.items())])
