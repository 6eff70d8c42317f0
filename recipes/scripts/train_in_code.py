"""Train an adapter in Python, save it, load it and use it. Copy what you need.

python train_in_code.py my_folder                       # trains on the rows below
python train_in_code.py my_folder --csv intents.csv     # columns text and label
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adapterkit import AdapterkitError, Backbone, Predictor, Recipe, save_adapter, train

ROWS = [
    {"text": "I lost my card on the train", "label": "card"},
    {"text": "my card was stolen last night", "label": "card"},
    {"text": "please block my credit card", "label": "card"},
    {"text": "the transfer did not arrive", "label": "transfer"},
    {"text": "I sent money to the wrong account", "label": "transfer"},
    {"text": "when will my transfer be booked", "label": "transfer"},
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="new folder for the adapter")
    parser.add_argument("--csv", type=Path, help="rows with the columns text and label")
    parser.add_argument("--backbone", default="minilm", help="minilm, a folder or a hub name")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(arguments)
    try:
        train_and_predict(options.folder, options.csv, options.backbone, options.epochs)
    except AdapterkitError as error:
        parser.error(str(error))


def train_and_predict(folder: Path, csv: Path | None, model: str, epochs: int) -> None:
    # 1. Write the rows to a file: the adapter's card records the data it was trained on.
    path = csv or folder.with_suffix(".jsonl")
    if csv is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")

    # 2. Describe the training. `adapterkit train --keys` lists every key of a recipe.
    # Of a CSV file, the rows that its column 'split' names are held out, or else a tenth.
    held_out = {"validation": 0} if csv is None else {}
    recipe = Recipe.of(
        {
            "name": "acme/topic",
            "data": {"path": path.name, **held_out},
            "method": {"type": "lora", "r": 8},  # or vera, ia3, prefix, ...
            "training": {"epochs": epochs, "batch_size": 8},
        },
        folder=path.parent,
    )

    # 3. Load the backbone once. It never changes, so any number of adapters can share it.
    backbone = Backbone.load(model)
    adapter = train(recipe, backbone)
    save_adapter(adapter, folder, backbone.geometry)
    print(f"{folder}: {adapter.n_parameters:,} parameters, {adapter.metrics}")

    # 4. Later, or on another machine: the folder and the backbone are enough to predict.
    predictor = Predictor(backbone)
    name = predictor.load(folder)
    for text in ("where is my card", "my money did not arrive"):
        (answer,) = predictor([(name, text)])
        print(f"{text}: {answer['label']} ({answer['score']:.2f})")


if __name__ == "__main__":
    main()
