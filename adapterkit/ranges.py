"""Ranges that settings must lie in: one check and one sentence for each kind."""

from __future__ import annotations


def check_least(settings: object, least: int, *names: str) -> None:
    """Refuses settings below a bound; None stands for one that is not given.

    Raises:
        ValueError: One is, or is no number.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")


def check_share(settings: object, *names: str) -> None:
    """Refuses shares that are not of 0 or more and less than 1.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: expected 0 or more and less than 1, got {value}")
