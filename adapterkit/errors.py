"""What can go wrong through no fault of the code: each class is one kind of answer to a user.

Every message names the value, the place and what to do. The command line prints it as one line and
exits with 2; nothing here ever shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AdapterkitError(Exception):
    """A fault the user can mend."""


class BackboneError(AdapterkitError):
    """The backbone cannot be found, loaded or used as asked."""


class RecipeError(AdapterkitError):
    """A recipe, or a value given on top of it, is not usable."""


class DataError(AdapterkitError):
    """A data file or one of its rows is not usable."""


class AdapterError(AdapterkitError):
    """An adapter folder is damaged, incomplete or made for another backbone."""


class UnknownAdapterError(AdapterkitError):
    """No adapter of that name is here."""


class OverloadedError(AdapterkitError):
    """A server's queue is full, or a quota is used up.

    Attributes:
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(AdapterkitError):
    """A server cannot be reached, is closing, or could not answer in time."""


class AccessError(AdapterkitError):
    """A server does not know the API key, or the key does not open what was asked."""


class ServerError(AdapterkitError):
    """A server failed, or what answers there is no server of adapterkit."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest valid one, else all of them."""
    valid = sorted(options)
    near = get_close_matches(word, valid, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"valid are: {', '.join(valid)}" if valid else "nothing is valid here"
