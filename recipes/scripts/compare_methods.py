"""Compare methods on the same rows: score, size and time, as a table and a plot.

    python compare_methods.py recipes/quickstart/intents.csv
    python compare_methods.py rows.csv --text message --label topic --epochs 5

This script does what `adapterkit compare RECIPE` does, but builds the recipe in Python. The score
is the one on the test rows if the file has test rows, otherwise the one on the validation rows.
Nothing is published to a store.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from adapterkit import (
    AdapterkitError,
    Recipe,
    compare,
    comparison_table,
    method_names,
    plot_comparison,
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="CSV, TSV, JSONL or Parquet file")
    parser.add_argument("--text", default="text", help="name of the text column")
    parser.add_argument("--label", default="label", help="name of the label column")
    parser.add_argument("--backbone", default="minilm", help="minilm, a folder or a hub name")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of each method")
    parser.add_argument("--plot", type=Path, help="PNG file to write the plot to")
    options = parser.parse_args(arguments)
    methods = method_names()
    try:
        recipe = Recipe.of(
            {
                "name": "compare/methods",
                "data": {"path": options.rows.name, "text": options.text, "label": options.label},
                "backbone": {"model": options.backbone},
                "method": {"type": methods[0]},  # the other methods use their default settings
                "training": {"epochs": options.epochs},
            },
            folder=options.rows.parent,
        )
        result = compare(recipe, methods, options.seeds)
    except AdapterkitError as error:
        parser.error(str(error))
    print(comparison_table(result))
    if options.plot is not None:
        options.plot.write_bytes(plot_comparison(result))


if __name__ == "__main__":
    main()
