"""Clients that try to stop the server for others, each in a small version, over real sockets."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.serving.http import http_protocol
from adapterkit.serving.http.binary_tensors import HEADER_LENGTH
from adapterkit.serving.http.strict_json import MAX_PARTS
from adapterkit.serving.keys.api_keys import hash_key
from adapterkit.serving.middleware import body_limits
from adapterkit.serving.serving_limits import ServingLimits
from helpers.adapters import MakeAdapter
from helpers.server import serving

INFER = "/v2/models/acme/intent/infer"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a card"]}


@pytest.fixture(scope="module")
def store(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    store = Store(tmp_path_factory.mktemp("attacks") / "store")
    store.publish(make_adapter(tiny, "lora", name="acme/intent", seed=1), tiny.geometry)
    return store


@pytest.fixture(scope="module")
def port(
    store: Store, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """A server with keys: of the tenant acme, and of an admin."""
    keys = {
        "acme": {"key": hash_key("ak-acme"), "adapters": ["acme/*"]},
        "ops": {"key": hash_key("ak-ops"), "adapters": ["*"], "admin": True},
    }
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(json.dumps(keys))
    with serving(store.root, tiny_folder, keys=file) as url:
        yield int(url.rpartition(":")[2])


class Connection:
    """A client's connection, for bytes that no HTTP library would send."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        """Sends as much as the server takes."""
        try:
            self.socket.sendall(content)
        except OSError:
            return

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the next answer."""
        file = self.socket.makefile("rb")
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(file.read(length))

    def is_closed(self) -> bool:
        """Whether the server closes the connection."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True


def head(
    path: str, length: int, *, method: str = "POST", key: str | None = None, **fields: Any
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {length}"]
    lines += [f"authorization: Bearer {key}"] if key else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(port: int, path: str, body: bytes, **fields: Any) -> tuple[int, dict[str, Any]]:
    with Connection(port) as connection:
        connection.send(head(path, len(body), key="ak-acme", **fields) + body)
        return connection.answer()


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/predict", None, 401),
        ("POST", INFER, None, 401),
        ("POST", "/nowhere", None, 401),
        ("GET", "/health", None, 401),
        ("POST", "/predict", "ak-wrong", 401),
        ("PUT", "/admin/adapters/acme/intent", "ak-wrong", 401),
        ("PUT", "/admin/adapters/acme/intent", "ak-acme", 403),
        ("PUT", "/admin/aliases/stable/acme/intent", "ak-acme", 403),
        ("POST", "/admin/nowhere", "ak-acme", 403),
    ],
)
def test_a_body_without_permission_is_refused_before_it_is_sent(
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    key: str | None,
    status: int,
) -> None:
    monkeypatch.setattr(body_limits, "UNREAD_SECONDS", 0.2)
    with Connection(port) as connection:
        fields: dict[str, Any] = {HEADER_LENGTH: 10}
        connection.send(head(path, 1_000_000_000, method=method, key=key, **fields))
        found, reply = connection.answer()
        assert (found, set(reply)) == (status, {"error", "error_type"})
        assert connection.is_closed()


def test_a_refused_body_that_is_small_is_read_so_that_its_answer_arrives(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("/predict", 1_000_000))
        for _ in range(10):
            connection.send(b"x" * 100_000)
            time.sleep(0.01)
        assert connection.answer()[0] == 401


def test_a_refused_body_is_not_read_forever(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("/predict", 10_000_000_000))
        n_bytes = 0
        try:
            while n_bytes < 200_000_000:
                connection.socket.sendall(b"x" * 1_000_000)
                n_bytes += 1_000_000
        except OSError:
            pass
        assert n_bytes < 100_000_000


