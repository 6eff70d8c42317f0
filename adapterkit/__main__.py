"""The command line as a process: `adapterkit`, `python -m adapterkit`, `accelerate launch -m`."""

import atexit
import gc

from .cli.app import app

SELDOM = 300_000
"""Objects that may come before Python looks for rings of dead ones among them. What a command
imports is as many and stays; looking through it every 700 takes a seventh of a first answer."""


def main() -> None:
    """Runs the command line."""
    gc.set_threshold(SELDOM)
    # At the end they all go with the process, and need not be looked through once more.
    atexit.register(gc.freeze)
    app(prog_name="adapterkit")


if __name__ == "__main__":
    main()
