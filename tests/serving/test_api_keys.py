"""API keys: key files, roles, what each key may do, the audit log, and wrong keys."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.client.tar import tar_of
from adapterkit.errors import AdapterkitError, OverloadedError
from adapterkit.serving.keys import wrong_keys
from adapterkit.serving.keys.api_keys import Caller, Tenant, hash_key
from adapterkit.serving.keys.key_file import CHECK_SECONDS, KeyFile, parse_keys
from adapterkit.serving.keys.wrong_keys import FREE_ATTEMPTS, MAX_ADDRESSES, WrongKeys
from helpers.adapters import MakeAdapter
from helpers.server import serving

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)


def section(key: str, **settings: Any) -> dict[str, Any]:
    return {"key": hash_key(key), **settings}


TENANTS: dict[str, Any] = {
    "acme": {
        "adapters": ["acme/*"],
        "keys": {
            "web": section("ak-web"),
            "ci": section("ak-ci", role="publisher", expires=str(TODAY)),
            "boss": section("ak-boss", role="admin"),
            "old": section("ak-old", role="admin", expires=str(YESTERDAY)),
        },
    },
    "globex": section("ak-globex", adapters=["globex/*"]),
    "ops": section("ak-ops", adapters=["*"], admin=True),
}


@pytest.fixture(scope="module")
def store(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    store = Store(tmp_path_factory.mktemp("keys") / "store")
    for name in ("acme/intent", "globex/topic"):
        store.publish(make_adapter(tiny, "lora", name=name, seed=1), tiny.geometry)
    return store


@pytest.fixture(scope="module")
def url(store: Store, tiny_folder: Path) -> Iterator[str]:
    file = store.root.parent / "keys.yaml"
    file.write_text(json.dumps(TENANTS))
    with serving(store.root, tiny_folder, keys=file) as url:
        yield url


@pytest.fixture
def logs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("adapterkit")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, "adapterkit")
    return caplog


def send(url: str, method: str, path: str, key: str | None, **settings: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers |= settings.pop("headers", {})
    return httpx2.request(method, f"{url}{path}", headers=headers, timeout=20, **settings)


def publish(url: str, name: str, folder: Path, key: str) -> httpx2.Response:
    headers = {"content-type": "application/x-tar"}
    return send(url, "PUT", f"/admin/adapters/{name}", key, content=tar_of(folder), headers=headers)


def audit_facts(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    return [getattr(record, "facts", {}) for record in records if record.message == "audit"]


ADMIN_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/admin/adapters/globex/{name}", {}),
    ("PUT", "/admin/adapters/globex/{name}", {"content": b"x"}),
    ("PUT", "/admin/aliases/stable/globex/{name}", {"json": {"version": 1}}),
    ("DELETE", "/admin/aliases/stable/globex/{name}", {}),
    ("PUT", "/admin/rollouts/stable/globex/{name}", {"json": {"weights": {"1": 1, "2": 1}}}),
    ("POST", "/admin/promote/stable/globex/{name}", {}),
    ("POST", "/admin/rollback/globex/{name}", {}),
    ("POST", "/admin/unload/globex/{name}", {}),
    ("GET", "/admin/verify/globex/{name}", {}),
    ("DELETE", "/admin/adapters/globex/{name}", {}),
]


@pytest.mark.parametrize("name", ["topic", "nothing"])
@pytest.mark.parametrize(("method", "path", "body"), ADMIN_REQUESTS)
def test_an_admin_key_is_bound_by_its_patterns(
    url: str, store: Store, method: str, path: str, body: dict[str, Any], name: str
) -> None:
    for key in ("ak-boss", "ak-ci"):
        reply = send(url, method, path.format(name=name), key, **body)
        assert reply.status_code == 403
        assert "globex/topic" not in reply.text or name == "topic"
    assert store.versions("globex/topic") == ([1], {"latest": 1})
    assert store.names() == ["acme/intent", "globex/topic"]


def test_a_publisher_publishes_and_aliases_its_own_names(url: str, store: Store) -> None:
    name, folder = "acme/copy", store.path("acme/intent")
    for _ in range(2):
        assert publish(url, name, folder, "ak-ci").status_code == 201
    stable = f"/admin/aliases/stable/{name}"
    assert send(url, "PUT", stable, "ak-ci", json={"version": 1}).status_code == 200
    assert send(url, "DELETE", stable, "ak-ci").status_code == 200
    assert send(url, "POST", f"/admin/rollback/{name}", "ak-ci").status_code == 200
    assert send(url, "GET", f"/admin/adapters/{name}", "ak-ci").status_code == 200
    for method, path in (
        ("DELETE", f"/admin/adapters/{name}"),
        ("POST", f"/admin/unload/{name}"),
        ("GET", "/metrics"),
    ):
        assert send(url, method, path, "ak-ci").status_code == 403
    assert publish(url, name, folder, "ak-web").status_code == 403
    assert store.versions(name) == ([1, 2], {"latest": 1})
    assert send(url, "DELETE", f"/admin/adapters/{name}", "ak-boss").status_code == 200


def test_an_adapter_is_not_published_on_top_of_another_tenants(
    url: str, store: Store, tmp_path: Path
) -> None:
    folder = store.path("acme/intent")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    card = json.loads(files["adapterkit.json"])
    card["on_top_of"] = {"name": "globex/topic", "digest": f"sha256:{'0' * 64}"}
    (tmp_path / "child").mkdir()
    for name, content in {**files, "adapterkit.json": json.dumps(card).encode()}.items():
        if name != "SHA256SUMS":
            (tmp_path / "child" / name).write_bytes(content)
    reply = publish(url, "acme/child", tmp_path / "child", "ak-ci")
    assert reply.status_code in (404, 422)
    assert "there is no adapter 'globex/topic'" in reply.text
    assert "acme/child" not in store.names()


def test_metrics_show_the_adapters_that_the_key_may_use(url: str) -> None:
    for name in ("acme/intent", "globex/topic"):
        body = {"adapter_id": name, "inputs": "a"}
        assert send(url, "POST", "/predict", "ak-ops", json=body).status_code == 200
    everything = send(url, "GET", "/metrics", "ak-ops").text
    own = send(url, "GET", "/metrics", "ak-boss").text
    assert 'adapter="globex/topic"' in everything
    assert "globex" not in own
    assert 'adapter="acme/intent"' in own


@pytest.mark.parametrize(
    ("key", "status"),
    [("ak-web", 200), ("ak-ci", 200), ("ak-old", 401), ("ak-globex", 200), ("ak-new", 401)],
)
def test_every_key_of_a_tenant_is_accepted_until_its_last_day(
    url: str, key: str, status: int
) -> None:
    reply = send(url, "GET", "/v1/models", key)
    assert reply.status_code == status
    assert (str(YESTERDAY) in reply.text) == (key == "ak-old")


def test_the_keys_of_a_tenant_share_its_quota() -> None:
    callers = parse_keys(json.dumps({"acme": {**TENANTS["acme"], "rows_per_second": 1}}), "keys")
    web, boss = callers[hash_key("ak-web")], callers[hash_key("ak-boss")]
    for _ in range(5):
        web.tenant.rows.take(2, "rows")
    with pytest.raises(OverloadedError):
        boss.tenant.rows.take(2, "rows")


def test_every_action_of_an_admin_is_logged(
    url: str, store: Store, logs: pytest.LogCaptureFixture
) -> None:
    name, folder = "acme/logged", store.path("acme/intent")
    published = publish(url, name, folder, "ak-ci").json()
    send(url, "PUT", f"/admin/aliases/stable/{name}", "ak-ci", json={"version": 1})
    send(url, "DELETE", f"/admin/adapters/{name}", "ak-ci")
    send(url, "DELETE", f"/admin/adapters/{name}", "ak-boss")
    send(url, "DELETE", "/admin/adapters/globex/topic", "ak-boss")
    send(url, "PUT", f"/admin/adapters/{name}", "ak-ops", content=b"x")
    who = {"adapter": name, "client": "127.0.0.1", "tenant": "acme", "key": "ci"}
    version = {"version": 1, "digest": published["digest"]}
    publication, alias, refused, deletion, bound, malformed = audit_facts(logs.records)
    assert publication == {"action": "publish", **who, **version}
    assert alias == {"action": "set alias", "alias": "stable", **who, **version}
    assert refused == {"action": "delete", **who, "error": "this needs an admin's API key"}
    assert deletion == {
        "action": "delete",
        **who,
        "key": "boss",
        "digests": {1: published["digest"]},
    }
    assert (bound["adapter"], bound["key"]) == ("globex/topic", "boss")
    assert "not for 'globex/topic'" in bound["error"]
    assert malformed["key"] == hash_key("ak-ops")[7:15]
    assert "content-type" in malformed["error"]


def test_the_log_of_a_request_names_the_key(url: str, logs: pytest.LogCaptureFixture) -> None:
    send(url, "GET", "/v1/models", "ak-web")
    send(url, "GET", "/v1/models", "ak-web")  # the first record is written by then
    facts = next(one.facts for one in logs.records if one.message == "request")  # type: ignore[attr-defined]
    assert (facts["tenant"], facts["key"]) == ("acme", "web")


def test_right_keys_are_not_delayed_by_wrong_ones(
    store: Store, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    (tmp_path / "keys.yaml").write_text(json.dumps(TENANTS))
    with serving(store.root, tiny_folder, keys=tmp_path / "keys.yaml") as url:
        monkeypatch.setattr(wrong_keys, "sleep", sleep)
        for _ in range(FREE_ATTEMPTS + 8):
            assert send(url, "GET", "/v1/models", "ak-wrong").status_code == 401
            assert send(url, "GET", "/v1/models", "ak-web").status_code == 200
            assert send(url, "GET", "/v1/models", None).status_code == 401
            assert send(url, "GET", "/health", "ak-wrong").status_code == 200
        text = send(url, "GET", "/metrics", "ak-ops").text
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]
    assert f"adapterkit_wrong_keys_total {FREE_ATTEMPTS + 8}.0" in text


def test_wrong_keys_hold_few_requests_and_little_memory(
    logs: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    keys = WrongKeys(clock=lambda: now)

    async def attack() -> list[BaseException | None]:
        one = [asyncio.ensure_future(keys.delay("192.0.2.1")) for _ in range(100)]
        many = [
            asyncio.ensure_future(keys.delay(f"198.51.{n // 256}.{n % 256}")) for n in range(9999)
        ]
        await asyncio.sleep(0)
        refused = [task for task in one if task.done() and task.exception()]
        for task in one:
            task.cancel()
        await asyncio.gather(*one, *many, return_exceptions=True)
        return [task.exception() for task in refused]

    errors = asyncio.run(attack())
    assert len(errors) == 100 - FREE_ATTEMPTS - wrong_keys.MAX_WAITING_PER_ADDRESS
    assert all(isinstance(error, OverloadedError) for error in errors)
    assert len(keys) == MAX_ADDRESSES
    assert keys.total == 10_099
    assert [record.message for record in logs.records] == ["6 requests had a wrong API key"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "sha256:" + "z" * 64}, "acme.key: expected sha256: and 64 digits"),
        ({"key": "sha256:abc"}, "acme.key: expected sha256:"),
        ({"key": "ak-secret"}, "acme.key: expected sha256:"),
        ({"role": "boss"}, "acme.role: expected one of user, publisher, admin, got 'boss'"),
        ({"expires": "soon"}, "acme.expires: expected a day such as 2027-01-31, got 'soon'"),
        ({"expires": "2027-02-30"}, "acme.expires: expected a day"),
        ({"expires": "20270131"}, "acme.expires: expected a day"),
        ({"admin": True, "role": "user"}, "acme.admin: means role admin, but role is user"),
        ({"keys": {"ci": section("ak-ci")}}, "acme.key: expected either one key, or keys"),
        ({"key": None}, "acme.key: expected either one key, or keys"),
        ({"key": None, "keys": {}}, "acme.key: expected either one key, or keys"),
        ({"key": None, "keys": [1]}, "acme.keys: expected an id for each key, got [1]"),
        ({"key": None, "keys": {"ci": 7}}, "acme.keys.ci: expected keys and values, got 7"),
        ({"key": None, "keys": {"a b": section("k")}}, "acme.keys.a b: expected an id of"),
        ({"key": None, "keys": {"ci": {"key": "x"}}}, "acme.keys.ci.key: expected sha256:"),
        ({"key": None, "keys": {"ci": {"role": "user"}}}, "acme.keys.ci.key: this key is required"),
        (
            {"key": None, "keys": {"ci": section("k", rol="user")}},
            "acme.keys.ci.rol: there is no such key; did you mean 'role'",
        ),
        (
            {"key": None, "keys": {"a": section("k"), "b": section("k")}},
            "acme: key b is the same key as a of acme",
        ),
        ({"key": None, "keys": {"ci": section("k")}, "admin": True}, "acme.keys: each key has"),
    ],
)
def test_an_error_in_a_key_is_one_line_with_its_place(change: dict[str, Any], words: str) -> None:
    tenant = {
        name: value for name, value in {**section("ak"), **change}.items() if value is not None
    }
    with pytest.raises(AdapterkitError) as error:
        parse_keys(json.dumps({"acme": tenant}), "keys.yaml")
    message = str(error.value)
    assert message.startswith("keys.yaml: ")
    assert words in message
    assert "\n" not in message


def test_an_id_given_twice_is_refused_with_its_line() -> None:
    one = f"{{key: '{hash_key('a')}'}}"
    text = f"acme:\n  keys:\n    ci: {one}\n    ci: {one.replace('sha256:c', 'sha256:d')}\n"
    with pytest.raises(AdapterkitError, match=r"keys.yaml: line 4: the key 'ci' is given twice"):
        parse_keys(text, "keys.yaml")


def test_a_name_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(AdapterkitError, match="valid text"):
        parse_keys(json.dumps({"\ud800": section("ak")}), "keys.yaml")


def test_a_key_file_of_version_0_1_0_is_read() -> None:
    text = f"""