@pytest.mark.parametrize(
    ("path", "key", "length"),
    [
        ("/predict", "ak-acme", ServingLimits().body_bytes + 1),
        ("/predict", "ak-ops", ServingLimits().body_bytes + 1),
        (INFER, "ak-acme", ServingLimits().body_bytes + 1),
        ("/admin/aliases/stable/acme/intent", "ak-ops", 100_000),
        ("/admin/adapters/acme/intent", "ak-ops", ServingLimits().upload_bytes + 1),
    ],
)
def test_the_limit_of_a_body_depends_on_caller_and_route(
    port: int, path: str, key: str, length: int
) -> None:
    method = "PUT" if path.startswith("/admin") else "POST"
    with Connection(port) as connection:
        kind = {"content_type": "application/x-tar" if "adapters" in path else "application/json"}
        connection.send(head(path, length, method=method, key=key, **kind))
        status, reply = connection.answer()
        assert (status, reply["error_type"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a" * 10_000 + b": b\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 300_000, 431),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_the_head_of_a_request_is_limited(port: int, content: bytes, status: int) -> None:
    with Connection(port) as connection:
        connection.send(content)
        found, reply = connection.answer()
        assert found == status
        assert set(reply) == {"error", "error_type"}
        assert connection.is_closed()


@pytest.mark.parametrize(
    "content",
    [
        b"0\r\nx: " + b"a" * 1_000_000,  # a trailer
        b"0\r\n" + b"a: b\r\n" * 100_000,  # trailers
        b"1;" + b"a" * 1_000_000,  # an extension of a chunk
    ],
)
def test_a_body_has_little_beside_its_content(port: int, content: bytes) -> None:
    lines = head("/predict", 0, key="ak-acme", transfer_encoding="chunked")
    with Connection(port) as connection:
        connection.send(lines.replace(b"content-length: 0\r\n", b"") + content)
        assert connection.is_closed()


def test_small_chunks_are_a_valid_body(port: int) -> None:
    body = json.dumps({"adapter_id": "acme/intent", "inputs": "a card " * 5000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    lines = head("/predict", 0, key="ak-acme", transfer_encoding="chunked")
    with Connection(port) as connection:
        connection.send(lines.replace(b"content-length: 0\r\n", b"") + chunks)
        assert connection.answer()[0] == 200


def test_pipelined_requests_are_answered_up_to_a_limit(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("/health", 0, method="GET") * http_protocol.MAX_PIPELINED)
        assert connection.answer()[0] == 200
    with Connection(port) as connection:
        connection.send(head("/health", 0, method="GET") * 1000)
        assert connection.is_closed()


def test_silent_and_slow_clients_are_disconnected(store: Store, tiny_folder: Path) -> None:
    limits = ServingLimits(read_timeout=0.3)
    with serving(store.root, tiny_folder, limits=limits) as url, ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        silent, empty_lines, slow, body = (stack.enter_context(Connection(port)) for _ in range(4))
        body.send(head("/predict", 100) + b"{")
        slow.send(b"GET /health HTTP/1.1\r\nx: ")
        for _ in range(10):
            slow.send(b"a")
            empty_lines.send(b"\r\n")
            time.sleep(0.1)
        assert silent.is_closed()
        assert empty_lines.is_closed()
        assert slow.answer()[0] == 408
        assert body.answer()[0] == 408
        assert body.is_closed()


def test_a_second_request_has_a_timeout_too(store: Store, tiny_folder: Path) -> None:
    limits = ServingLimits(read_timeout=0.3)
    with serving(store.root, tiny_folder, limits=limits) as url, ExitStack() as stack:
        connection = stack.enter_context(Connection(int(url.rpartition(":")[2])))
        connection.send(head("/health", 0, method="GET"))
        assert connection.answer()[0] == 200
        for byte in b"GET /health HT":
            connection.send(bytes([byte]))
            time.sleep(0.1)
        assert connection.answer()[0] == 408


def test_silent_connections_keep_no_one_out(store: Store, tiny_folder: Path) -> None:
    with serving(store.root, tiny_folder, max_connections=20) as url, ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        for _ in range(60):
            stack.enter_context(Connection(port))
        with Connection(port) as connection:
            connection.send(head("/metrics", 0, method="GET", connection="close"))
            text = b"".join(iter(lambda: connection.socket.recv(65536), b"")).decode()
    assert text.startswith("HTTP/1.1 200")
    assert 'adapterkit_connections{phase="idle"} 9.0' in text, "half of all for one address"
    assert 'adapterkit_connections{phase="answering"} 1.0' in text
    assert 'adapterkit_closed_connections_total{reason="replaced"} 51.0' in text
    assert "adapterkit_max_connections 20.0" in text


def test_a_client_that_does_not_read_is_disconnected(
    store: Store, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(http_protocol, "MAX_PIPELINED", 100)  # however slow the server is
    texts = ["a card"] * 200
    body = json.dumps({"inputs": texts}).encode()
    with serving(store.root, tiny_folder) as url, Connection(int(url.rpartition(":")[2])) as reader:
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(60):  # more than the kernel keeps
            reader.send(head("/embed", len(body)) + body)
            time.sleep(0.02)
        line, text, waited = 'closed_connections_total{reason="too slow"} 1.0', "", 0
        while line not in text and waited < 240:
            time.sleep(0.5)
            waited += 1
            with Connection(int(url.rpartition(":")[2])) as connection:
                connection.send(head("/metrics", 0, method="GET", connection="close"))
                text = b"".join(iter(lambda: connection.socket.recv(65536), b"")).decode()
    assert line in text


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x" * 201},
        {"inputs": [{**TENSOR, "shape": [1] * 9}]},
        {"inputs": [{**TENSOR, "shape": [10**30]}]},
        {"inputs": [{**TENSOR, "shape": [10**8] * 8}]},
        {"inputs": [TENSOR] * 17},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [{**TENSOR, "name": "x" * 101}]},
        {"inputs": [{**TENSOR, "datatype": "x" * 1000}]},
        {"outputs": [{"name": "label"}] * 2},
        {"outputs": [{"name": "label"}] * 50_000},
        {"outputs": [{"name": "x" * 90}]},
    ],
)
def test_fields_that_are_multiplied_or_repeated_are_limited(
    port: int, change: dict[str, Any]
) -> None:
    body = json.dumps({"inputs": [TENSOR], **change}).encode()
    status, reply = post(port, INFER, body)
    assert (status, reply["error_type"]) == (422, "validation")
    assert len(reply["error"]) < 600
    assert "\n" not in reply["error"]


@pytest.mark.parametrize("path", [INFER, "/predict"])
def test_texts_that_are_not_unicode_are_refused(port: int, path: str) -> None:
    for body in (b'{"id": "\\ud800"}', b'{"inputs": "\\ud800"}', b'{"\\udfff": 1}'):
        status, reply = post(port, path, body)
        assert (status, reply["error_type"]) == (400, "malformed")
    row = json.dumps({"text": "\\ud800"})
    tensor = {**TENSOR, "data": [row.replace("\\\\", "\\")]}
    assert post(port, INFER, json.dumps({"inputs": [tensor]}).encode())[0] in (200, 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"inputs": "a", "k" * 100_000: 1}),
        ("/predict", {"inputs": "a", "parameters": {str(n): 1 for n in range(10_000)}}),
        ("/predict", {str(n): 1 for n in range(10_000)}),
        ("/predict", {"inputs": [[[]]] * 10_000}),
        ("/predict", {"requests": [{}] * 10_000}),
        ("/embed", {"inputs": [1] * 10_000}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": [1] * 10_000}}),
    ],
)
def test_the_message_of_an_error_is_short(port: int, path: str, body: Any) -> None:
    status, reply = post(port, path, json.dumps(body).encode())
    assert status == 422
    assert len(reply["error"]) < 600


