"""`push`, `pull` and `hf://` against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SIGNATURE, SUMS
from adapterkit.adapter.hub import HubRepository
from adapterkit.adapter.store import Store
from adapterkit.atomic import DRAFT
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from helpers.adapters import MakeAdapter
from helpers.command_line import CommandResult, assert_one_line, assert_refused, run_command
from helpers.fake_hub import FakeHub, fake_hub

REPO = "my-name/intent"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's transport


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import close_session, constants

    with fake_hub() as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", running.token)
        close_session()
        yield running
        close_session()


@pytest.fixture
def published(tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter) -> Adapter:
    """An adapter in the store `adapters`."""
    adapter = make_adapter(tiny, "lora", labels=("no", "yes", "其他"))
    adapter = replace(adapter, backbone=str(tiny_folder), metrics={"test": {"accuracy": 0.5}})
    Store("adapters").publish(adapter, tiny.geometry)
    return adapter


def without_token(result: CommandResult, hub: FakeHub) -> CommandResult:
    assert hub.token not in result.out + result.err
    return result


def test_an_adapter_goes_to_the_hub_and_comes_back(hub: FakeHub, published: Adapter) -> None:
    pushed = without_token(run_command("push", published.name, REPO, "--json"), hub).json
    assert pushed["repository"] == REPO
    assert pushed["commit"].startswith(f"{hub.url}/{REPO}/commit/")
    on_disk = Path("adapters", published.name, "1")
    files = hub.repositories[REPO][-1]
    assert files == {
        path.relative_to(on_disk).as_posix(): path.read_bytes()
        for path in on_disk.rglob("*")
        if path.is_file()
    }
    pulled = without_token(run_command("pull", REPO, "--store", "shelf", "--json"), hub).json
    assert (pulled["name"], pulled["version"]) == (published.name, 1)
    assert Path(pulled["folder"], SUMS).read_bytes() == files[SUMS]
    assert run_command("verify", "shelf").code == 0
    again = run_command("pull", REPO, "--store", "shelf", "--name", "me/other", "--json").json
    assert again["name"] == "me/other"
    text = "where is my card"
    ours = run_command("predict", published.name, text, "--json").json
    theirs = run_command("predict", f"hf://{REPO}", text, "--json").json
    assert theirs[0]["scores"] == ours[0]["scores"]


def test_a_revision_stays_and_a_new_version_removes_old_files(
    hub: FakeHub, published: Adapter, tiny: Backbone
) -> None:
    first = run_command("push", published.name, REPO, "--json").json["commit"].rpartition("/")[2]
    hub.repositories[REPO][-1] |= {
        **{"members/1.safetensors": b"old", "notes.txt": b"mine"},
        SIGNATURE: b"{}",
    }
    Store("adapters").publish(replace(published, metrics={}), tiny.geometry)
    run_command("push", published.name, REPO)
    files = hub.repositories[REPO][-1]
    assert "notes.txt" in files
    assert not files.keys() & {"members/1.safetensors", SIGNATURE}
    del hub.repositories[REPO][-2]["members/1.safetensors"], hub.repositories[REPO][-2][SIGNATURE]
    pulled = run_command("pull", f"{REPO}@{first}", "--json", "--store", "shelf").json
    assert json.loads(Path(pulled["folder"], CARD).read_text())["metrics"]
    assert not Path(pulled["folder"], "notes.txt").exists()


def test_what_must_be_private_is_not_written_to_a_public_repository(
    hub: FakeHub, published: Adapter
) -> None:
    secret = "my-name/secret"
    for _ in range(2):
        assert run_command("push", published.name, secret, "--private").code == 0
    assert hub.private == {secret}
    run_command("push", published.name, REPO)
    before = len(hub.repositories[REPO])
    refused(hub, "push", published.name, REPO, "--private", words="is there already and public")
    assert len(hub.repositories[REPO]) == before


def refused(hub: FakeHub, *arguments: str, words: str) -> None:
    assert_one_line(without_token(run_command(*arguments), hub), words)


def test_what_the_hub_refuses_is_one_line_without_the_token(
    hub: FakeHub, published: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(hub, "pull", "my-name/none", words="there is no such repository")
    refused(hub, "predict", "hf://my-name/none", "a", words="there is no such repository")
    run_command("push", published.name, REPO)
    refused(hub, "pull", f"{REPO}@v9", words="there is no such branch, tag or commit")
    hub.token = "hf_other"
    refused(hub, "push", published.name, REPO, words="you are not logged in")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.repositories[REPO][-1].pop(CARD)
    refused(hub, "pull", REPO, words="adapterkit import hf://my-name/intent")
    hub.repositories[REPO].append({"README.md": b"# a model"})
    refused(hub, "pull", REPO, words="not an adapter, adapter_config.json is missing")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", CARD])
def test_a_broken_or_changed_download_leaves_nothing(
    name: str, hub: FakeHub, published: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_command("push", published.name, REPO)
    hub.breaks_at = name
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it tries again
    refused(hub, "pull", REPO, "--store", "shelf", words=f"hf://{REPO}: ")
    assert not Path("shelf").exists()
    hub.breaks_at = None
    whole = hub.repositories[REPO][-1]
    hub.repositories[REPO].append({**whole, name: whole[name].replace(b"F32", b"F16", 1) + b"\n"})
    refused(hub, "pull", REPO, "--store", "shelf", words="not what SHA256SUMS says")
    assert not [p for p in Path("shelf").rglob("*") if p.is_file() and p.name != ".lock"]
    assert not list(Path("shelf").rglob(f"{DRAFT}*"))


@pytest.mark.parametrize(
    "reference",
    [
        "intent",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@",
        "a/b@../x",
        "a/b@-x",
        "a/b@x//y",
        "a b/c",
        "/a",
        "",
    ],
)
def test_names_from_outside_are_checked(reference: str, hub: FakeHub) -> None:
    with pytest.raises(AdapterkitError):
        HubRepository.of(reference)
    assert_refused("pull", reference, words="repository" if "@" not in reference else reference)
    assert hub.requests == []


def test_pickled_weights_are_not_downloaded(hub: FakeHub, published: Adapter) -> None:
    run_command("push", published.name, REPO)
    files: Any = hub.repositories[REPO][-1]
    files["adapter_model.bin"] = b"pickle"
    run_command("pull", REPO, "--store", "shelf")
    assert not [request for request in hub.requests if request.endswith(".bin")]
