"""Nested values that are equal up to rounding."""

from __future__ import annotations

from typing import Any

import pytest


def assert_close(actual: Any, expected: Any) -> None:
    """Assert equality, numbers to 1e-4: other batches round differently."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_close(actual[key], expected[key])
    elif isinstance(expected, list):
        for actual_item, expected_item in zip(actual, expected, strict=True):
            assert_close(actual_item, expected_item)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=1e-4)
    else:
        assert actual == expected
