"""The endpoints of a server: how requests are built and how replies are read, without any I/O.

An exchange is a generator that yields requests, is sent their replies, and returns the result.
`Client` and `AsyncClient` run the same exchanges.
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
"""Exception by the `error_type` of a reply; `ServerError` for all other types."""


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: Path and query, quoted.
        body: Body.
        content_type: Media type of the body.
        retryable: Whether it is sent again after a status 429 or 503.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    retryable: bool = True


@dataclass(frozen=True)
class Reply:
    """One HTTP reply.

    Attributes:
        status: HTTP status.
        headers: Values by lower-case name.
        body: Body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next attempt; None if the server does not name a time."""
        value = self.headers.get("retry-after", "")
        if value.isdigit():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time())
        except ValueError:
            return None


Exchange = Generator[Request, Reply, T]


class BatchRequest(NamedTuple):
    """A request with many rows, without the rows themselves.

    Attributes:
        path: Path of the endpoint.
        head: Body before the rows.
        tail: Body after the rows.
        head_rows: Number of rows in the head.
    """

    path: str
    head: bytes
    tail: bytes
    head_rows: int = 0


class BatchLimits(NamedTuple):
    """Limits of one request.

    Attributes:
        rows: Most rows of a request.
        n_bytes: Most bytes of its body.
    """

    rows: int
    n_bytes: int


class Endpoints:
    """The endpoints of a server, each as an exchange. The limits of the server are cached."""

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
        """The answer of one adapter to a row, or its answers to many rows.

        Args:
            adapter: `tenant/name`, `name@version` or `name@alias`; None or `base` for the plain
                backbone.
            text: A text, a tuple of two texts, or values by role (question and context, tokens,
                ...). A list of such rows may have any length.
            truncate: Whether texts that are too long are truncated, as in the training of the
                adapter. Otherwise they are refused.

        Returns:
            The answer in the form of `Predictor`, with the `version` of the adapter. For a list,
            the answers in the order of the rows.

        Raises:
            UnknownAdapterError: The adapter does not exist, or the key may not use it.
            DataError: A row is not valid.
            OverloadedError: The queue was full or a quota was used up, at every attempt.
            UnavailableError: The server cannot be reached, or it did not answer in time.
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
        """The answers to any number of rows, each for an adapter of its own. Raises as `predict`.

        Args:
            requests: Adapter and row, each as in `predict`.
            truncate: As in `predict`.
            one_line: Whether each answer also has `one_line`: a summary `text` and a `score`.

        Returns:
            In the order of the requests: `adapter`, `version` (missing for the plain backbone) and
            the values of the task's answer.
        """
        rows = [
            _json({"adapter_id": adapter, "inputs": text}, f"row {number}")
            for number, (adapter, text) in enumerate(requests, 1)
        ]
        tail = b'],"truncate":%s%s}' % (_json(truncate), b',"one_line":true' if one_line else b"")
        answers = yield from self._in_batches(
            BatchRequest("/predict", b'{"requests":[', tail), rows
        )
        return [{"adapter": answer.pop("adapter_id"), **answer} for answer in answers]

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
        """The vector of a text, or the vectors of any number of texts. Raises as `predict`.

        Args:
            text: The text or texts.
            adapter: An embedding adapter; the plain backbone if None.
            normalize: Whether vectors are scaled to length 1.
            truncate: Whether texts that are too long are truncated. Otherwise they are refused.
        """
        settings = {"adapter_id": adapter, "normalize": normalize, "truncate": truncate}
        head = _json(settings)[:-1] + b',"inputs":['
        texts = text if isinstance(text, list) else [text]
        vectors = yield from self._in_batches(BatchRequest("/embed", head, b"]}"), _texts(texts))
        return vectors if isinstance(text, list) else vectors[0]

    def similarity(
        self,
        sentence: str,
        sentences: Sequence[str],
        adapter: str | None = None,
        *,
        truncate: bool = True,
    ) -> Exchange[list[float]]:
        """The cosine similarity of one sentence to each of the others. Raises as `predict`.

        Args:
            sentence: The sentence that is compared.
            sentences: The others, any number of them.
            adapter: An embedding adapter; the plain backbone if None.
            truncate: Whether texts that are too long are truncated. Otherwise they are refused.
        """
        head = b"%s,%s" % (
            _json({"adapter_id": adapter, "truncate": truncate})[:-1],
            b'"inputs":{"source_sentence":%s,"sentences":[' % _json(sentence, "the sentence"),
        )
        batch = BatchRequest("/similarity", head, b"]}}", head_rows=1)
        cosines: list[float] = yield from self._in_batches(batch, _texts(sentences))
        return cosines

    def page(
        self, after: str = "", limit: int = 100
    ) -> Exchange[tuple[list[dict[str, Any]], bool]]:
        """One page of the models that the key may use, and whether more pages follow.

        Args:
            after: The last name of the page before. The first page begins with the plain backbone.
            limit: Most adapters of a page.
        """
        query = f"after={quote(after, safe='', errors='replace')}&limit={limit}"
        content = _object((yield Request("GET", f"/v1/models?{query}")))
        return content["data"], content["has_more"]

    def model(self, name: str) -> Exchange[dict[str, Any]]:
        """Task, labels, scores, versions and aliases of one adapter."""
        return _object((yield Request("GET", f"/v1/models/{_path(name)}")))

    def info(self) -> Exchange[dict[str, Any]]:
        """Backbone, limits and version of the server."""
        return _object((yield Request("GET", "/info")))

    def ready(self) -> Exchange[bool]:
        """Whether the server can be reached and accepts requests."""
        try:
            _object((yield Request("GET", "/ready", retryable=False)))
        except UnavailableError:
            return False
        return True

    def publish(self, name: str, folder: str | Path) -> Exchange[dict[str, Any]]:
        """Publishes an adapter folder as the next version of a name and as its alias `latest`.

        Args:
            name: The name. It may differ from the name in the recipe.
            folder: The folder; its hidden files are not sent.

        Returns:
            `name`, `version` and `digest`.

        Raises:
            AdapterError: It is not an adapter folder.
            DataError: The server refuses it, for example because it does not fit the backbone.
        """
        path, body = f"/admin/adapters/{_path(name)}", tar_of(Path(folder))
        return _object((yield Request("PUT", path, body, "application/x-tar")))

    def alias(self, name: str, alias: str, version: int | None) -> Exchange[dict[str, int]]:
        """Points an alias at a version, or removes it if the version is None.

        Returns:
            Version by alias, for all aliases of the name.
        """
        path = f"/admin/aliases/{_path(alias)}/{_path(name)}"
        if version is None:
            request = Request("DELETE", path)
        else:
            request = Request("PUT", path, _json({"version": version}))
        aliases: dict[str, int] = _object((yield request))["aliases"]
        return aliases

    def roll_back(self, name: str) -> Exchange[dict[str, Any]]:
        """Points the alias `latest` at the version before.

        Returns:
            `name`, `version` and `digest` of the version that is `latest` now.
        """
        return _object((yield Request("POST", f"/admin/rollback/{_path(name)}")))

    def unload(self, name: str) -> Exchange[bool]:
        """Removes an adapter from the memory of the server; the next request loads it again.

        Returns:
            Whether it was in memory.
        """
        return bool(_object((yield Request("POST", f"/admin/unload/{_path(name)}")))["unloaded"])

    def delete(self, name: str, version: int | None = None) -> Exchange[None]:
        """Deletes one version of an adapter, or all versions if None."""
        query = "" if version is None else f"?version={version}"
        _object((yield Request("DELETE", f"/admin/adapters/{_path(name)}{query}")))

    def verify(self, name: str) -> Exchange[list[str]]:
        """Differences between the files of an adapter and their checksums."""
        content = _object((yield Request("GET", f"/admin/verify/{_path(name)}")))
        errors: list[str] = content["faults"]
        return errors

    def _in_batches(self, batch: BatchRequest, rows: Sequence[bytes]) -> Exchange[list[Any]]:
        """Sends rows in as few requests as the limits allow; returns one answer for each row."""
        limits = yield from self._limits_for(len(rows) + batch.head_rows)
        free_bytes = limits.n_bytes - len(batch.head) - len(batch.tail)
        answers: list[Any] = []
        for part in split_rows(rows, BatchLimits(limits.rows - batch.head_rows, free_bytes)):
            body = b"".join((batch.head, b",".join(part), batch.tail))
            prefix = f"rows {len(answers) + 1} to {len(answers) + len(part)}: "
            reply = yield Request("POST", batch.path, body)
            answers += _content(reply, prefix if len(part) < len(rows) else "")
        return answers

    def _limits_for(self, n_rows: int) -> Exchange[BatchLimits]:
        if n_rows == 1:
            return BatchLimits(1, 0)  # every server accepts one row
        if self._limits is None:
            info = yield from self.info()
            self._limits = BatchLimits(info["max_client_batch_size"], info["max_body_bytes"])
        return self._limits


