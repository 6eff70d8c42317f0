"""Requests with many rows, divided so that each is within the limits of the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import ServerError
from .messages import Request, Send, read_content, read_object


class BatchRequest(NamedTuple):
    """A request with many rows, without the rows themselves.

    Attributes:
        path: Path of the endpoint.
        head: Body before the rows.
        tail: Body after the rows.
        head_rows: Number of rows in the head.
    """

    path: str
    head: bytes
    tail: bytes
    head_rows: int = 0


class BatchLimits(NamedTuple):
    """Limits of one request.

    Attributes:
        rows: Most rows of a request.
        n_bytes: Most bytes of its body.
    """

    rows: int
    n_bytes: int


class BatchSender:
    """Sends many rows; the limits of the server are read once.

    Args:
        send: Sends one request.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._limits: BatchLimits | None = None

    async def send(self, batch: BatchRequest, rows: Sequence[bytes]) -> list[Any]:
        """Sends rows in as few requests as the limits allow.

        Args:
            batch: The request.
            rows: JSON of each row.

        Returns:
            One answer for each row.

        Raises:
            AdapterkitError: A reply is an error, or has more or fewer answers.
        """
        limits = await self._limits_for(len(rows) + batch.head_rows)
        free_bytes = limits.n_bytes - len(batch.head) - len(batch.tail)
        answers: list[Any] = []
        for part in split_rows(rows, BatchLimits(limits.rows - batch.head_rows, free_bytes)):
            body = b"".join((batch.head, b",".join(part), batch.tail))
            prefix = f"rows {len(answers) + 1} to {len(answers) + len(part)}: "
            reply = await self._send(Request("POST", batch.path, body))
            found = read_content(reply, prefix if len(part) < len(rows) else "")
            if not isinstance(found, list) or len(found) != len(part):
                raise ServerError(f"{prefix}the server has not given one answer for each row")
            answers += found
        return answers

    async def _limits_for(self, n_rows: int) -> BatchLimits:
        if n_rows == 1:
            return BatchLimits(1, 0)  # every server accepts one row
        if self._limits is None:
            info = read_object(await self._send(Request("GET", "/info")))
            self._limits = BatchLimits(info["max_client_batch_size"], info["max_body_bytes"])
        return self._limits


def split_rows(rows: Sequence[bytes], limits: BatchLimits) -> Iterator[Sequence[bytes]]:
    """Splits rows, in their order, into parts within the limits; a row that exceeds them is alone.

    Args:
        rows: JSON of each row.
        limits: Most rows of a part, and most bytes, with one byte for a comma after each row.
    """
    start, n_bytes = 0, 0
    for index, row in enumerate(rows):
        full = index - start == limits.rows or n_bytes + len(row) + 1 > limits.n_bytes
        if full and index > start:
            yield rows[start:index]
            start, n_bytes = index, 0
        n_bytes += len(row) + 1
    if start < len(rows):
        yield rows[start:]
