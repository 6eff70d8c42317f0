"""What one may ask of a server: how requests are built and answers are read, without any I/O.

A plan is a generator that yields requests, is sent their replies, and returns what was asked for;
`Client` and `AsyncClient` carry the same plans out.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload
from urllib.parse import quote

from ..errors import (
    AccessError,
    AdapterkitError,
    DataError,
    OverloadedError,
    ServerError,
    UnavailableError,
    UnknownAdapterError,
)
from .tar import tar_of

if TYPE_CHECKING:
    from ..tasks.types import Answer, Text

T = TypeVar("T")

ERRORS: dict[str, type[AdapterkitError]] = {
    "malformed": DataError,
    "unauthorized": AccessError,
    "forbidden": AccessError,
    "not_found": UnknownAdapterError,
    "timeout": UnavailableError,
    "too_large": DataError,
    "validation": DataError,
    "unavailable": UnavailableError,
}
"""A server's `error_type` to what is raised for it; `ServerError` for all others."""


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: Path and query, quoted.
        body: Its body.
        content_type: What the body is.
        retryable: Whether it is sent again where the server asks for patience.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    retryable: bool = True


@dataclass(frozen=True)
class Reply:
    """What a server said.

    Attributes:
        status: HTTP status.
        headers: By name, in small letters.
        body: The body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds the server asks to wait; None where it does not say."""
        told = self.headers.get("retry-after", "")
        if told.isdigit():
            return float(told)
        try:
            return max(0.0, parsedate_to_datetime(told).timestamp() - time())
        except ValueError:
            return None


Exchange = Generator[Request, Reply, T]


class BatchRequest(NamedTuple):
    """What a request of many rows is, besides its rows.

    Attributes:
        path: Where it goes.
        head: Its body before the rows.
        tail: Its body after them.
        beside: Rows that the head holds.
    """

    path: str
    head: bytes
    tail: bytes
    beside: int = 0


class BatchLimits(NamedTuple):
    """What a server takes at once.

    Attributes:
        rows: Most rows of a request.
        size: Most bytes of its body.
    """

    rows: int
    size: int


