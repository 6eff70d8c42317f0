"""Answer a file whose rows belong to different adapters, in one call.

    python mixed_file.py mixed.csv answers.jsonl --store adapters
    python mixed_file.py mixed.csv answers.jsonl --url http://127.0.0.1:8080

The file has the columns `adapter` and `text`, like recipes/quickstart/mixed.csv. With --url a
running server answers (with the key in ADAPTERKIT_KEY, if set), otherwise this process does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

from adapterkit import AdapterkitError, Backbone, Client, Predictor

Requests = list[tuple[str, str]]


def answer_locally(requests: Requests, store: str, backbone: str) -> list[dict]:
    """Answers from adapters that this process loads from a store."""
    names = sorted({name for name, _ in requests})
    predictor = Predictor.open(names, store, backbone=Backbone.load(backbone))
    return predictor(requests, progress=True)


def answer_by_server(requests: Requests, url: str) -> list[dict]:
    """Answers from a server; the client splits the list to stay within the server's limits."""
    with Client(url, os.environ.get("ADAPTERKIT_KEY")) as client:
        return client.ask(requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--store", default="adapters")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--url", help="address of a running server")
    options = parser.parse_args()

    with options.source.open(encoding="utf-8", newline="") as file:
        requests = [(row["adapter"] or "base", row["text"]) for row in csv.DictReader(file)]
    if options.url:
        answers = answer_by_server(requests, options.url)
    else:
        answers = answer_locally(requests, options.store, options.backbone)
    with options.target.open("w", encoding="utf-8") as file:
        for (_, text), answer in zip(requests, answers, strict=True):
            file.write(json.dumps({"text": text, **answer}, ensure_ascii=False) + "\n")
    print(f"{len(answers)} answers in {options.target}")


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
