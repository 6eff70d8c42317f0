"""Swap an adapter inside a running program: ask, publish a new version, ask again, roll back.

    python hot_swap.py acme/intent NEW_FOLDER "I lost my card" --store adapters

NEW_FOLDER is an adapter folder, as `adapterkit train` leaves one. Another thread asks all the
while: no call waits, and each is answered by one version from beginning to end. Over HTTP the same
steps are `predict`, `publish` and `roll_back` of `adapterkit.Client`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from dataclasses import replace

from adapterkit import AdapterkitError, Backbone, Predictor, Store
from adapterkit.adapter.folder import load_adapter


def bring(predictor: Predictor, store: Store, name: str) -> int:
    """Answers with what is the latest version of a name now, and says which that is."""
    version = store.find(name)
    adapter = load_adapter(version.folder, predictor.backbone)
    predictor.add(replace(adapter, name=name))  # in place of the one before, in one step
    return version.number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="an adapter of the store")
    parser.add_argument("folder", help="its new version")
    parser.add_argument("text", help="what every version is asked")
    parser.add_argument("--store", default="adapters")
    parser.add_argument("--backbone", default="minilm")
    chosen = parser.parse_args()
    name, store = chosen.name, Store(chosen.store)
    predictor = Predictor(Backbone.load(chosen.backbone))

    def ask() -> dict:
        (answer,) = predictor([(name, chosen.text)])
        return answer

    print("version", bring(predictor, store, name), "answers", ask())

    answered, done = [], threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answered.append(ask())

    caller = threading.Thread(target=keep_asking)
    caller.start()
    try:
        new = load_adapter(chosen.folder, predictor.backbone)  # what does not fit ends here
        store.publish(replace(new, name=name), predictor.backbone.geometry)
        print("version", bring(predictor, store, name), "answers", ask())
        store.roll_back(name)
        print("version", bring(predictor, store, name), "answers", ask())
    finally:
        done.set()
        caller.join()
    print(f"{len(answered)} calls of another thread were answered meanwhile")


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
