"""The address at which a server listens, and who may reach it there."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import AdapterkitError
from .json_logs import log
from .keys.api_keys import Keys


def check_host(host: str, keys: Keys | None) -> None:
    """Refuses to serve other machines without keys.

    Raises:
        AdapterkitError: The host is not a loopback address, and there are no keys.
    """
    if keys is None and not is_loopback(host):
        raise AdapterkitError(
            f"--host {host} is open to other machines, and there are no keys: give --keys FILE "
            "(adapterkit keys makes one), or listen on 127.0.0.1"
        )


def warn_of_plain_http(host: str) -> None:
    """Logs a warning if other machines can reach a server without TLS."""
    if not is_loopback(host):
        log.warning(
            f"--host {host} is open to other machines without TLS: keys and texts can be read "
            "on the way; give --ssl-certfile, or put a proxy with TLS in front"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(address: str, port: int, *, is_tls: bool) -> str:
    """The URL of a server."""
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if is_tls else 'http'}://{host}:{port}"


def bound(host: str, port: int) -> socket.socket:
    """A bound socket, made before the backbone is loaded, so that a port in use fails early. It
    listens only when the server is ready, so that probes are not kept waiting.

    Raises:
        AdapterkitError: The port is in use, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with address_errors(host, port):
            sock.bind((host, port))
    except AdapterkitError:
        sock.close()
        raise
    return sock


@contextmanager
def address_errors(host: str, port: int) -> Iterator[None]:
    """Inside, an address that cannot be used is an error of ours.

    Raises:
        AdapterkitError: It is in use, or not one of this machine.
    """
    try:
        yield
    except OSError as error:
        raise AdapterkitError(f"--host {host} --port {port}: {error.strerror}") from None
