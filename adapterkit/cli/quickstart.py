"""`adapterkit quickstart`: three tenants, three methods and one mixed batch."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import typer

from ..adapter.publication import publish_or_keep
from ..adapter.store import Store
from ..atomic import folder_bytes
from ..backbone.model import Backbone
from ..data.requests import read_requests
from ..errors import AdapterkitError
from ..inference.pipeline import summarize
from ..inference.predictor import Predictor
from ..prediction.answers import answer_row, answers_table
from ..text_table import table
from ..training.recipe import Recipe
from ..training.train import train

log = logging.getLogger("adapterkit")


def recipes_folder() -> Path:
    """The folder of the quickstart's recipes, in a checkout or in an installed package.

    Raises:
        AdapterkitError: It is in neither.
    """
    here = Path(__file__).parent.parent
    for folder in (here.parent / "recipes" / "quickstart", here / "recipes" / "quickstart"):
        if folder.is_dir():
            return folder
    raise AdapterkitError("the quickstart recipes are missing; run it in a checkout or reinstall")


def run_quickstart(output: Path) -> tuple[dict[str, Any], str]:
    """Trains every quickstart recipe into a store and answers the mixed batch from there.

    Returns:
        `store`, `adapters` (each with its name, method, labels, parameters, share, bytes, seconds,
        metrics and folder), `answers`, `load_ms` (mean of the adapters) and `answer_ms`; and the
        answers as a table.
    """
    folder, backbone, store = recipes_folder(), Backbone.load("minilm"), Store(output)
    recipes = sorted(folder.glob("*.yaml"))
    adapters = [_train_and_publish(recipe, backbone, store) for recipe in recipes]
    requests = read_requests(folder / "mixed.csv", {"text": "text"}, "adapter")
    predictor = Predictor(backbone)
    began = time.perf_counter()
    for entry in adapters:
        predictor.load(entry["folder"])
    loaded = time.perf_counter()
    answers = predictor([(one.adapter, one.text) for one in requests])
    answered = time.perf_counter()
    pairs = list(zip(requests, answers, strict=True))
    result = {
        "store": str(output),
        "adapters": adapters,
        "answers": [answer_row(one.text, answer) for one, answer in pairs],
        "load_ms": 1000 * (loaded - began) / len(adapters),
        "answer_ms": 1000 * (answered - loaded),
    }
    names = [answer["adapter"] for answer in answers]
    lines = [summarize(predictor.find(one.adapter), answer) for one, answer in pairs]
    return result, answers_table(names, [one.text for one in requests], lines)


def _train_and_publish(file: Path, backbone: Backbone, store: Store) -> dict[str, Any]:
    """Trains and publishes the adapter of a recipe; returns what the quickstart shows of it."""
    recipe = Recipe.load(file)
    store.check_target(recipe.name)  # raises what publishing would raise, before training
    adapter = train(recipe, backbone)
    folder = publish_or_keep(adapter, store, backbone.geometry)
    return {
        "name": adapter.name,
        "method": adapter.method.type,
        "labels": len(getattr(adapter.task, "labels", None) or ()),
        "parameters": adapter.n_parameters,
        "share": adapter.n_parameters / backbone.n_parameters,
        "bytes": folder_bytes(folder),
        "seconds": adapter.training["seconds"],
        "metrics": adapter.metrics,
        "folder": str(folder),
    }


def print_quickstart(result: dict[str, Any], answers: str) -> None:
    """Prints the result of `run_quickstart`."""
    typer.echo("\nThree adapters over one frozen backbone:\n")
    typer.echo(
        table(
            ["name", "method", "labels", "test accuracy", "trainable", "folder kB", "seconds"],
            [
                [
                    entry["name"],
                    entry["method"],
                    entry["labels"],
                    f"{entry['metrics']['test']['accuracy']:.3f}",
                    f"{100 * entry['share']:.2f}%",
                    f"{entry['bytes'] / 1000:.0f}",
                    entry["seconds"],
                ]
                for entry in result["adapters"]
            ],
        )
    )
    typer.echo("\nOne mixed batch, answered in one forward pass:\n")
    typer.echo(answers)
    first = result["adapters"][0]["name"]
    typer.echo(
        f"\nLoading an adapter took {result['load_ms']:.1f} ms, the batch "
        f"{result['answer_ms']:.0f} ms. Ask one yourself:\n"
        f'  adapterkit predict {first} "Where is my money?" --store {result["store"]}'
    )
