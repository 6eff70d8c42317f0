"""Nested values that are equal but for rounding."""

from __future__ import annotations

from typing import Any

import pytest


def assert_close(got: Any, goal: Any) -> None:
    """Equal, numbers to 1e-4: a batch of other rows rounds otherwise."""
    if isinstance(goal, dict):
        assert got.keys() == goal.keys()
        for key in goal:
            assert_close(got[key], goal[key])
    elif isinstance(goal, list):
        for one, other in zip(got, goal, strict=True):
            assert_close(one, other)
    elif isinstance(goal, float):
        assert got == pytest.approx(goal, abs=1e-4)
    else:
        assert got == goal
