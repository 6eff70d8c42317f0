"""The progress bar: text on a terminal, and in a notebook a widget, or text without ipywidgets."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # in a notebook without ipywidgets
    from tqdm.autonotebook import tqdm


def progress_bar(show: bool, **settings: Any) -> Any:
    """A bar of tqdm, as a context manager; nothing is drawn into a file or a pipe.

    Args:
        show: Whether the caller wants to see progress.
        **settings: Settings of tqdm, such as `total` and `unit`.
    """
    # With None tqdm draws on terminals alone. The output of a notebook's kernel is no terminal.
    in_notebook = "ipykernel" in sys.modules
    return tqdm(disable=(False if in_notebook else None) if show else True, **settings)


def print_line(line: str) -> None:
    """Prints a line to standard error, above the bar if one is drawn."""
    tqdm.write(line, file=sys.stderr)
