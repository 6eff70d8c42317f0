"""Train every method on the same rows and compare size, time and score.

python recipes/scripts/compare_methods.py recipes/quickstart/intents.csv
python recipes/scripts/compare_methods.py rows.csv --text message --label topic --epochs 5

The score is that of the test rows where the file has a split column with some, else that of the
validation rows. Nothing is published.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adapterkit import Backbone, Recipe, train
from adapterkit.answers import table
from adapterkit.errors import AdapterkitError
from adapterkit.method import methods

HEADER = ["method", "parameters", "kB", "seconds", "accuracy", "f1_macro", "rows"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="CSV, TSV, JSONL or Parquet file")
    parser.add_argument("--text", default="text", help="column of the text")
    parser.add_argument("--label", default="label", help="column of the label")
    parser.add_argument("--backbone", default="minilm", help="minilm, a folder or a hub name")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args(words)
    try:
        backbone = Backbone.load(given.backbone)
        lines = [line_of(kind, given, backbone) for kind in sorted(methods())]
    except AdapterkitError as error:
        parser.error(str(error))
    print(table(HEADER, lines))


def line_of(kind: str, given: argparse.Namespace, backbone: Backbone) -> list[Any]:
    """One method's line of the table; all else is the same for every method."""
    recipe = Recipe.of(
        {
            "name": f"compare/{kind}",
            "data": {"path": given.rows.name, "text": given.text, "label": given.label},
            "method": {"type": kind},  # its own defaults, its own learning rate
            "training": {"epochs": given.epochs},
        },
        folder=given.rows.parent,
    )
    adapter = train(recipe, backbone)
    split = "test" if "test" in adapter.metrics else "validation"
    scores = [f"{adapter.metrics[split][name]:.4f}" for name in ("accuracy", "f1_macro")]
    size = [f"{adapter.n_parameters:,}", f"{adapter.n_bytes / 1000:,.0f}"]
    return [kind, *size, adapter.training["seconds"], *scores, split]


if __name__ == "__main__":
    main()
