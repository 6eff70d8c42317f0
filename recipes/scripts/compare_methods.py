"""Compare methods on the same rows: score, size and time, as a table and a plot.

python recipes/scripts/compare_methods.py recipes/quickstart/intents.csv
python recipes/scripts/compare_methods.py rows.csv --text message --label topic --epochs 5

It is what `adapterkit compare RECIPE` does, with the recipe made in code. The score is that of the
test rows where the file has some, else that of the validation rows. Nothing is published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from adapterkit import AdapterkitError, Recipe, compare
from adapterkit.adapter.plots import comparison
from adapterkit.training.comparison import show

METHODS = ["lora", "prefix", "bottleneck", "head", "full"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="CSV, TSV, JSONL or Parquet file")
    parser.add_argument("--text", default="text", help="column of the text")
    parser.add_argument("--label", default="label", help="column of the label")
    parser.add_argument("--backbone", default="minilm", help="minilm, a folder or a hub name")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1, help="how often each is trained")
    parser.add_argument("--plot", type=Path, help="PNG file to draw into")
    given = parser.parse_args(words)
    try:
        recipe = Recipe.of(
            {
                "name": "compare/methods",
                "data": {"path": given.rows.name, "text": given.text, "label": given.label},
                "backbone": {"model": given.backbone},
                "method": {"type": METHODS[0]},  # its settings; the others have their defaults
                "training": {"epochs": given.epochs},
            },
            folder=given.rows.parent,
        )
        result = compare(recipe, METHODS, given.seeds)
    except AdapterkitError as error:
        parser.error(str(error))
    print(show(result))
    if given.plot is not None:
        given.plot.write_bytes(comparison(result))


if __name__ == "__main__":
    main()
