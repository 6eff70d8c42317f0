"""TLS: answers over it, files that are refused, and connections during their handshake."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from adapterkit.serving import server
from adapterkit.serving.http.tls import load_tls
from adapterkit.serving.keys.api_keys import hash_key
from adapterkit.serving.server import Settings, run_server
from adapterkit.serving.serving_limits import ServingLimits
from helpers.adapters import MakeAdapter
from helpers.server import serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates for 127.0.0.1 and their keys, one of them with a password."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name, password in (("a", ["-nodes"]), ("locked", ["-passout", "pass:secret"])):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-subj", "/CN=adapterkit", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")),
                *("-days", "2", *password),
            ],
            check=True,
            capture_output=True,
        )
    both = (folder / "a.pem").read_text() + (folder / "a.key").read_text()
    (folder / "both.pem").write_text(both)
    (folder / "text.pem").write_text("not a certificate")
    return folder


@pytest.fixture(scope="module")
def store(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    store.publish(make_adapter(tiny, "lora", name="acme/intent", seed=1), tiny.geometry)
    return store


def client(url: str, folder: Path) -> httpx2.Client:
    """A client that trusts the server's certificate only."""
    context = ssl.create_default_context(cafile=str(folder / "a.pem"))
    return httpx2.Client(base_url=url, verify=context, timeout=20)


def old_tls(folder: Path) -> ssl.SSLContext:
    """A version of TLS that is no longer secure."""
    context = ssl.create_default_context(cafile=str(folder / "a.pem"))
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize(("certfile", "keyfile"), [("a.pem", "a.key"), ("both.pem", None)])
def test_requests_are_answered_over_tls(
    store: Store, tiny_folder: Path, folder: Path, certfile: str, keyfile: str | None
) -> None:
    files = {
        "ssl_certfile": folder / certfile,
        "ssl_keyfile": None if keyfile is None else folder / keyfile,
    }
    with serving(store.root, tiny_folder, **files) as url, client(url, folder) as https:
        assert url.startswith("https://")
        for n_characters in (10, 100_000):
            body = {"adapter_id": "acme/intent", "inputs": "card " * (n_characters // 5)}
            assert https.post("/predict", json=body).status_code == 200
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"{url}/health", verify=old_tls(folder), timeout=20)
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(url.replace("https:", "http:") + "/health", timeout=20)
        assert https.get("/health").status_code == 200


def test_connections_in_their_handshake_keep_no_one_out(
    store: Store, tiny_folder: Path, folder: Path
) -> None:
    files = {"ssl_certfile": folder / "a.pem", "ssl_keyfile": folder / "a.key"}
    with (
        serving(store.root, tiny_folder, max_connections=20, **files) as url,
        client(url, folder) as https,
        ExitStack() as stack,
    ):
        for _ in range(60):
            address = ("127.0.0.1", port_of(url))
            stack.enter_context(socket.create_connection(address, timeout=20))
        text = https.get("/metrics").text
    assert 'adapterkit_connections{phase="idle"} 9.0' in text, "half of all for one address"
    assert 'adapterkit_closed_connections_total{reason="replaced"} 51.0' in text


def test_a_slow_handshake_is_ended(store: Store, tiny_folder: Path, folder: Path) -> None:
    files = {"ssl_certfile": folder / "a.pem", "ssl_keyfile": folder / "a.key"}
    limits = ServingLimits(read_timeout=0.5)
    with (
        serving(store.root, tiny_folder, limits=limits, **files) as url,
        client(url, folder) as https,
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=20) as slow,
    ):
        slow.sendall(b"\x16\x03\x01")  # the begin of a handshake
        assert slow.recv(1) == b""
        time.sleep(0.1)
        text = https.get("/metrics").text
    assert 'adapterkit_closed_connections_total{reason="too slow"} 1.0' in text
    assert 'adapterkit_connections{phase="idle"} 0.0' in text


@pytest.mark.parametrize(
    ("certfile", "keyfile", "words"),
    [
        (None, "a.key", "--ssl-keyfile: give --ssl-certfile"),
        ("missing.pem", None, "cannot be read"),
        ("text.pem", None, "not a certificate with its private key"),
        ("a.pem", None, "not a certificate with its private key"),
        ("a.pem", "missing.key", "cannot be read"),
        ("a.key", "a.pem", "not a certificate with its private key"),
        ("a.pem", "locked.key", "has a password"),
        ("locked.pem", "a.key", "not a certificate with its private key (key values mismatch)"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(
    folder: Path, certfile: str | None, keyfile: str | None, words: str
) -> None:
    files = [None if name is None else folder / name for name in (certfile, keyfile)]
    with pytest.raises(AdapterkitError) as error:
        load_tls(*files)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "with_tls", "warns"),
    [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)],
)
def test_a_server_without_tls_that_others_can_reach_warns(
    store: Store,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    host: str,
    with_tls: bool,
    warns: bool,
) -> None:
    urls: list[str] = []
    service = SimpleNamespace(backbones=[], keys=None, store=store)
    monkeypatch.setattr(server, "make_service", lambda settings, keys: service)
    monkeypatch.setattr(server, "uvicorn_config", lambda *_: None)
    monkeypatch.setattr(server, "log_as_json", lambda: None)
    monkeypatch.setattr(server, "_run", lambda _, __, facts: urls.append(facts["url"]))
    monkeypatch.setattr(logging.getLogger("adapterkit"), "propagate", True)
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"acme: {{key: '{hash_key('ak')}'}}")
    certfile = folder / "both.pem" if with_tls else None
    run_server(Settings(str(store.root), keys=keys, ssl_certfile=certfile), host, 0)
    messages = [record.message for record in caplog.records if "without TLS" in record.message]
    assert len(messages) == warns
    assert urls[0].startswith(f"http{'s' if with_tls else ''}://{host}:")
