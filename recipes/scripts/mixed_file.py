"""Answer a file whose rows belong to different adapters, all in one go.

    python mixed_file.py mixed.csv answers.jsonl --store adapters
    python mixed_file.py mixed.csv answers.jsonl --url http://127.0.0.1:8080

The file has the columns `adapter` and `text`, as recipes/quickstart/mixed.csv has. With --url a
running server answers (key: ADAPTERKIT_KEY), else this process does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from adapterkit import AdapterkitError, Backbone, Client, Predictor, Store
from adapterkit.adapter.folder import load_adapter

Asked = list[tuple[str, str]]


def here(asked: Asked, store: Store, backbone: str) -> list[dict]:
    """Answers of adapters that this process loads."""
    predictor = Predictor(Backbone.load(backbone))
    for name in sorted({name for name, _ in asked} - {"base"}):
        predictor.add(replace(load_adapter(store.path(name), predictor.backbone), name=name))
    return predictor(asked, progress=True)


def there(asked: Asked, url: str) -> list[dict]:
    """Answers of a server, in as many requests as its limits make of them."""
    with Client(url, os.environ.get("ADAPTERKIT_KEY")) as client:
        return client.ask(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--store", default="adapters")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--url", help="ask this server")
    chosen = parser.parse_args()

    with chosen.source.open(encoding="utf-8", newline="") as file:
        asked = [(row["adapter"] or "base", row["text"]) for row in csv.DictReader(file)]
    if chosen.url:
        answers = there(asked, chosen.url)
    else:
        answers = here(asked, Store(chosen.store), chosen.backbone)
    with chosen.target.open("w", encoding="utf-8") as file:
        for (_, text), answer in zip(asked, answers, strict=True):
            file.write(json.dumps({"text": text, **answer}, ensure_ascii=False) + "\n")
    print(f"{len(answers)} answers in {chosen.target}")


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