def split_rows(rows: Sequence[bytes], limits: BatchLimits) -> Iterator[Sequence[bytes]]:
    """Splits rows, in their order, into parts within the limits; a row that exceeds them is alone.

    Args:
        rows: JSON of each row.
        limits: Most rows of a part, and most bytes, with one byte for a comma after each row.
    """
    start, n_bytes = 0, 0
    for index, row in enumerate(rows):
        full = index - start == limits.rows or n_bytes + len(row) + 1 > limits.n_bytes
        if full and index > start:
            yield rows[start:index]
            start, n_bytes = index, 0
        n_bytes += len(row) + 1
    if start < len(rows):
        yield rows[start:]


def _content(reply: Reply, prefix: str = "") -> Any:
    """The decoded body of a reply.

    Args:
        reply: The reply.
        prefix: Beginning of the message of an error.

    Raises:
        AdapterkitError: The reply is an error, or it does not come from an adapterkit server.
    """
    try:
        content = json.loads(reply.body)
        if reply.status < 400:
            return content
        message, kind = f"{prefix}{content['error']}", content["error_type"]
    except (ValueError, KeyError, TypeError):
        body = reply.body[:80].decode(errors="replace")
        message = f"the answer does not come from an adapterkit server: {reply.status} {body!r}"
        kind = ""
    if reply.status == 429:
        raise OverloadedError(message, reply.retry_after or 0.0)
    if reply.status == 503:  # uvicorn's own reply has no JSON
        raise UnavailableError(message)
    request_id = reply.headers.get("x-request-id")
    if kind not in ERRORS and request_id:
        message += f" (request {request_id})"
    raise ERRORS.get(kind, ServerError)(message)


def _object(reply: Reply) -> dict[str, Any]:
    content: dict[str, Any] = _content(reply)
    return content


def _json(content: Any, subject: str = "the request") -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError as well
        raise DataError(f"{subject} cannot be sent as JSON ({error})") from None


def _texts(texts: Sequence[str]) -> list[bytes]:
    return [_json(text, f"text {number}") for number, text in enumerate(texts, 1)]


def _path(name: str) -> str:
    """A quoted name, to be put into a path.

    Raises:
        AdapterkitError: The path would lead to another endpoint.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise AdapterkitError(f"'{name}' is not an adapter's name: expected tenant/name")
    return quote(name, safe="/@", errors="replace")