acme:
  key: {hash_key("ak-acme")}
  adapters: ["acme/*"]
  rows_per_second: 50
  tokens_per_second: 5e3
  admin: false
ops: {{key: "{hash_key("ak-ops").upper().replace("SHA", "sha")}", adapters: ["*"], admin: true}}
7: {{key: "{hash_key("ak-7")}"}}
"""
    callers = parse_keys(text, "keys.yaml")
    assert callers[hash_key("ak-acme")] == Caller(
        Tenant("acme", ("acme/*",), 50.0, 5000.0), hash_key("ak-acme")[7:15], "user"
    )
    assert callers[hash_key("ak-ops")].role == "admin"
    assert callers[hash_key("ak-7")].tenant.name == "7"


def test_a_removed_key_is_refused_whatever_the_time_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps(TENANTS))
    status = file.stat()
    now = 0.0
    keys = KeyFile(file, clock=lambda: now)
    assert keys.find("ak-ci") is not None
    same_size = json.dumps(TENANTS).replace(hash_key("ak-ci"), hash_key("ak-other"))
    with file.open("r+") as open_file:
        open_file.write(same_size)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (status.st_ino, status.st_size)
    now += CHECK_SECONDS
    assert keys.find("ak-ci") is None
    assert keys.find("ak-other") is not None


def test_old_keys_stay_while_the_file_is_not_valid(
    tmp_path: Path, logs: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps(TENANTS))
    now = 0.0
    keys = KeyFile(file, clock=lambda: now)
    for content in ("{broken", json.dumps({"acme": section("x", role="boss")}), None):
        logs.clear()
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        for _ in range(5):
            now += CHECK_SECONDS
            assert keys.find("ak-web") is not None
        (record,) = logs.records
        assert record.message.startswith(f"{file}: ")
        assert record.message.endswith("; the keys have not changed")
    file.write_text(json.dumps({"globex": TENANTS["globex"]}))
    now += CHECK_SECONDS
    assert keys.find("ak-web") is None
    assert keys.find("ak-globex") is not None


def test_a_changed_file_gives_no_tenant_a_new_quota(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    tenants = {"acme": section("ak-acme", rows_per_second=0.001), "ops": section("ak-ops")}
    file.write_text(json.dumps(tenants))
    now = 0.0
    keys = KeyFile(file, clock=lambda: now)

    def take() -> None:
        now_caller = keys.find("ak-acme")
        assert now_caller is not None
        now_caller.tenant.rows.take(1, "rows")

    take()
    tenants["acme"]["role"] = "publisher"
    file.write_text(json.dumps({"acme": tenants["acme"]}))
    now += CHECK_SECONDS
    with pytest.raises(OverloadedError):
        take()
    caller = keys.find("ak-acme")
    assert caller is not None
    assert caller.role == "publisher"
