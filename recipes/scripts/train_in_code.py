"""Train an adapter in Python, save it, load it and ask it: copy what you need.

python recipes/scripts/train_in_code.py my_folder                       # the rows below
python recipes/scripts/train_in_code.py my_folder --csv intents.csv     # columns text and label
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adapterkit import Backbone, Predictor, Recipe, train
from adapterkit.adapter.folder import save_adapter
from adapterkit.errors import AdapterkitError

ROWS = [
    {"text": "I lost my card on the train", "label": "card"},
    {"text": "my card was stolen last night", "label": "card"},
    {"text": "please block my credit card", "label": "card"},
    {"text": "the transfer did not arrive", "label": "transfer"},
    {"text": "I sent money to the wrong account", "label": "transfer"},
    {"text": "when will my transfer be booked", "label": "transfer"},
]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a new folder for the adapter")
    parser.add_argument("--csv", type=Path, help="rows with the columns text and label")
    parser.add_argument("--backbone", default="minilm", help="minilm, a folder or a hub name")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args(words)
    try:
        run(given.folder, given.csv, given.backbone, given.epochs)
    except AdapterkitError as error:
        parser.error(str(error))


def run(folder: Path, csv: Path | None, model: str, epochs: int) -> None:
    """Trains, saves, loads and asks."""
    # 1. Rows that are in memory become a file, so that the adapter can tell what it learnt from.
    path = csv or folder.with_suffix(".jsonl")
    if csv is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")

    # 2. A recipe: `adapterkit train --keys` lists all that it may say.
    recipe = Recipe.of(
        {
            "name": "acme/topic",
            "data": {"path": path.name, "validation": 0 if csv is None else 0.1},
            "method": {"type": "lora", "r": 8},  # or prefix, or bottleneck
            "training": {"epochs": epochs, "batch_size": 8},
        },
        folder=path.parent,
    )

    # 3. The backbone is loaded once and never changes; any number of adapters share it.
    backbone = Backbone.load(model)
    adapter = train(recipe, backbone)
    save_adapter(adapter, folder, backbone.geometry)
    print(f"{folder}: {adapter.n_parameters:,} parameters, {adapter.metrics}")

    # 4. Later, or elsewhere: the folder is all that it takes.
    predictor = Predictor(backbone)
    name = predictor.load(folder)
    for text in ("where is my card", "my money did not arrive"):
        (answer,) = predictor([(name, text)])
        print(f"{text}: {answer['label']} ({answer['score']:.2f})")


if __name__ == "__main__":
    main()
