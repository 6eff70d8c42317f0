"""HTTP/1.1 over one connection, with limits of time and memory that uvicorn does not have."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .connections import Connections, Phase
from .errors import error_response

MAX_TARGET = 8_192
"""Most bytes of the path and query of a request."""

MAX_FIELDS = 100
"""Most header fields of a request, with trailers."""

MAX_FIELD = 8_192
"""Most bytes of one header field."""

MAX_HEAD = 32_768
"""Most bytes of a request that are not its body: request line, header fields, framing of chunks and
trailers. One more read of the socket may arrive before it is checked."""

MAX_FRAMING = 8
"""Bytes of framing that each byte of a body may have; chunks of one byte have five."""

MAX_PIPELINED = 16
"""Most requests that a client may send before it has read the answers."""

WRITE_SECONDS = 15.0
"""Most seconds in which a client reads nothing of its answer."""


class _RefusedError(Exception):
    """Stops the parser. The status and the message are in `BoundedHttp._refusal`."""


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol, but a client cannot hold a connection or memory for nothing.

    The head of a request is limited in size, and in the time until it is complete. A client that
    does not read its answer is disconnected. Limits of bodies are in `BodyLimits`, because they
    depend on the caller.

    Args:
        registry: All connections of the server.
        head_seconds: Most seconds until the head of a request is complete.
        arguments, settings: As uvicorn gives them.
    """

    def __init__(
        self, *arguments: Any, registry: Connections, head_seconds: float, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self._registry = registry
        self._head_seconds = head_seconds
        self._head_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._refusal = (400, "the request is not HTTP/1.1")
        self._free_bytes = MAX_HEAD
        self._started = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        if self._registry.open(self, self._host):
            self._start_head_timer()
        else:
            self._refuse(503, "the server has too many connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head_timer)
        self._head_timer = None
        _cancel(self._write_timer)
        self._write_timer = None
        self._registry.close(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Closes the connection at once, for `Connections`."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._free_bytes -= len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._free_bytes < 0:
            self._refuse(431, f"the head of the request is larger than {MAX_HEAD} bytes")
            return
        phase = self._set_phase()
        if phase is Phase.IDLE and self._head_timer is None:  # the head of a further request
            self._start_head_timer()

    def on_message_begin(self) -> None:
        self._started = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._stop_parser(414, f"the path is longer than {MAX_TARGET} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_FIELDS:
            self._stop_parser(431, f"the request has more than {MAX_FIELDS} header fields")
        if len(name) + len(value) > MAX_FIELD:
            self._stop_parser(431, f"a header field is larger than {MAX_FIELD} bytes")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parser(400, f"more than {MAX_PIPELINED} requests wait for their answers")
        _cancel(self._head_timer)
        self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._free_bytes = min(MAX_HEAD, self._free_bytes + (1 + MAX_FRAMING) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._free_bytes = MAX_HEAD
        self._started = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._set_phase()
        if self.transport.is_closing():
            self._watch_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that the parser has refused, in place of uvicorn's plain text."""
        self._refuse(*self._refusal)

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _phase(self) -> Phase:
        if self.cycle is None or self.cycle.response_complete:
            return Phase.IDLE
        return Phase.RECEIVING if self.cycle.more_body else Phase.ANSWERING

    def _set_phase(self) -> Phase:
        phase = self._phase
        self._registry.set_phase(self, phase)
        return phase

    def _stop_parser(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise _RefusedError

    def _refuse(self, status: int, message: str) -> None:
        """Answers with an error, unless another answer is being sent, and closes the connection."""
        if self._phase is Phase.IDLE:
            content = bytes(error_response(status, message).body)
            head = b"content-type: application/json\r\nconnection: close\r\n"
            length = b"content-length: %d\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + length + content)
        self.transport.close()
        self._watch_writing()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._head_seconds, self._on_slow_head)

    def _on_slow_head(self) -> None:
        self._registry.note("too slow", self._host)
        if self._started:
            self._refuse(408, "the head of the request was sent too slowly")
        else:
            self.transport.close()

    def _watch_writing(self) -> None:
        """Disconnects the client if it reads nothing for some time; a closed connection would
        otherwise stay open until all is read."""
        _cancel(self._write_timer)
        self._write_timer = None
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self._check_writing, unread)

    def _check_writing(self, unread_before: int) -> None:
        if self.transport.get_write_buffer_size() < unread_before:
            self._watch_writing()
        else:
            self._registry.note("too slow", self._host)
            self.transport.abort()


def _cancel(timer: TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
