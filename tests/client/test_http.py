"""Both clients offer all that the server does, and every error is one sentence."""

from __future__ import annotations

import asyncio
import io
import socket
import tarfile
from collections.abc import Callable, Coroutine, Iterator
from email.utils import formatdate
from inspect import getmembers, isfunction
from pathlib import Path
from time import time
from typing import Any

import pytest

from adapterkit import AsyncClient, Client, Predictor, Store
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.client.batches import BatchLimits, split_rows
from adapterkit.client.messages import Reply
from adapterkit.client.tar import tar_of
from adapterkit.errors import (
    AccessError,
    AdapterError,
    AdapterkitError,
    DataError,
    OverloadedError,
    ServerError,
    UnavailableError,
    UnknownAdapterError,
)
from adapterkit.serving.keys.api_keys import hash_key, new_key
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_one_line, run_command
from helpers.server import Canned, serving, stub

TEXTS = ["where is my card", "¿Dónde está el sol?", "我的卡丢了", 'the "rain", please\nwait']
OVERLOADED = Canned(
    429, b'{"error": "too many wait", "error_type": "overloaded"}', {"retry-after": "0"}
)
READY = Canned(200, b'{"status": "ready"}')


@pytest.fixture(scope="module")
def adapters(tiny: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    return [
        make_adapter(tiny, seed=1),
        make_adapter(tiny, "prefix", "globex/anfora", ("envío", "银行"), seed=2),
        make_adapter(tiny, "bottleneck", "initech", seed=3),
    ]


@pytest.fixture(scope="module")
def store_folder(
    tiny: Backbone, adapters: list[Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("served")
    for adapter in adapters:
        Store(root).publish(adapter, tiny.geometry)
    return root


@pytest.fixture(scope="module")
def url(store_folder: Path, tiny_folder: Path) -> Iterator[str]:
    with serving(store_folder, tiny_folder) as where:
        yield where


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def predictor(tiny: Backbone, adapters: list[Adapter]) -> Predictor:
    return Predictor(tiny, adapters)


def with_client(url: str, work: Callable[[Client], Any], **settings: Any) -> Any:
    """The result of a function of a client, which is closed afterwards."""
    with Client(url, **settings) as client:
        return work(client)


def with_async_client(url: str, work: Callable[[AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine with an asynchronous client, which is closed afterwards."""

    async def run() -> Any:
        async with AsyncClient(url) as client:
            return await work(client)

    return asyncio.run(run())


def assert_same_answers(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Answers equal the predictor's, up to the rounding of differently packed batches."""
    for answer, reference in zip(answers, expected, strict=True):
        keys = [key for key in answer if key != "version"]
        assert keys == [key for key in reference if key != "version"]
        for key in keys:
            value = answer[key]
            if isinstance(value, (float, list, dict)):
                assert value == pytest.approx(reference[key], abs=1e-4)
            else:
                assert value == reference[key]


def test_a_text_has_an_answer_and_a_list_has_a_list_of_answers(
    client: Client, predictor: Predictor
) -> None:
    answer = client.predict("acme/intent", TEXTS[2])
    assert answer["version"] == 1
    assert_same_answers([answer], predictor([("acme/intent", TEXTS[2])]))
    many = client.predict("globex/anfora", TEXTS)
    assert {answer["label"] for answer in many} <= {"envío", "银行"}
    assert_same_answers(many, predictor([("globex/anfora", text) for text in TEXTS]))
    assert_same_answers(client.predict("initech", TEXTS[:1]), predictor([("initech", TEXTS[0])]))


def test_a_tuple_is_a_pair_of_texts_and_a_mapping_gives_values_by_role(
    client: Client, predictor: Predictor
) -> None:
    pair = ("my card", "is lost")
    expected = predictor([("acme/intent", pair)])
    assert_same_answers([client.predict("acme/intent", pair)], expected)
    assert_same_answers(client.predict("acme/intent", [pair, "sun"])[:1], expected)
    assert_same_answers(
        [client.predict("acme/intent", {"text": pair[0], "text_pair": pair[1]})], expected
    )


def test_requests_mix_adapters(client: Client, predictor: Predictor) -> None:
    names = ["acme/intent", "initech", None, "globex/anfora"]
    requests = list(zip(names, TEXTS, strict=True))
    answers = client.ask(requests)
    assert_same_answers(answers, predictor(requests))
    assert [answer.get("version") for answer in answers] == [1, 1, None, 1]
    assert client.ask([]) == []
    assert client.predict("acme/intent", []) == []


def test_a_thousand_rows_come_back_in_their_order(client: Client, predictor: Predictor) -> None:
    assert client.info()["max_client_batch_size"] < 1000
    words = "card money lost account bank rain sun tea".split()
    requests = [
        (("acme/intent", "initech")[row % 2], f"{words[row % 8]} {words[row // 8 % 8]} " * 3)
        for row in range(1000)
    ]
    assert_same_answers(client.ask(requests), predictor(requests))
    texts = [text for _, text in requests]
    assert len(client.embed(texts)) == 1000
    cosines = client.similarity(texts[0], texts)
    assert len(cosines) == 1000
    assert cosines[0] == pytest.approx(1.0, abs=1e-5)
    assert cosines[8] == pytest.approx(client.similarity(texts[0], [texts[8]])[0], abs=1e-4)


def test_the_error_of_one_part_names_its_rows(client: Client) -> None:
    requests = [("acme/intent", "sun")] * 256 + [("acme/none", "sun")] * 10
    with pytest.raises(UnknownAdapterError, match="rows 257 to 266: there is no adapter"):
        client.ask(requests)


def test_rows_are_split_within_the_limits() -> None:
    rows = [b"x" * size for size in (1, 2, 3, 90, 1, 4, 4, 4)]
    parts = list(split_rows(rows, BatchLimits(3, 10)))
    assert [list(map(len, part)) for part in parts] == [[1, 2, 3], [90], [1, 4], [4, 4]]
    assert [row for part in parts for row in part] == rows
    assert list(split_rows([], BatchLimits(3, 10))) == []


def test_vectors(client: Client, predictor: Predictor) -> None:
    expected = [answer["vector"] for answer in predictor([(None, text) for text in TEXTS])]
    assert client.embed(TEXTS, normalize=False)[1] == pytest.approx(expected[1], abs=1e-4)
    vector = client.embed(TEXTS[1])
    assert sum(x * x for x in vector) == pytest.approx(1.0)
    assert client.embed(TEXTS)[1] == pytest.approx(vector, abs=1e-4)
    first, second = client.embed(TEXTS[:2])
    cosine = sum(a * b for a, b in zip(first, second, strict=True))
    assert client.similarity(TEXTS[0], TEXTS[1:2]) == pytest.approx([cosine], abs=1e-4)
    with pytest.raises(DataError, match="'acme/intent' gives no vectors"):
        client.embed("sun", "acme/intent")


def test_models_are_found_page_by_page(client: Client, url: str) -> None:
    names = ["base", "acme/intent", "globex/anfora", "initech"]
    for page in (1, 2, 3, 100):
        assert [model["id"] for model in client.models(page)] == names

    async def listed(client: AsyncClient) -> list[str]:
        return [model["id"] async for model in client.models(2)]

    assert with_async_client(url, listed) == names
    model = client.model("globex/anfora")
    assert (model["labels"], model["versions"]) == (["envío", "银行"], [1])
    assert client.info()["model_dtype"] == "float32"
    assert client.ready()


def test_truncation_may_be_refused(client: Client) -> None:
    text = "help " * 100
    assert client.predict("acme/intent", text)["truncated"]
    with pytest.raises(DataError, match="shorten it"):
        client.predict("acme/intent", text, truncate=False)
    with pytest.raises(DataError, match="shorten it"):
        client.embed(text, truncate=False)


def test_an_adapter_is_published_queried_rolled_back_and_deleted(
    client: Client, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    answers = []
    for seed in (4, 5):
        adapter = make_adapter(tiny, name="hooli/mood", seed=seed)
        folder = save_adapter(adapter, tmp_path / str(seed), tiny.geometry)
        (folder / ".DS_Store").write_bytes(b"of another system")
        published = client.publish("hooli/mood", folder)
        assert (published["name"], published["version"]) == ("hooli/mood", seed - 3)
        answer = client.predict("hooli/mood", TEXTS[0])
        assert answer["version"] == published["version"]
        assert_same_answers([answer], Predictor(tiny, [adapter])([("hooli/mood", TEXTS[0])]))
        answers.append(answer)
    assert answers[0]["scores"] != answers[1]["scores"]
    assert client.alias("hooli/mood", "stable", 1) == {"latest": 2, "stable": 1}
    assert client.predict("hooli/mood@stable", TEXTS[0])["version"] == 1
    assert client.alias("hooli/mood", "stable", None) == {"latest": 2}
    assert client.roll_back("hooli/mood")["version"] == 1
    assert client.predict("hooli/mood", TEXTS[0])["version"] == 1
    assert client.verify("hooli/mood") == []
    assert client.unload("hooli/mood")
    assert not client.unload("hooli/mood")
    client.delete("hooli/mood", 2)
    assert client.model("hooli/mood")["versions"] == [1]
    client.delete("hooli/mood")
    with pytest.raises(UnknownAdapterError, match="hooli/mood"):
        client.predict("hooli/mood", TEXTS[0])


def test_the_asynchronous_client_gives_the_same_results(
    client: Client, url: str, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_adapter(make_adapter(tiny, name="pied/piper"), tmp_path / "a", tiny.geometry)

    async def work(aclient: AsyncClient) -> None:
        requests = [("acme/intent", text) for text in TEXTS]
        answers = await asyncio.gather(*[aclient.predict(name, text) for name, text in requests])
        assert_same_answers(answers, client.ask(requests))
        assert_same_answers(await aclient.ask(requests * 100), client.ask(requests * 100))
        assert await aclient.embed(TEXTS[:1]) == [pytest.approx(client.embed(TEXTS[0]), abs=1e-4)]
        cosines = client.similarity(TEXTS[0], TEXTS)
        assert await aclient.similarity(TEXTS[0], TEXTS) == pytest.approx(cosines, abs=1e-4)
        assert await aclient.model("initech") == client.model("initech")
        assert await aclient.info() == client.info()
        assert await aclient.ready()
        for number in (1, 2):
            assert (await aclient.publish("pied/piper", folder))["version"] == number
        assert await aclient.alias("pied/piper", "stable", 1) == {"latest": 2, "stable": 1}
        assert (await aclient.roll_back("pied/piper"))["version"] == 1
        assert await aclient.verify("pied/piper") == []
        assert await aclient.unload("pied/piper") is False
        await aclient.delete("pied/piper")
        with pytest.raises(UnknownAdapterError):
            await aclient.model("pied/piper")

    with_async_client(url, work)


def test_both_clients_have_the_same_methods() -> None:
    def methods_of(kind: type) -> dict[str, str | None]:
        return {
            name: function.__doc__
            for name, function in getmembers(kind, isfunction)
            if not name.startswith("_")
        }

    assert methods_of(Client).keys() == methods_of(AsyncClient).keys()
    assert all(methods_of(Client).values())


def test_errors_are_one_sentence(client: Client, tmp_path: Path) -> None:
    faults: list[tuple[type[AdapterkitError], str, Callable[[], Any]]] = [
        (UnknownAdapterError, "no adapter 'acme/none'", lambda: client.predict("acme/none", "a")),
        (UnknownAdapterError, "no version '9'", lambda: client.predict("acme/intent@9", "a")),
        (DataError, "the text is empty", lambda: client.predict("acme/intent", "")),
        (DataError, "row 2 cannot be sent", lambda: client.ask([(None, "a"), (None, b"a")])),
        (DataError, "text 2 cannot be sent", lambda: client.embed(["a", "\ud800"])),
        (AdapterkitError, "'../info' is not an adapter", lambda: client.model("../info")),
        (AdapterkitError, "'' is not an adapter", lambda: client.delete("")),
        (DataError, "not an adapter name", lambda: client.verify("银行")),
        (UnknownAdapterError, "no version", lambda: client.alias("acme/intent", "stable", 9)),
        (DataError, "is not an alias", lambda: client.alias("acme/intent", "Up", 1)),
        (AdapterError, "not an adapter folder", lambda: client.publish("acme/new", tmp_path)),
    ]
    for kind, words, work in faults:
        with pytest.raises(kind, match=words) as fault:
            work()
        assert "\n" not in str(fault.value)


def test_a_folder_of_peft_is_published_with_what_it_does_not_say(
    client: Client, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny, "lora", labels=("a", "b"), pooling="pooler")
    folder = save_adapter(adapter, tmp_path / "theirs", tiny.geometry)
    for name in ("adapterkit.json", "SHA256SUMS"):
        (folder / name).unlink()
    problem, names = "multi_label_classification", ["sí", "no"]
    client.publish("hooli/peft", folder, labels=names, problem=problem, backbone=tiny.name)
    assert set(client.predict("hooli/peft", TEXTS[0])["scores"]) == {"sí", "no"}
    with pytest.raises(DataError, match="labels: 3 names for a head of 2"):
        client.publish("hooli/peft", folder, labels=["a", "b", "c"])


def test_a_folder_that_does_not_fit_is_refused_and_nothing_is_published(
    client: Client, store_folder: Path, minilm: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_adapter(make_adapter(minilm), tmp_path / "large", minilm.geometry)
    with pytest.raises(DataError):
        client.publish("acme/large", folder)
    (folder / "notes.txt").write_text("what is this doing here")
    with pytest.raises(DataError, match=r"'notes\.txt' does not belong"):
        client.publish("acme/large", folder)
    assert "acme/large" not in Store(store_folder).names()


def test_a_tar_has_no_hidden_files(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "report/confusion.png", ".git/config", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with tarfile.open(fileobj=io.BytesIO(tar_of(tmp_path))) as archive:
        files = {m.name: archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert files == {name: name for name in ("adapter_config.json", "report/confusion.png")}


def test_a_key_gives_access_to_its_adapters(
    store_folder: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, admin = new_key(), new_key()
    (tmp_path / "keys.yaml").write_text(
        f"acme: {{key: '{hash_key(key)}', adapters: ['acme/*'], rows_per_second: 0.1}}\n"
        f"ops: {{key: '{hash_key(admin)}', adapters: ['*'], admin: true}}\n"
    )
    with serving(store_folder, tiny_folder, keys=tmp_path / "keys.yaml") as url:
        for wrong in (None, "ak-wrong"):
            with pytest.raises(AccessError, match="send a known API key"):
                with_client(url, lambda client: client.predict("acme/intent", "sun"), key=wrong)
        with Client(url, key, timeout=1.0) as client:
            with pytest.raises(AccessError, match="admin"):
                client.delete("acme/intent")
            assert [model["id"] for model in client.models()] == ["base", "acme/intent"]
            with pytest.raises(UnknownAdapterError):
                client.predict("initech", "sun")
            # That request used up the quota for ten seconds, longer than this client waits.
            with pytest.raises(OverloadedError, match="quota") as fault:
                client.predict("acme/intent", "sun")
        assert 1.0 < fault.value.retry_after <= 20.0
        with Client(url, admin) as client:
            assert client.predict("initech", "sun")["adapter"] == "initech"


@pytest.mark.parametrize("status", [429, 503])
def test_a_refused_request_is_sent_again(status: int) -> None:
    refusal = OVERLOADED._replace(status=status)
    with stub(lambda number: refusal if number % 3 else READY) as server:
        assert with_client(server.url, Client.info) == {"status": "ready"}
        assert with_async_client(server.url, AsyncClient.info) == {"status": "ready"}
        assert len(server.seen) == 6
        for attempts in (1, 2):
            server.seen.clear()
            with pytest.raises((OverloadedError, UnavailableError)):
                with_client(server.url, Client.info, attempts=attempts)
            assert len(server.seen) == attempts


def test_retry_after_is_seconds_or_a_date() -> None:
    def wait(value: str) -> float | None:
        return Reply(429, {"retry-after": value}, b"").retry_after

    assert wait("7") == 7.0
    assert wait(formatdate(time() + 100, usegmt=True)) == pytest.approx(100, abs=5)
    assert wait(formatdate(time() - 100, usegmt=True)) == 0.0
    assert wait("soon") is None
    assert Reply(429, {}, b"").retry_after is None
    assert wait("²") is None, "a digit that is no number"


def test_a_server_that_drains_is_not_ready() -> None:
    closing = Canned(503, b'{"error": "closing", "error_type": "unavailable"}')
    with stub(lambda number: closing) as server:
        assert not with_client(server.url, Client.ready)
        assert not with_async_client(server.url, AsyncClient.ready)
        assert [path for path, _ in server.seen] == ["/ready", "/ready"]


@pytest.mark.parametrize(
    ("canned", "kind", "words"),
    [
        (
            Canned(200, b"<html>a page"),
            ServerError,
            "does not come from an adapterkit server: 200 '<html>",
        ),
        (Canned(404, b"[]"), ServerError, "does not come from an adapterkit server: 404"),
        (Canned(503, b"Service Unavailable"), UnavailableError, "503 'Service Unavailable'"),
        (
            Canned(500, b'{"error": "it failed", "error_type": "backend"}', {"x-request-id": "r1"}),
            ServerError,
            r"it failed \(request r1\)",
        ),
    ],
)
def test_replies_of_other_servers_are_shown(
    canned: Canned, kind: type[AdapterkitError], words: str
) -> None:
    with stub(lambda number: canned) as server, pytest.raises(kind, match=words):
        with_client(server.url, Client.info, attempts=1)


@pytest.mark.parametrize("body", [b"[]", b'[{"adapter_id": "a"}, {"adapter_id": "a"}]', b"{}"])
def test_a_reply_with_more_or_fewer_answers_than_rows_is_refused(body: bytes) -> None:
    words = "the server has not given one answer for each row"
    with stub(lambda number: Canned(200, body)) as server, pytest.raises(ServerError, match=words):
        with_client(server.url, lambda client: client.predict("a", "my card"))


def test_a_label_with_a_comma_is_not_sent(store_folder: Path) -> None:
    client = Client("http://127.0.0.1:9")
    with pytest.raises(AdapterkitError, match="'a, b' has a comma, which separates labels"):
        client.publish("t/x", store_folder / "initech/1", labels=["a, b", "c"])


def test_a_server_that_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:  # accepts connections and never answers
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
            with_client(url, Client.info, timeout=0.2)
    with pytest.raises(UnavailableError, match="no server can be reached"):
        with_client(url, Client.info)
    with pytest.raises(UnavailableError, match="no server can be reached"):
        with_async_client(url, AsyncClient.info)
    assert not with_client(url, Client.ready)
    assert not with_async_client(url, AsyncClient.ready)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "127.0.0.1:8080"}, "'127.0.0.1:8080': expected a URL"),
        ({"url": "http://"}, "expected a URL"),
        ({"url": "http://host:99999"}, "expected a URL"),
        ({"url": "ftp://host"}, "expected a URL"),
        ({"url": "http://host", "attempts": 0}, "1 attempt or more"),
        ({"url": "http://host", "timeout": 0}, "timeout above 0"),
        ({"url": "http://host", "key": "ak-银行"}, "API key"),
        ({"url": "http://host", "key": "ak-x\n"}, "API key"),
    ],
)
def test_invalid_settings_are_refused(settings: Any, words: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(AdapterkitError, match=words):
            kind(**settings)


def test_the_command_line_predicts_and_lists(url: str, client: Client) -> None:
    rows = run_command("client", "predict", "acme/intent", *TEXTS[:3], "--url", url, "--json").json
    answers = client.predict("acme/intent", TEXTS[:3])
    assert [row["text"] for row in rows] == TEXTS[:3]
    assert [row["label"] for row in rows] == [answer["label"] for answer in answers]
    shown = run_command(
        "client", "predict", "acme/intent", *TEXTS[:3], "--url", url
    ).out.splitlines()
    assert shown[0].split() == ["adapter", "answer", "score", "text"]
    assert [line.split()[:2] for line in shown[1:]] == [
        ["acme/intent", answer["label"]] for answer in answers
    ]
    pair = run_command(
        "client", "predict", "initech", '{"text": "sun", "text_pair": "tea"}', "--url", url
    )
    assert pair.code == 0
    models = run_command("client", "models", "--url", url)
    assert [line.split()[0] for line in models.out.splitlines()[1:]] == [
        model["id"] for model in client.models()
    ]
    assert run_command("client", "models", "--url", url, "--json").json == list(client.models())
    assert run_command("client", "info", "--url", url, "--json").json == client.info()
    assert "max_client_batch_size" in run_command("client", "info", "--url", url).out


def test_the_command_line_manages_adapters(
    url: str, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    def run_json(*words: str | Path) -> Any:
        return run_command("client", *words, "--url", url, "--json").json

    folder = save_adapter(make_adapter(tiny, name="wayne/corp"), tmp_path / "w", tiny.geometry)
    for version in (1, 2):
        assert run_json("publish", "wayne/corp", folder)["version"] == version
    aliases = {"latest": 2, "stable": 1}
    assert run_json("alias", "wayne/corp", "stable", "1")["aliases"] == aliases
    assert run_json("predict", "wayne/corp@stable", "sun")[0]["version"] == 1
    assert run_json("alias", "wayne/corp", "stable", "--remove")["aliases"] == {"latest": 2}
    assert run_json("rollback", "wayne/corp")["version"] == 1
    assert run_json("delete", "wayne/corp", "--version", "2") == {
        "name": "wayne/corp",
        "deleted": 2,
    }
    deleted = run_command("client", "delete", "wayne/corp", "--all", "--url", url)
    assert deleted.out == "deleted wayne/corp, all versions\n"
    for words, fault in (
        (["predict", "wayne/corp", "sun"], "there is no adapter 'wayne/corp'"),
        (["alias", "initech", "stable"], "--remove"),
        (["delete", "initech"], "--all for all versions"),
        (["delete", "initech", "--version", "1", "--all"], "--all for all versions"),
        (["publish", "initech", "nowhere"], "nowhere: not an adapter folder"),
    ):
        result = run_command("client", *words, "--url", url)
        # The server of this test runs in this process, so its log is on standard error as well.
        assert_one_line(result._replace(err=result.err.splitlines()[-1]), fault)
    assert_one_line(run_command("client", "info", "--url", "http://127.0.0.1:1"), "no server")


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERKIT_KEY", "ak-secret")
    with stub(lambda number: READY) as server:
        monkeypatch.setenv("ADAPTERKIT_URL", server.url)
        assert run_command("client", "info", "--json").json == {"status": "ready"}
    ((path, headers),) = server.seen
    assert (path, headers["authorization"]) == ("/info", "Bearer ak-secret")
