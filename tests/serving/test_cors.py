"""Pages of other sites: with `--cors-origin`, and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from adapterkit.serving.http.cors import check_origins
from adapterkit.serving.keys.api_keys import hash_key
from helpers.adapters import MakeAdapter
from helpers.server import serving

PAGE, OTHER = "https://app.example.org", "https://evil.example.org"
KEY = {"authorization": "Bearer ak-page"}
BODY = {"inputs": "my card"}


@pytest.fixture(scope="module")
def urls(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """Servers without keys, with keys, and without the option."""
    folder = tmp_path_factory.mktemp("cors")
    store = Store(folder / "store")
    store.publish(make_adapter(tiny, name="acme/intent"), tiny.geometry)
    keys = folder / "keys.yaml"
    keys.write_text(json.dumps({"acme": {"key": hash_key("ak-page"), "adapters": ["acme/*"]}}))
    with ExitStack() as stack:
        yield {
            "open": stack.enter_context(serving(store.root, tiny_folder, cors_origins=(PAGE,))),
            "keys": stack.enter_context(
                serving(store.root, tiny_folder, keys=keys, cors_origins=(PAGE,))
            ),
            "off": stack.enter_context(serving(store.root, tiny_folder)),
        }


def preflight(url: str, origin: str, method: str = "POST") -> httpx2.Response:
    """What a browser asks before it sends a request with a key."""
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-adapter-id",
    }
    return httpx2.options(url, headers=headers)


@pytest.mark.parametrize("path", ["/predict", "/embed", "/adapters/acme/intent/predict", "/info"])
@pytest.mark.parametrize("server", ["open", "keys"])
def test_a_named_page_may_send_requests(urls: dict[str, str], server: str, path: str) -> None:
    url = urls[server] + path
    allowed = preflight(url, PAGE)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    headers = {"origin": PAGE, **KEY}
    if path == "/info":
        reply = httpx2.get(url, headers=headers)
    else:
        reply = httpx2.post(url, json=BODY, headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "x-truncated" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in reply.headers


def test_errors_can_be_read_by_the_page(urls: dict[str, str]) -> None:
    for url, status in ((f"{urls['keys']}/predict", 401), (f"{urls['open']}/nothing", 404)):
        reply = httpx2.post(url, json=BODY, headers={"origin": PAGE})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, PAGE)


@pytest.mark.parametrize("server", ["open", "keys", "off"])
def test_other_pages_may_not(urls: dict[str, str], server: str) -> None:
    url = f"{urls[server]}/predict"
    refused = preflight(url, OTHER)
    assert refused.status_code in (400, 405)
    reply = httpx2.post(url, json=BODY, headers={"origin": OTHER, **KEY})
    assert "access-control-allow-origin" not in reply.headers
    assert reply.status_code == (200 if server == "keys" else 403)


def test_no_page_may_administrate_a_server_without_keys(urls: dict[str, str]) -> None:
    url = f"{urls['open']}/admin/rollback/acme/intent"
    assert httpx2.post(url, headers={"origin": PAGE}).status_code == 403


def test_without_the_option_there_are_no_headers(urls: dict[str, str]) -> None:
    reply = httpx2.post(f"{urls['off']}/predict", json=BODY)
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:5173", "http://[::1]:8000", "*"])
def test_valid_origins(origin: str) -> None:
    check_origins([origin], has_keys=True)


@pytest.mark.parametrize(
    "origin",
    ["app.example.org", "https://App.example.org", "https://a.org/", "https://a.org:443", "null"],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(AdapterkitError, match="expected an origin as a browser sends it"):
        check_origins([origin], has_keys=True)


def test_every_site_needs_keys() -> None:
    with pytest.raises(AdapterkitError, match="every page on the web could use a server without"):
        check_origins(["*"], has_keys=False)
