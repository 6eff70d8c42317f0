"""The endpoints of a server: how requests are built and how replies are read, without any I/O.

Each endpoint is a coroutine that awaits nothing but the function that sends a request.
`AsyncClient` awaits it; `Client` runs it with a function that blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import quote, urlencode

from ..errors import AdapterkitError, UnavailableError
from .batches import BatchRequest, BatchSender
from .messages import Request, Send, read_object, to_json
from .tar import tar_of

if TYPE_CHECKING:
    from ..tasks.types import Answer, Text


class Endpoints:
    """The endpoints of a server.

    Args:
        send: Sends one request.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._batches = BatchSender(send)

    async def _object(self, request: Request) -> dict[str, Any]:
        """The JSON object in the reply to a request."""
        return read_object(await self._send(request))

    @overload
    async def predict(
        self,
        adapter: str | None,
        text: str | tuple[str, str] | Mapping[str, Any],
        *,
        truncate: bool = True,
    ) -> Answer: ...

    @overload
    async def predict(
        self, adapter: str | None, text: list[Any], *, truncate: bool = True
    ) -> list[Answer]: ...

    async def predict(self, adapter: str | None, text: Text, *, truncate: bool = True) -> Any:
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
        answers = await self.ask([(adapter, row) for row in rows], truncate=truncate)
        return answers if isinstance(text, list) else answers[0]

    async def ask(
        self,
        requests: Sequence[tuple[str | None, Text]],
        *,
        truncate: bool = True,
        one_line: bool = False,
    ) -> list[Answer]:
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
            to_json({"adapter_id": adapter, "inputs": text}, f"row {number}")
            for number, (adapter, text) in enumerate(requests, 1)
        ]
        tail = b'],"truncate":%s%s}' % (to_json(truncate), b',"one_line":true' if one_line else b"")
        answers = await self._batches.send(BatchRequest("/predict", b'{"requests":[', tail), rows)
        return [{"adapter": answer.pop("adapter_id"), **answer} for answer in answers]

    @overload
    async def embed(
        self,
        text: str,
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> list[float]: ...

    @overload
    async def embed(
        self,
        text: list[str],
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> list[list[float]]: ...

    async def embed(
        self,
        text: str | list[str],
        adapter: str | None = None,
        *,
        normalize: bool = True,
        truncate: bool = True,
    ) -> Any:
        """The vector of a text, or the vectors of any number of texts. Raises as `predict`.

        Args:
            text: The text or texts.
            adapter: An embedding adapter; the plain backbone if None.
            normalize: Whether vectors are scaled to length 1.
            truncate: Whether texts that are too long are truncated. Otherwise they are refused.
        """
        settings = {"adapter_id": adapter, "normalize": normalize, "truncate": truncate}
        head = to_json(settings)[:-1] + b',"inputs":['
        texts = text if isinstance(text, list) else [text]
        vectors = await self._batches.send(BatchRequest("/embed", head, b"]}"), _texts(texts))
        return vectors if isinstance(text, list) else vectors[0]

    async def similarity(
        self,
        sentence: str,
        sentences: Sequence[str],
        adapter: str | None = None,
        *,
        truncate: bool = True,
    ) -> list[float]:
        """The cosine similarity of one sentence to each of the others. Raises as `predict`.

        Args:
            sentence: The sentence that is compared.
            sentences: The others, any number of them.
            adapter: An embedding adapter; the plain backbone if None.
            truncate: Whether texts that are too long are truncated. Otherwise they are refused.
        """
        head = b"%s,%s" % (
            to_json({"adapter_id": adapter, "truncate": truncate})[:-1],
            b'"inputs":{"source_sentence":%s,"sentences":[' % to_json(sentence, "the sentence"),
        )
        batch = BatchRequest("/similarity", head, b"]}}", head_rows=1)
        cosines: list[float] = await self._batches.send(batch, _texts(sentences))
        return cosines

    async def page(
        self, after: str = "", limit: int = 100
    ) -> tuple[list[dict[str, Any]], str | None]:
        """One page of the models that the key may use, and where the next page begins.

        Args:
            after: The last name of the page before. The first page begins with the plain backbone.
            limit: Most adapters of a page.

        Returns:
            The models, and the last name of this page; None if no page follows.
        """
        query = f"after={quote(after, safe='', errors='replace')}&limit={limit}"
        content = await self._object(Request("GET", f"/v1/models?{query}"))
        models = content["data"]
        return models, models[-1]["id"] if models and content["has_more"] else None

    async def model(self, name: str) -> dict[str, Any]:
        """Task, labels, scores, versions and aliases of one adapter."""
        return await self._object(Request("GET", f"/v1/models/{_path(name)}"))

    async def info(self) -> dict[str, Any]:
        """Backbone, limits and version of the server."""
        return await self._object(Request("GET", "/info"))

    async def ready(self) -> bool:
        """Whether the server can be reached and accepts requests."""
        try:
            await self._object(Request("GET", "/ready", retryable=False))
        except UnavailableError:
            return False
        return True

    async def publish(
        self,
        name: str,
        folder: str | Path,
        *,
        labels: Sequence[str] | None = None,
        problem: str | None = None,
        backbone: str | None = None,
    ) -> dict[str, Any]:
        """Publishes an adapter folder as the next version of a name and as its alias `latest`.

        A folder of PEFT becomes an adapter of the server's backbone; what it does not say about
        itself is in the last three arguments, which are for such folders alone.

        Args:
            name: The name. It may differ from the name in the recipe.
            folder: The folder; its hidden files are not sent.
            labels: Label names in the order of the logits.
            problem: transformers' `problem_type`.
            backbone: A backbone of the server, if the folder names its base model otherwise.

        Returns:
            `name`, `version` and `digest`.

        Raises:
            AdapterError: It is not an adapter folder.
            AdapterkitError: A label has a comma, which separates labels in the request.
            DataError: The server refuses it, for example because it does not fit the backbone.
        """
        for label in labels or ():
            if "," in label:
                raise AdapterkitError(
                    f"labels: '{label}' has a comma, which separates labels in the request; give "
                    "the folder other labels"
                )
        options = {
            "labels": None if labels is None else ",".join(labels),
            "problem": problem,
            "backbone": backbone,
        }
        query = urlencode({key: value for key, value in options.items() if value is not None})
        path = f"/admin/adapters/{_path(name)}{'?' * bool(query)}{query}"
        return await self._object(Request("PUT", path, tar_of(Path(folder)), "application/x-tar"))

    async def alias(self, name: str, alias: str, version: int | None) -> dict[str, int]:
        """Points an alias at a version, or removes it if the version is None.

        Returns:
            Version by alias, for all aliases of the name.
        """
        path = f"/admin/aliases/{_path(alias)}/{_path(name)}"
        if version is None:
            request = Request("DELETE", path)
        else:
            request = Request("PUT", path, to_json({"version": version}))
        aliases: dict[str, int] = (await self._object(request))["aliases"]
        return aliases

    async def roll_out(
        self,
        name: str,
        alias: str,
        weights: Mapping[int, int],
        shadow: int | None = None,
        rule: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Divides the requests to an alias among versions while a new one is tried.

        Args:
            name: The adapter.
            alias: The alias, such as `stable`; not `latest`.
            weights: Weight by version, such as `{3: 90, 4: 10}`.
            shadow: A version that answers as well, and whose answers are only compared.
            rule: `{"rows": 1000, "agreement": 0.98}`: after so many compared rows, the shadow is
                promoted if it agreed in this share of them, and the rollout ends at its main
                version otherwise.

        Returns:
            By alias, all rollouts of the name.
        """
        body = {
            "weights": {str(version): weight for version, weight in weights.items()},
            "shadow": shadow,
            "rule": None if rule is None else dict(rule),
        }
        path = f"/admin/rollouts/{_path(alias)}/{_path(name)}"
        rollouts: dict[str, Any] = (await self._object(Request("PUT", path, to_json(body))))[
            "rollouts"
        ]
        return rollouts

    async def promote(self, name: str, alias: str, version: int | None = None) -> dict[str, Any]:
        """Ends a rollout: the alias means one of its versions alone.

        Args:
            name: The adapter.
            alias: The alias.
            version: The version; if omitted, the only one beside the main version.

        Returns:
            `name`, `version` and `digest` of what the alias means now.
        """
        query = "" if version is None else f"?version={version}"
        path = f"/admin/promote/{_path(alias)}/{_path(name)}{query}"
        return await self._object(Request("POST", path))

    async def roll_back(self, name: str, alias: str = "latest") -> dict[str, Any]:
        """Ends the rollout of an alias at its main version; an alias without one is pointed at the
        version before.

        Returns:
            `name`, `version` and `digest` of what the alias means now.
        """
        query = "" if alias == "latest" else f"?alias={quote(alias, safe='', errors='replace')}"
        return await self._object(Request("POST", f"/admin/rollback/{_path(name)}{query}"))

    async def unload(self, name: str) -> bool:
        """Removes an adapter from the memory of the server; the next request loads it again.

        Returns:
            Whether it was in memory.
        """
        content = await self._object(Request("POST", f"/admin/unload/{_path(name)}"))
        return bool(content["unloaded"])

    async def delete(self, name: str, version: int | None = None) -> None:
        """Deletes one version of an adapter, or all versions if None."""
        query = "" if version is None else f"?version={version}"
        await self._object(Request("DELETE", f"/admin/adapters/{_path(name)}{query}"))

    async def verify(self, name: str) -> list[str]:
        """Differences between the files of an adapter and their checksums."""
        content = await self._object(Request("GET", f"/admin/verify/{_path(name)}"))
        errors: list[str] = content["faults"]
        return errors

    async def drift(
        self, name: str, since: int = 86_400, version: int | None = None
    ) -> dict[str, Any]:
        """Compares the answers of an adapter with those of its training.

        Args:
            name: The adapter.
            since: Seconds; the server keeps a day, in steps of ten minutes.
            version: The version; the latest one if None.

        Returns:
            `version`, the counts `observed` and `reference`, and `drift`: figures by `labels` and
            `confidence`, None if there is nothing to compare.
        """
        query = f"since={since}" + ("" if version is None else f"&version={version}")
        return await self._object(Request("GET", f"/admin/drift/{_path(name)}?{query}"))


def _texts(texts: Sequence[str]) -> list[bytes]:
    return [to_json(text, f"text {number}") for number, text in enumerate(texts, 1)]


def _path(name: str) -> str:
    """A quoted name, to be put into a path.

    Raises:
        AdapterkitError: The path would lead to another endpoint.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise AdapterkitError(f"'{name}' is not an adapter's name: expected tenant/name")
    return quote(name, safe="/@", errors="replace")