class Endpoints:
    """The plans of everything a server can be asked; it remembers the server's limits."""

    def __init__(self) -> None:
        self._limits: BatchLimits | None = None

    @overload
    def predict(
        self,
        adapter: str | None,
        text: str | tuple[str, str] | Mapping[str, Any],
        *,
        truncate: bool = True,
    ) -> Exchange[Answer]: ...

    @overload
    def predict(
        self, adapter: str | None, text: list[Any], *, truncate: bool = True
    ) -> Exchange[list[Answer]]: ...

    def predict(self, adapter: str | None, text: Text, *, truncate: bool = True) -> Exchange[Any]:
        """What one adapter answers.

        Args:
            adapter: `tenant/name`, `name@version` or `name@alias`; None or `base`: the plain
                backbone.
            text: A text, a tuple of a text and its pair, or values by role (question and context,
                tokens, ...); or a list of such rows, of any length.
            truncate: Cut texts that are too long as the adapter's recipe says, or refuse them.

        Returns:
            The answer as `Predictor` gives it, with the `version` that gave it; for a list, the
            answers in its order.

        Raises:
            UnknownAdapterError: There is no such adapter, or it is none of the key's business.
            DataError: A row is not sound.
            OverloadedError: The queue is full or a quota used up, and stayed so.
            UnavailableError: No server can be reached, or it gave no answer in time.
            AccessError: The server does not know the key.
        """
        rows = text if isinstance(text, list) else [text]
        answers = yield from self.ask([(adapter, row) for row in rows], truncate=truncate)
        return answers if isinstance(text, list) else answers[0]

    def ask(
        self,
        requests: Sequence[tuple[str | None, Text]],
        *,
        truncate: bool = True,
        one_line: bool = False,
    ) -> Exchange[list[Answer]]:
        """Answers rows that may mix adapters, as `predict` does; any number of them.

        Args:
            requests: Adapter and text, pair of texts or values by role of each row.
            truncate: Cut texts that are too long as the adapter's recipe says, or refuse them.
            one_line: Add to each answer `one_line`, its `text` in one line and its `score`.

        Returns:
            In the order of the requests: `adapter`, `version` (not for the plain backbone) and
            what the adapter's task answers.
        """
        rows = [
            _json({"adapter_id": adapter, "inputs": text}, f"row {place + 1}")
            for place, (adapter, text) in enumerate(requests)
        ]
        tail = b'],"truncate":%s%s}' % (_json(truncate), b',"one_line":true' if one_line else b"")
        found = yield from self._in_portions(BatchRequest("/predict", b'{"requests":[', tail), rows)
        return [{"adapter": answer.pop("adapter_id"), **answer} for answer in found]

    @overload
    def embed(
        self,
        text: str,
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> Exchange[list[float]]: ...

    @overload
    def embed(
        self,
        text: list[str],
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> Exchange[list[list[float]]]: ...

    def embed(
        self,
        text: str | list[str],
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> Exchange[Any]:
        """A vector for a text, or for each of a list of any length.

        Args:
            text: The text or texts.
            adapter: An embedding adapter; None: the plain backbone.
            normalize: Whether vectors get length 1.
            truncate: Cut texts that are too long, or refuse them.
        """
        settings = {"adapter_id": adapter, "normalize": normalize, "truncate": truncate}
        head = _json(settings)[:-1] + b',"inputs":['
        texts = text if isinstance(text, list) else [text]
        vectors = yield from self._in_portions(BatchRequest("/embed", head, b"]}"), _texts(texts))
        return vectors if isinstance(text, list) else vectors[0]

    def similarity(
        self,
        sentence: str,
        sentences: Sequence[str],
        adapter: str | None = None,
        *,
        truncate: bool = True,
    ) -> Exchange[list[float]]:
        """The cosine of one sentence with each of several.

        Args:
            sentence: The one.
            sentences: The others, of any number.
            adapter: An embedding adapter; None: the plain backbone.
            truncate: Cut texts that are too long, or refuse them.
        """
        head = b"%s,%s" % (
            _json({"adapter_id": adapter, "truncate": truncate})[:-1],
            b'"inputs":{"source_sentence":%s,"sentences":[' % _json(sentence, "the sentence"),
        )
        frame = BatchRequest("/similarity", head, b"]}}", beside=1)
        cosines: list[float] = yield from self._in_portions(frame, _texts(sentences))
        return cosines

    def page(
        self, after: str = "", limit: int = 100
    ) -> Exchange[tuple[list[dict[str, Any]], bool]]:
        """A page of what may be asked, by name, and whether there is more.

        Args:
            after: The name to go on after; the plain backbone comes first of all.
            limit: Most adapters of a page.
        """
        query = f"after={quote(after, safe='', errors='replace')}&limit={limit}"
        content = _object((yield Request("GET", f"/v1/models?{query}")))
        return content["data"], content["has_more"]

    def model(self, name: str) -> Exchange[dict[str, Any]]:
        """One adapter: its task, labels, scores, versions and aliases."""
        return _object((yield Request("GET", f"/v1/models/{_place(name)}")))

    def info(self) -> Exchange[dict[str, Any]]:
        """The server's backbone, limits and version."""
        return _object((yield Request("GET", "/info")))

    def ready(self) -> Exchange[bool]:
        """Whether the server takes requests: not while it drains, nor where none can be reached."""
        try:
            _object((yield Request("GET", "/ready", retryable=False)))
        except UnavailableError:
            return False
        return True

    def publish(self, name: str, folder: str | Path) -> Exchange[dict[str, Any]]:
        """Publishes an adapter folder as the next version of a name, which is `latest` at once.

        Args:
            name: The name, which need not be the one the adapter was trained under.
            folder: The folder; hidden files in it stay here.

        Returns:
            `name`, `version` and `digest`.

        Raises:
            AdapterError: That is no adapter folder.
            DataError: The server refuses it, because it does not fit its backbone, say.
        """
        path, body = f"/admin/adapters/{_place(name)}", tar_of(Path(folder))
        return _object((yield Request("PUT", path, body, "application/x-tar")))

    def alias(self, name: str, alias: str, version: int | None) -> Exchange[dict[str, int]]:
        """Points an alias at a version, or removes it where the version is None.

        Returns:
            Every alias of the name and its version.
        """
        path = f"/admin/aliases/{_place(alias)}/{_place(name)}"
        if version is None:
            request = Request("DELETE", path)
        else:
            request = Request("PUT", path, _json({"version": version}))
        aliases: dict[str, int] = _object((yield request))["aliases"]
        return aliases

    def roll_back(self, name: str) -> Exchange[dict[str, Any]]:
        """Makes the version before `latest` the latest again.

        Returns:
            `name`, `version` and `digest` of what is `latest` now.
        """
        return _object((yield Request("POST", f"/admin/rollback/{_place(name)}")))

    def unload(self, name: str) -> Exchange[bool]:
        """Lets an adapter go from memory; the next request loads it again.

        Returns:
            Whether it was there.
        """
        return bool(_object((yield Request("POST", f"/admin/unload/{_place(name)}")))["unloaded"])

    def delete(self, name: str, version: int | None = None) -> Exchange[None]:
        """Deletes a version of an adapter; all of them where it is None."""
        query = "" if version is None else f"?version={version}"
        _object((yield Request("DELETE", f"/admin/adapters/{_place(name)}{query}")))

    def verify(self, name: str) -> Exchange[list[str]]:
        """What differs between an adapter's files and their checksums; nothing if all is well."""
        content = _object((yield Request("GET", f"/admin/verify/{_place(name)}")))
        faults: list[str] = content["faults"]
        return faults

    def _in_portions(self, frame: BatchRequest, rows: Sequence[bytes]) -> Exchange[list[Any]]:
        """As many requests as the server's limits make of rows; one entry of a list for each."""
        limits = yield from self._limits_for(len(rows) + frame.beside)
        room = limits.size - len(frame.head) - len(frame.tail)
        answers: list[Any] = []
        for part in portions(rows, BatchLimits(limits.rows - frame.beside, room)):
            body = b"".join((frame.head, b",".join(part), frame.tail))
            where = f"rows {len(answers) + 1} to {len(answers) + len(part)}: "
            reply = yield Request("POST", frame.path, body)
            answers += _content(reply, where if len(part) < len(rows) else "")
        return answers

    def _limits_for(self, n_rows: int) -> Exchange[BatchLimits]:
        if n_rows == 1:
            return BatchLimits(1, 0)  # every server takes one
        if self._limits is None:
            told = yield from self.info()
            self._limits = BatchLimits(told["max_client_batch_size"], told["max_body_bytes"])
        return self._limits


def portions(rows: Sequence[bytes], limits: BatchLimits) -> Iterator[Sequence[bytes]]:
    """Rows in their order, cut so that each portion is within limits, or is one row.

    Args:
        rows: Each row's JSON.
        limits: Most rows of a portion, and most bytes with a comma after each.
    """
    start, size = 0, 0
    for place, row in enumerate(rows):
        full = place - start == limits.rows or size + len(row) + 1 > limits.size
        if full and place > start:
            yield rows[start:place]
            start, size = place, 0
        size += len(row) + 1
    if start < len(rows):
        yield rows[start:]


def _content(reply: Reply, where: str = "") -> Any:
    """What a reply holds.

    Args:
        reply: The reply.
        where: What an error's message begins with.

    Raises:
        AdapterkitError: The server told an error, or the reply is none of a server of adapterkit.
    """
    try:
        content = json.loads(reply.body)
        if reply.status < 400:
            return content
        message, kind = f"{where}{content['error']}", content["error_type"]
    except (ValueError, KeyError, TypeError):
        told = reply.body[:80].decode(errors="replace")
        message, kind = f"the answer is no adapterkit server's: {reply.status} {told!r}", ""
    if reply.status == 429:
        raise OverloadedError(message, reply.retry_after or 0.0)
    if reply.status == 503:  # uvicorn's own has no JSON
        raise UnavailableError(message)
    number = reply.headers.get("x-request-id")
    if kind not in ERRORS and number:
        message += f" (request {number})"
    raise ERRORS.get(kind, ServerError)(message)


def _object(reply: Reply) -> dict[str, Any]:
    content: dict[str, Any] = _content(reply)
    return content


def _json(content: Any, where: str = "the request") -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError as well
        raise DataError(f"{where} cannot be sent as JSON ({error})") from None


def _texts(texts: Sequence[str]) -> list[bytes]:
    return [_json(text, f"text {place + 1}") for place, text in enumerate(texts)]


def _place(name: str) -> str:
    """A name as part of a path.

    Raises:
        AdapterkitError: As a path it would lead elsewhere.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise AdapterkitError(f"'{name}' is not an adapter's name: expected tenant/name")
    return quote(name, safe="/@", errors="replace")
