"""The process of `adapterkit`, `python -m adapterkit` and `accelerate launch -m adapterkit`."""

import atexit
import gc

from .cli.app import app

COLLECTION_THRESHOLD = 300_000
"""New objects before Python collects reference cycles. The imports of a command create about as
many, which stay; with the default of 700, collections take a seventh of a first answer."""


def main() -> None:
    """Runs the command line."""
    gc.set_threshold(COLLECTION_THRESHOLD)
    # A last collection at exit would only cost time: memory is freed with the process.
    atexit.register(gc.freeze)
    app(prog_name="adapterkit")


if __name__ == "__main__":
    main()
