"""A minimal HTTP client: a load generator shares the machine with the server under load."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


@dataclass(frozen=True)
class TimedReply:
    """A reply and its time.

    Attributes:
        status: The HTTP status; 0 if the connection failed.
        headers: Headers by lower-case name.
        content: The body, parsed if it is JSON; the reason if the connection failed.
        seconds: Time from the first byte sent to the last byte read.
    """

    status: int
    headers: Mapping[str, str]
    content: Any
    seconds: float


class Connection:
    """One HTTP/1.1 connection that is kept alive; one request at a time.

    Args:
        url: URL of the server.
        key: API key, if the server has keys.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        if self._tls is not None:
            self._port = parts.port or 443
        self._base = parts.path.rstrip("/")
        self._head = f"host: {self._host}\r\ncontent-type: application/json\r\n"
        self._head += f"authorization: Bearer {key}\r\n" if key else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> TimedReply:
        """Sends a JSON body."""
        return await self.send("POST", path, json.dumps(body).encode())

    async def send(self, method: str, path: str, body: bytes = b"", kind: str = "") -> TimedReply:
        """Sends a request; a connection that was closed is opened again.

        Args:
            method: The HTTP method.
            path: Path after the URL.
            body: The body.
            kind: Its content type; JSON if omitted.
        """
        began = time.perf_counter()
        head = self._head.replace("application/json", kind) if kind else self._head
        lines = f"{method} {self._base}{path} HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n"
        try:
            reader, writer = await self._open()
            writer.write(lines.encode() + body)
            await writer.drain()
            status, headers = await _head(reader)
            content = await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
            self.close()
            return TimedReply(0, {}, _broken(error), time.perf_counter() - began)
        if headers.get("connection") == "close":
            self.close()
        seconds = time.perf_counter() - began
        is_json = headers.get("content-type", "").startswith("application/json")
        return TimedReply(status, headers, json.loads(content) if is_json else content, seconds)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (
            self._streams is not None and self._streams[0].at_eof()
        ):  # closed by the server after it was idle
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        return self._streams

    def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def run_load(load: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, on the fastest event loop."""
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for Windows
        return asyncio.run(load)
    return uvloop.run(load)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(lines[0].split(" ", 2)[1]), headers


def _broken(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "the reply has no content-length, which this client needs"
    return str(error)
