"""`adapterkit serve` when it cannot start: one line, and an exit code that says why."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.serving import server
from helpers.command_line import assert_refused

LOADING = """
import time
from adapterkit.__main__ import main
from adapterkit.backbone.model import Backbone
from adapterkit.serving import server

def load(settings, keys):
    print("loading", flush=True)
    time.sleep(60)

server.make_service = load
main()
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def test_a_port_in_use_is_refused_before_anything_is_loaded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(server, "make_service")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert_refused("serve", store, "--port", str(port), words=f"{port}: Address already in use")


def test_a_port_that_another_server_takes_during_loading_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[socket.socket] = []

    def load(settings: object, keys: object) -> None:
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        others.append(other)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(server, "make_service", load)
    assert_refused("serve", store, "--port", str(port), words="Address already in use")
    others[0].close()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--port", 65536, "65536"),
        ("--port", -1, "-1"),
        ("--max-connections", 0, "at least 1"),
        ("--max-connections", 10**9, "ulimit -n"),
        ("--max-connections-per-address", 0, "at least 1"),
        ("--read-timeout", 0, "more than 0 seconds"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    store: Path, option: str, value: int, words: str
) -> None:
    assert_refused("serve", store, option, str(value), words=words)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_one_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(settings: object, keys: object) -> None:
        raise error

    monkeypatch.setattr(server, "make_service", load)
    assert_refused("serve", store, "--port", "0", words="too little memory")


def test_a_signal_during_loading_ends_the_process_with_one_line(store: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING, "serve", str(store), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "Ended by SIGTERM while loading; no request was accepted.\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "99999"), "--port 99999: expected 0 to 65535"),
        (("--port", "-1"), "--port -1: expected 0 to 65535"),
        (("--pin", "no/such"), "--pin no/such: there is no adapter 'no/such' in the store store; "),
        (("--pin", "a b"), "--pin a b: 'a b' is not an adapter name"),
        (("--pin", "acme/intent@1"), "--pin acme/intent@1: 'acme/intent@1' is not an adapter name"),
        (("--keys", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    store: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], words: str
) -> None:
    monkeypatch.delattr(Backbone, "load_with")
    assert_refused("serve", "store", "--port", "0", *options, words=words)


@pytest.mark.parametrize("tenant", ["a b", "", "a/b", "..", "ak*", "x" * 65, "银行"])
def test_a_key_needs_a_tenant(tenant: str) -> None:
    assert_refused("keys", tenant, words=f"'{tenant}' is not a tenant: expected 1 to 64 letters")
