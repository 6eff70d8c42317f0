"""A hub on this machine, with as much of the Hugging Face hub's HTTP as its client uses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

from adapterkit.yaml12 import read_yaml

Files = dict[str, bytes]

REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class FakeHub:
    """What the hub holds, and what it was asked.

    Attributes:
        url: Its address.
        token: The token that may write.
        repositories: Commits of each repository, the newest last.
        objects: Large files by their SHA-256, uploaded but not yet part of a commit.
        private: Names of the repositories that are private.
        breaks_at: A file whose content ends in the middle.
        requests: Method and path of every request.
    """

    url: str = ""
    token: str = "hf_secret"
    repositories: dict[str, list[Files]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    breaks_at: str | None = None
    requests: list[str] = field(default_factory=list)

    def commit_of(self, repo: str, revision: str) -> tuple[str, Files]:
        """Name and files of a commit; raises KeyError if there is none."""
        commits = self.repositories[repo]
        names = [commit_name(repo, index) for index in range(len(commits))]
        index = len(commits) - 1 if revision == "main" else names.index(revision)
        return names[index], commits[index]


def commit_name(repo: str, index: int) -> str:
    return hashlib.sha1(f"{repo} {index}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._dispatch()

    def do_HEAD(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def do_PUT(self) -> None:
        self._dispatch()

    def log_message(self, *_: Any) -> None:
        return

    def _dispatch(self) -> None:
        self.body = self._read_body()
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        matches = (
            (answer, found)
            for pattern, answer in ROUTES
            if (found := re.fullmatch(pattern, f"{self.command} {path}"))
        )
        answer, found = next(matches, (None, None))
        if answer is None or found is None:
            self._error(404, "EntryNotFound")
            return
        try:
            answer(self, **found.groupdict())
        except KeyError:
            self._error(404, "RepoNotFound")
        except ValueError:
            self._error(404, "RevisionNotFound")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _writer(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self._error(401, "")
        return False

    def _error(self, status: int, code: str) -> None:
        # A careless server that repeats what it was sent.
        self._send(
            status, {"error": f"{self.headers.get('Authorization')}"}, {"X-Error-Code": code}
        )

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def create(self) -> None:
        if self._writer():
            content = json.loads(self.body)
            name = f"{content['organization']}/{content['name']}"
            if name in self.hub.repositories:
                self._send(409, {"url": f"{self.hub.url}/{name}"})
            else:
                self.hub.repositories[name] = [{}]
                if content.get("visibility") == "private" or content.get("private"):
                    self.hub.private.add(name)
                self._send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def info(self, repo: str, revision: str = "main") -> None:
        name, files = self.hub.commit_of(repo, revision)
        siblings = [{"rfilename": path} for path in files]
        is_private = repo in self.hub.private
        self._send(200, {"id": repo, "sha": name, "siblings": siblings, "private": is_private})

    def tree(self, repo: str, revision: str) -> None:
        _, files = self.hub.commit_of(repo, revision)
        self._send(
            200,
            [
                {"type": "file", "path": path, "size": len(content), "oid": oid(content)}
                for path, content in files.items()
            ],
        )

    def validate(self) -> None:
        front_matter = json.loads(self.body)["content"].split("---\n")[1]
        assert read_yaml(front_matter)["library_name"] == "adapterkit"
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self._writer():
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(self.body)["files"]
            ]
            self._send(200, {"files": modes})

    def batch(self, repo: str) -> None:
        if self._writer():
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}},
                }
                for one in json.loads(self.body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._send(200, {})

    def commit(self, repo: str, revision: str) -> None:
        if not self._writer():
            return
        files = dict(self.hub.commit_of(repo, revision)[1])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[repo].append(files)
        name, _ = self.hub.commit_of(repo, "main")
        self._send(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{name}", "commitOid": name})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        name, files = self.hub.commit_of(repo, revision)
        content = files[path]
        headers = {"X-Repo-Commit": name, "ETag": f'"{oid(content)}"'}
        if path != self.hub.breaks_at or self.command == "HEAD":
            self._send(200, content, headers)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


ROUTES: list[tuple[str, Any]] = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/models/{REPOSITORY}", _Handler.info),
    (rf"GET /api/models/{REPOSITORY}/revision/(?P<revision>\w+)", _Handler.info),
    (rf"GET /api/models/{REPOSITORY}/tree/(?P<revision>\w+)", _Handler.tree),
    (rf"POST /api/models/{REPOSITORY}/preupload/(?P<revision>\w+)", _Handler.preupload),
    (rf"POST /{REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /objects/(?P<oid>\w+)", _Handler.put),
    (rf"POST /api/models/{REPOSITORY}/commit/(?P<revision>\w+)", _Handler.commit),
    (rf"(?:GET|HEAD) /{REPOSITORY}/resolve/(?P<revision>\w+)/(?P<path>.+)", _Handler.resolve),
]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that listens on this machine."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()
