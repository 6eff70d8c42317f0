"""Keeps the messages and progress bars of other libraries out of our own output."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Lets transformers log errors alone; its progress bars stay off, also afterwards."""
    from transformers.utils import logging as transformers_log

    transformers_log.disable_progress_bar()
    verbosity = transformers_log.get_verbosity()
    transformers_log.set_verbosity_error()
    try:
        yield
    finally:
        transformers_log.set_verbosity(verbosity)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Stops the log of datasets and, if stderr is not a terminal, its progress bars."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from datasets.utils import logging as datasets_log

    verbosity, were_disabled = datasets_log.get_verbosity(), are_progress_bars_disabled()
    datasets_log.set_verbosity(datasets_log.CRITICAL)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        datasets_log.set_verbosity(verbosity)
        if not were_disabled:
            enable_progress_bars()


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Stops Python warnings, log messages below errors and transformers' progress bars."""
    from transformers.utils import logging as transformers_log

    transformers_log.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def drop_cast_messages() -> None:
    """Drops the message with which bitsandbytes reports, at every product, a cast to float16.

    Its 8-bit quantisation always casts. bfloat16 is still the better dtype around it: on a CPU,
    float16 products are many times slower.
    """
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if _is_no_cast_message not in logger.filters:
        logger.addFilter(_is_no_cast_message)


def _is_no_cast_message(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in str(record.msg)
