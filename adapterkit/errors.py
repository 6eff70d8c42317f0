"""Errors that a user can correct.

Every message names the value, where it is and what to do. The command line prints it as one line,
without a traceback, and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AdapterkitError(Exception):
    """An error that the user can correct."""


class BackboneError(AdapterkitError):
    """A backbone cannot be found, loaded or used as requested."""


class RecipeError(AdapterkitError):
    """A recipe, or a change to it, is not valid."""


class DataError(AdapterkitError):
    """A file of data, or one of its rows, is not valid."""


class RowError(DataError):
    """One row of a file is not valid; the others can be read."""


class TooLargeError(DataError):
    """A text is longer than a server accepts."""


class AdapterError(AdapterkitError):
    """An adapter folder is damaged, incomplete or made for another backbone."""


class MissingBackboneError(AdapterError):
    """An adapter was trained on a backbone that is not loaded."""


class UnknownAdapterError(AdapterkitError):
    """There is no adapter of that name."""


class OverloadedError(AdapterkitError):
    """A server's queue is full, or a quota is used up.

    Attributes:
        retry_after: Seconds to wait before the next attempt.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(AdapterkitError):
    """A server cannot be reached, is shutting down, or did not answer in time."""


class UnreachableStoreError(UnavailableError):
    """The store of a URL cannot be reached. The message names it, so no tenant should see it."""


class AccessError(AdapterkitError):
    """A server does not know the API key, or the key does not permit the request."""


class ServerError(AdapterkitError):
    """A server failed, or is not a server of adapterkit."""


class TrainingInterruptedError(KeyboardInterrupt):
    """A signal has ended a training; the message says where its checkpoint is, if there is one.

    It is no `AdapterkitError`, so that a program ends with it as with any Ctrl-C.

    Attributes:
        exit_code: The shell's code for the signal: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in place of a traceback."""
        return [str(self)]


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Ends a message about an unknown word with the nearest valid one, else with all of them."""
    valid = sorted(options)
    nearest = get_close_matches(word, valid, n=1, cutoff=0.6)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return f"valid are: {', '.join(valid)}" if valid else "nothing is valid here"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of those with which Python, the loader of compiled libraries, or
    torch report a lack of memory, or was raised because of one."""
    texts = (
        "failed to map segment",
        "DefaultCPUAllocator",
        "can't start new thread",
        "out of memory",
        "bad_alloc",
        "could not create a primitive",  # oneDNN, whose primitives hold a workspace
        "Cannot allocate memory",
    )
    if isinstance(error, MemoryError) or any(text in str(error) for text in texts):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)