@pytest.mark.parametrize("path", ["/predict", "/adapters/acme/intent/predict", INFER])
@pytest.mark.parametrize("part", [b"[]", b'{"":1}', b'"\\"",{}', b'"\\\\",[]'])
def test_lists_objects_and_keys_of_a_body_are_limited(port: int, path: str, part: bytes) -> None:
    body = b'{"inputs": [' + b",".join([part] * MAX_PARTS) + b"]}"
    status, reply = post(port, path, body)
    assert (status, reply["error_type"]) == (422, "validation")
    assert "lists, objects and keys" in reply["error"]


def test_values_in_a_tensor_are_limited_like_those_of_a_body(port: int) -> None:
    texts = [json.dumps({"text": [[]] * MAX_PARTS}), "{}"]
    for data, message in ((texts, "lists, objects and keys"), (["{}"] * 300_000, "256 rows")):
        tensor = {**TENSOR, "shape": [len(data)], "data": data}
        status, reply = post(port, INFER, json.dumps({"inputs": [tensor]}).encode())
        assert (status, reply["error_type"]) == (422, "validation")
        assert message in reply["error"]


def test_brackets_in_texts_are_texts(port: int) -> None:
    text = '{":\\"[' * (MAX_PARTS // 2)
    body = json.dumps({"adapter_id": "acme/intent", "inputs": text}).encode()
    assert post(port, "/predict", body)[0] == 200


def binary_body(n_tensors: int) -> tuple[bytes, int]:
    tensor = {**TENSOR, "shape": [4], "parameters": {"binary_data_size": 20}}
    lines = json.dumps({"inputs": [tensor] * n_tensors}).encode()
    return lines + (struct.pack("<I", 1) + b"a") * 4 * n_tensors, len(lines)


def test_too_many_binary_tensors_are_refused(port: int) -> None:
    body, length = binary_body(1)
    fields: dict[str, Any] = {HEADER_LENGTH: length}
    assert post(port, INFER, body, **fields)[0] == 200
    body, length = binary_body(5000)
    fields = {HEADER_LENGTH: length}
    status, reply = post(port, INFER, body, **fields)
    assert (status, reply["error_type"]) == (422, "validation")


def test_the_header_of_binary_tensors_means_nothing_on_other_paths(port: int) -> None:
    body = json.dumps({"adapter_id": "acme/intent", "inputs": "a"}).encode()
    fields: dict[str, Any] = {HEADER_LENGTH: 7}
    assert post(port, "/predict", body, **fields)[0] == 200


def test_a_store_that_cannot_be_written_is_one_line(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/srv/adapters/.lock")

    monkeypatch.setattr(Store, "alias", refuse)
    body = b'{"version": 1}'
    path = "/admin/aliases/stable/acme/intent"
    with Connection(port) as connection:
        connection.send(head(path, len(body), method="PUT", key="ak-ops") + body)
        status, reply = connection.answer()
    assert (status, reply["error_type"]) == (500, "backend")
    assert "Permission denied" in reply["error"]
    assert "/srv" not in reply["error"]
