"""Limits of open connections: which are closed for a new one, and what is counted and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from adapterkit.errors import AdapterkitError
from adapterkit.serving.http.connections import (
    LOG_SECONDS,
    RESERVED_DESCRIPTORS,
    ConnectionLimits,
    Connections,
    Phase,
)


class Line:
    """A connection that remembers whether it was closed."""

    def __init__(self) -> None:
        self.is_open = True

    def abort(self) -> None:
        self.is_open = False


def opened(connections: Connections, host: str, phase: Phase = Phase.IDLE) -> Line:
    line = Line()
    assert connections.open(line, host)
    connections.set_phase(line, phase)
    return line


def test_the_longest_silent_connection_is_closed_first() -> None:
    connections = Connections(ConnectionLimits(4, 4))
    receiving = opened(connections, "a", Phase.RECEIVING)
    answering = opened(connections, "b", Phase.ANSWERING)
    older, younger = opened(connections, "c"), opened(connections, "d")
    connections.set_phase(older, Phase.IDLE)  # it has sent something since then
    opened(connections, "e", Phase.ANSWERING)
    assert not younger.is_open
    assert older.is_open
    opened(connections, "f", Phase.ANSWERING)
    assert not older.is_open
    assert receiving.is_open, "a connection without a request is closed first"
    opened(connections, "g", Phase.ANSWERING)
    assert not receiving.is_open
    assert not connections.open(Line(), "h"), "all others wait for their answers"
    assert answering.is_open
    assert len(connections) == 4
    assert connections.closed == {"replaced": 3, "refused": 1, "too slow": 0}


def test_one_address_has_a_limit_of_its_own() -> None:
    connections = Connections(ConnectionLimits(100, 2))
    other = opened(connections, "192.0.2.9")
    first = opened(connections, "192.0.2.1")
    opened(connections, "192.0.2.1", Phase.ANSWERING)
    opened(connections, "192.0.2.1", Phase.ANSWERING)
    assert not first.is_open
    assert other.is_open
    assert not connections.open(Line(), "192.0.2.1")
    assert connections.open(Line(), "192.0.2.9")


def test_a_whole_ipv6_network_is_one_address() -> None:
    connections = Connections(ConnectionLimits(100, 1))
    assert connections.open(Line(), "2001:db8::1")
    first = opened(connections, "2001:db8::2")
    opened(connections, "2001:db8:0:0:ffff::3")
    assert not first.is_open
    assert connections.open(Line(), "2001:db8:0:1::1")
    mapped = opened(connections, "::ffff:192.0.2.1")
    opened(connections, "192.0.2.1")
    assert not mapped.is_open


def test_a_closed_connection_leaves_no_trace() -> None:
    connections = Connections(ConnectionLimits(10, 10))
    lines = [opened(connections, "a", phase) for phase in Phase]
    for line in lines:
        connections.close(line)
        connections.close(line)
        connections.set_phase(line, Phase.ANSWERING)
    assert len(connections) == 0
    assert [connections.count(phase) for phase in Phase] == [0, 0, 0]


def test_the_log_has_one_record_for_many_closed_connections(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("adapterkit"), "propagate", True)
    now = 0.0
    connections = Connections(ConnectionLimits(1, 1), clock=lambda: now)
    for _ in range(50):
        opened(connections, "a")
    now += LOG_SECONDS
    opened(connections, "a")
    messages = [record.message for record in caplog.records]
    assert messages == [
        "connections were closed: 1 replaced",
        "connections were closed: 49 replaced",
    ]


def descriptor_limit(number: int) -> Callable[[int], tuple[int, int]]:
    return lambda _: (number, number)


@pytest.mark.parametrize(("descriptors", "expected"), [(1024, 768), (65536, 4096), (256, 64)])
def test_limits_follow_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, expected: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", descriptor_limit(descriptors))
    assert ConnectionLimits.of_process() == ConnectionLimits(expected, expected // 2)
    assert ConnectionLimits.of_process(10, 3) == ConnectionLimits(10, 3)
    assert ConnectionLimits.of_process(10, 30) == ConnectionLimits(10, 10)


def test_more_connections_than_descriptors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", descriptor_limit(1024))
    most = 1024 - RESERVED_DESCRIPTORS
    with pytest.raises(AdapterkitError, match=f"--max-connections 1000.* {most} .*ulimit -n 1256"):
        ConnectionLimits.of_process(1000)
