"""A server of a store with an adapter for each view of the page, and a browser to look at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.serving.keys.api_keys import Keys, hash_key
from adapterkit.serving.keys.key_file import parse_keys
from helpers.adapters import MakeAdapter
from helpers.page import KEY, fill_store, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = """
--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync
""".split()


@pytest.fixture(scope="session")
def shelf(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with an adapter for each way to show an answer."""
    root = tmp_path_factory.mktemp("shelf")
    fill_store(root, tiny, make_adapter)
    return root


@pytest.fixture(scope="module")
def url(shelf: Path, tiny: Backbone) -> Iterator[str]:
    with served(shelf, tiny) as url:
        yield url


@pytest.fixture(scope="module")
def locked(shelf: Path, tiny: Backbone) -> Iterator[str]:
    """A server with a single key, of the tenant `acme`, which may use only its own adapters."""
    keys = Keys(
        parse_keys(json.dumps({"acme": {"key": hash_key(KEY), "adapters": ["acme/*"]}}), "keys")
    )
    with served(shelf, tiny, keys) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab. An error in it, or a request to another machine, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Policy" in line.text else None)
    page.on(
        "request",
        lambda request: wrong.append(request.url) if "127.0.0.1" not in request.url else None,
    )
    yield page
    assert wrong == []
    assert page.title() == "adapterkit"
    assert page.locator("img:not(#paper img), iframe").count() == 0
    context.close()
