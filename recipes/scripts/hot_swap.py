"""Replace an adapter in a running program: publish a new version, then roll back.

    python hot_swap.py acme/intent NEW_FOLDER "I lost my card" --store adapters

NEW_FOLDER is an adapter folder as `adapterkit train` writes it. A second thread sends requests
during the whole time: no request waits, and each is answered by exactly one version. Over HTTP the
same steps are `predict`, `publish` and `roll_back` of `adapterkit.Client`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from dataclasses import replace

from adapterkit import AdapterkitError, Backbone, Predictor, Store, load_adapter


def load_latest(predictor: Predictor, store: Store, name: str) -> int:
    """Loads the latest version of an adapter into the predictor and returns its number."""
    version = store.find(name)
    adapter = load_adapter(version.folder, predictor.backbone)
    predictor.add(replace(adapter, name=name))  # replaces the previous version in one step
    return version.number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="name of an adapter in the store")
    parser.add_argument("folder", help="folder of its new version")
    parser.add_argument("text", help="text that every version answers")
    parser.add_argument("--store", default="adapters")
    parser.add_argument("--backbone", default="minilm")
    options = parser.parse_args()
    name, store = options.name, Store(options.store)
    predictor = Predictor(Backbone.load(options.backbone))

    def predict() -> dict:
        (answer,) = predictor([(name, options.text)])
        return answer

    print("version", load_latest(predictor, store, name), "answers", predict())

    answers, stop = [], threading.Event()

    def keep_predicting() -> None:
        while not stop.is_set():
            answers.append(predict())

    caller = threading.Thread(target=keep_predicting)
    caller.start()
    try:
        new = load_adapter(options.folder, predictor.backbone)  # raises if it does not fit
        store.publish(replace(new, name=name), predictor.backbone.geometry)
        print("version", load_latest(predictor, store, name), "answers", predict())
        store.roll_back(name)
        print("version", load_latest(predictor, store, name), "answers", predict())
    finally:
        stop.set()
        caller.join()
    print(f"{len(answers)} requests of the second thread were answered meanwhile")


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
