"""A limit of time for work that might never end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 60
"""After which work counts as one that never ends; compiling a loop takes some of them."""


class Hang(BaseException):
    """Work that does not end; no `Exception`, so nothing can catch it."""


@contextmanager
def limited_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
