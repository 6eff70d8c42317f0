"""TLS: its files, and connections during their handshake."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import AdapterkitError
from .connections import Connections

SHUTDOWN_SECONDS = 5.0
"""Most seconds in which a client confirms that a connection ends."""


def load_tls(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    """The TLS settings of a server; None without a certificate.

    Args:
        certfile: Certificate chain in PEM format, the server's own first.
        keyfile: Its private key in PEM format, without a password; in `certfile` if None.

    Raises:
        AdapterkitError: A file cannot be read or is not valid, or the key is of another
            certificate.
    """
    if certfile is None:
        if keyfile is not None:
            raise AdapterkitError("--ssl-keyfile: give --ssl-certfile, the certificate, as well")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = f"--ssl-certfile {certfile}" + (f" --ssl-keyfile {keyfile}" if keyfile else "")
    try:
        context.load_cert_chain(certfile, keyfile, password=partial(_refuse_password, files))
    except ssl.SSLError as error:
        reason = (error.reason or "not in PEM format").lower().replace("_", " ")
        raise AdapterkitError(
            f"{files}: not a certificate with its private key ({reason})"
        ) from None
    except OSError as error:
        raise AdapterkitError(f"{files}: cannot be read ({error.strerror})") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refuse_password(files: str) -> str:
    raise AdapterkitError(f"{files}: the private key has a password; give one without")


class TlsHandshake(asyncio.Protocol):
    """A connection until its TLS handshake is complete. Then an HTTP protocol takes it over.

    The handshake is done here and not by the event loop's server, which would neither count these
    connections nor close them to make room.

    Args:
        context: The TLS settings.
        registry: All connections of the server.
        seconds: Most seconds of the handshake.
        make_http: Makes the HTTP protocol.
        settings: As uvicorn gives them, for the HTTP protocol.
    """

    def __init__(
        self,
        *,
        context: ssl.SSLContext,
        registry: Connections,
        seconds: float,
        make_http: Callable[..., asyncio.Protocol],
        **settings: Any,
    ) -> None:
        self._context = context
        self._registry = registry
        self._seconds = seconds
        self._make_http = partial(make_http, **settings)
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self._early_data = bytearray()
        self._is_lost = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        self._transport = transport
        address = transport.get_extra_info("peername")
        self._host = str(address[0]) if address else ""
        if not self._registry.open(self, self._host):
            transport.abort()  # the client could read no answer yet
            return
        transport.pause_reading()  # the first bytes are for the handshake
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        """Keeps the begin of a request that arrives with the end of the handshake."""
        self._early_data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._registry.close(self)

    def abort(self) -> None:
        """Closes the connection at once, for `Connections`."""
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                encrypted = await asyncio.get_running_loop().start_tls(
                    transport,
                    self,
                    self._context,
                    server_side=True,
                    ssl_handshake_timeout=2 * self._seconds,  # the one above is earlier
                    ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                )
        except OSError as error:  # the client is too slow, speaks no TLS, or has left
            if isinstance(error, TimeoutError):
                self._registry.note("too slow", self._host)
            transport.abort()
            return
        finally:
            self._registry.close(self)
        if encrypted is None or self._is_lost:
            transport.abort()
            return
        http = self._make_http()
        encrypted.set_protocol(http)
        http.connection_made(encrypted)
        if self._early_data:
            http.data_received(bytes(self._early_data))
