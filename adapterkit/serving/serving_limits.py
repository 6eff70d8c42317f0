"""The limits of one request."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DataError


@dataclass(frozen=True)
class ServingLimits:
    """Limits of one request.

    Attributes:
        rows: Most rows of a request.
        row_characters: Most characters of a row. A text that is tokenised several times, once
            beside each of several choices, counts as often.
        request_characters: Most characters of all rows of a request.
        body_bytes: Most bytes of its body.
        upload_bytes: Most bytes of a published adapter.
        timeout: Seconds after which a request fails.
        read_timeout: Most seconds for the head of a request, and between two parts of its body.
    """

    rows: int = 256
    row_characters: int = 200_000
    request_characters: int = 2_000_000
    body_bytes: int = 2_000_000
    upload_bytes: int = 256_000_000
    timeout: float = 30.0
    read_timeout: float = 10.0

    def check_rows(self, n: int) -> None:
        """Raises `DataError` if a request has no rows, or too many."""
        if not 1 <= n <= self.rows:
            raise DataError(f"expected 1 to {self.rows} rows per request, got {n}")
