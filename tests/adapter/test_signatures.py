"""Signatures: only what a trusted key signed, under this name and version, is loaded."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.testclient import TestClient

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SIGNATURE, SUMS, with_checksums
from adapterkit.adapter.folder import adapter_files, load_adapter
from adapterkit.adapter.signature import sign_folder
from adapterkit.adapter.signing_key import make_signing_key
from adapterkit.adapter.store import Store
from adapterkit.adapter.trust import Trust
from adapterkit.atomic import write_folder
from adapterkit.backbone.load_options import LoadOptions
from adapterkit.backbone.model import Backbone
from adapterkit.client.tar import tar_of
from adapterkit.errors import AdapterError
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.app import make_app
from adapterkit.serving.server import Settings, make_service
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command

TAR = {"content-type": "application/x-tar"}
KEY, TRUST, SHELF = Path("release.pem"), Path("trust.yaml"), Path("shelf")


@pytest.fixture
def public() -> str:
    """The public key of `KEY`, which `TRUST` lets sign `acme/*`."""
    key = make_signing_key(KEY)
    write_trust(key)
    return key


def write_trust(key: str, patterns: tuple[str, ...] = ("acme/*",)) -> None:
    TRUST.write_text(json.dumps({"release": {"key": key, "adapters": patterns}}))


@pytest.fixture
def adapter(tiny: Backbone, make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(tiny)


def publish(tiny: Backbone, *adapters: Adapter) -> None:
    for adapter in adapters:
        Store(SHELF).publish(adapter, tiny.geometry)


def trusting() -> Store:
    return Store(SHELF, trust=Trust.read(TRUST))


def refusal(tiny: Backbone, reference: str = "acme/intent") -> str:
    """What a store with `TRUST` says of an adapter, in one line."""
    with pytest.raises(AdapterError) as caught:
        Predictor.open([reference], trusting(), backbone=tiny)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_signed_version_is_loaded_and_an_unsigned_one_is_not(
    tiny: Backbone, adapter: Adapter, public: str
) -> None:
    publish(tiny, adapter, adapter)
    result = run_command("sign", "acme/intent@1", "--key", KEY, "--store", SHELF)
    assert result.out == f"signed acme/intent@1 by {public}\n"
    assert Predictor.open(["acme/intent@1"], trusting(), backbone=tiny).names == ["acme/intent"]
    assert "'acme/intent@2' is not signed" in refusal(tiny)
    lines = run_command("verify", SHELF, "--trust", TRUST)
    assert lines.code == 1
    assert lines.out.splitlines()[0] == "acme/intent@1: ok"
    assert lines.out.splitlines()[1].startswith("acme/intent@2: 'acme/intent@2' is not signed")
    assert run_command("verify", SHELF).code == 0, "signatures are optional"


def test_what_is_signed_is_as_documented(tiny: Backbone, adapter: Adapter, public: str) -> None:
    """Checked by the library alone: name, version and the checksums as they stand in the file."""
    publish(tiny, adapter)
    folder = SHELF / "acme/intent/1"
    sign_folder(folder, "acme/intent", 1, KEY)
    content = json.loads((folder / SIGNATURE).read_text())
    head = b"adapterkit signature 1\nname: acme/intent\nversion: 1\n"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("ed25519:")))
    key.verify(base64.b64decode(content["signature"]), head + (folder / SUMS).read_bytes())


def test_a_signed_folder_cannot_be_moved_or_changed(
    tiny: Backbone, make_adapter: MakeAdapter, adapter: Adapter, public: str
) -> None:
    publish(tiny, adapter, adapter, make_adapter(tiny, name="acme/other"))
    home = SHELF / "acme/intent"
    sign_folder(home / "1", "acme/intent", 1, KEY)

    def moved(target: Path) -> None:
        shutil.rmtree(target)
        shutil.copytree(home / "1", target)

    moved(SHELF / "acme/other/1")
    assert "has a signature for 'acme/intent@1'" in refusal(tiny, "acme/other")
    shutil.rmtree(SHELF / "acme/other/1")
    (SHELF / "acme/other/1").symlink_to((home / "1").resolve())
    assert "has a signature for 'acme/intent@1'" in refusal(tiny, "acme/other")
    moved(home / "2")
    assert "has a signature for 'acme/intent@1'" in refusal(tiny, "acme/intent@2")
    forged = json.loads((home / "2" / SIGNATURE).read_text()) | {"version": 2}
    (home / "2" / SIGNATURE).write_text(json.dumps(forged))
    assert "has a wrong signature" in refusal(tiny, "acme/intent@2")


def test_changed_files_with_new_checksums_are_refused(
    tiny: Backbone, adapter: Adapter, public: str
) -> None:
    publish(tiny, adapter)
    folder = SHELF / "acme/intent/1"
    sign_folder(folder, "acme/intent", 1, KEY)
    signature, card = (folder / SIGNATURE).read_bytes(), (folder / CARD).read_bytes()
    (folder / CARD).unlink()
    with pytest.raises(AdapterError, match=f"{CARD} cannot be read"):  # no defaults in its place
        load_adapter(folder, tiny, any_backbone=True)
    shutil.rmtree(folder)
    other = replace(adapter, metrics={"test": {"accuracy": 1.0}})
    files = with_checksums(adapter_files(other, tiny.geometry))
    write_folder(folder, {**files, SIGNATURE: signature})
    assert files[CARD] != card
    assert "has a wrong signature" in refusal(tiny)


def test_a_key_signs_only_what_the_trust_file_says(
    tiny: Backbone, adapter: Adapter, public: str
) -> None:
    publish(tiny, adapter)
    folder = SHELF / "acme/intent/1"
    stranger = make_signing_key(Path("stranger.pem"))
    sign_folder(folder, "acme/intent", 1, Path("stranger.pem"))
    assert f"is signed by {stranger}, which trust.yaml does not trust" in refusal(tiny)
    forged = json.loads((folder / SIGNATURE).read_text()) | {"key": public}
    (folder / SIGNATURE).write_text(json.dumps(forged))
    assert "has a wrong signature" in refusal(tiny)
    sign_folder(folder, "acme/intent", 1, KEY)
    assert Predictor.open(["acme/intent"], trusting(), backbone=tiny).names == ["acme/intent"]
    write_trust(public, ("globex/*",))
    assert "does not trust for this name" in refusal(tiny)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 1}', "\x00", '{"name": "acme/intent", "version": "1"}']
)
def test_a_garbled_signature_is_one_line(
    tiny: Backbone, adapter: Adapter, public: str, content: str
) -> None:
    publish(tiny, adapter)
    (SHELF / "acme/intent/1" / SIGNATURE).write_text(content)
    assert SIGNATURE in refusal(tiny)


def test_parents_are_signed_too_and_lie_in_the_store(
    tiny: Backbone, make_adapter: MakeAdapter, adapter: Adapter, public: str
) -> None:
    publish(tiny, adapter)
    parent = load_adapter(SHELF / "acme/intent/1", tiny)
    publish(tiny, replace(make_adapter(tiny, name="acme/child", seed=1), on_top_of=parent))
    sign_folder(SHELF / "acme/child/1", "acme/child", 1, KEY)
    assert "'acme/intent@1' is not signed" in refusal(tiny, "acme/child")
    sign_folder(SHELF / "acme/intent/1", "acme/intent", 1, KEY)
    assert Predictor.open(["acme/child"], trusting(), backbone=tiny).names == ["acme/child"]
    shutil.copytree(SHELF / "acme/intent/1", "elsewhere/acme/intent/1")
    assert "not a version in shelf" in refusal(tiny, "elsewhere/acme/intent/1")


def test_a_server_publishes_and_answers_only_what_is_signed(
    tiny: Backbone, adapter: Adapter, public: str, tiny_folder: Path
) -> None:
    publish(tiny, adapter)
    settings = Settings(
        str(SHELF),
        backbones=(str(tiny_folder),),
        load_options=LoadOptions(device="cpu"),
        trust=TRUST,
    )
    sent = write_folder(Path("sent"), with_checksums(adapter_files(adapter, tiny.geometry)))
    ask = {"adapter_id": "acme/intent", "inputs": "my card"}
    target = "/admin/adapters/acme/intent"
    with TestClient(make_app(make_service(settings, None))) as client:
        unsigned = client.post("/predict", json=ask)
        refused = client.put(target, content=tar_of(sent), headers=TAR)
        sign_folder(sent, "acme/intent", 3, KEY)
        early = client.put(target, content=tar_of(sent), headers=TAR)
        sign_folder(sent, "acme/intent", 2, KEY)
        published = client.put(target, content=tar_of(sent), headers=TAR)
        answered = client.post("/predict", json=ask)
        faults = client.get("/admin/verify/acme/intent").json()["faults"]
    assert unsigned.status_code == 500
    assert unsigned.json()["error"].startswith("the adapter cannot be loaded"), "the log says why"
    assert (refused.status_code, early.status_code) == (422, 422)
    assert "'acme/intent@2' is not signed" in refused.json()["error"]
    assert "has a signature for 'acme/intent@3'" in early.json()["error"]
    assert (published.status_code, answered.status_code, faults) == (201, 200, [])
    assert Store(SHELF).versions("acme/intent")[0] == [1, 2]


# The command line.


def test_a_signing_key_is_private_and_never_replaced(public: str) -> None:
    assert KEY.stat().st_mode & 0o777 == 0o600
    assert_refused("signing-key", KEY, words=f"is there already, with the public key {public}")
    result = run_command("signing-key", "other.pem")
    assert result.code == 0
    assert result.out.startswith("ed25519:")
    assert "BEGIN" not in result.out + result.err


def test_signing_refuses_what_it_cannot_sign(tiny: Backbone, adapter: Adapter, public: str) -> None:
    publish(tiny, adapter)
    sign = ("sign", "acme/intent", "--store", SHELF, "--key")
    Path("text.pem").write_text("no key")
    Path("text.pem").chmod(0o600)
    assert_refused(*sign, "text.pem", words="expected an Ed25519 private key in PEM format")
    assert_refused(*sign, "missing.pem", words="missing.pem: cannot be read")
    KEY.chmod(0o640)
    assert_refused(*sign, KEY, words="others can read this private key; chmod 600 release.pem")
    KEY.chmod(0o600)
    assert_refused("sign", SHELF / "acme/intent/1", "--key", KEY, words="give --name and --version")
    assert_refused(*sign, KEY, "--name", "acme/b", words="--name and --version are for folders")
    assert_refused("sign", "acme/x", "--store", SHELF, "--key", KEY, words="no adapter 'acme/x'")
    (SHELF / "acme/intent/1" / CARD).write_text("{}")
    assert_refused(*sign, KEY, words=f"not signed: {CARD} was changed")


TRUST_FAULTS = {
    "": "expected keys, such as release",
    "[1]": "expected keys, such as release",
    "release: 5": "release: expected keys and values",
    "release: {key: x, adapters: [a]}": "release.key: expected ed25519: and 44 letters",
    "release: {key: KEY}": "release.adapters: this key is required",
    "release: {key: KEY, adapters: []}": "release.adapters: expected patterns of names",
    "release: {key: KEY, adapter: [a]}": "did you mean 'adapters'",
    "release: [": "not YAML",
}


@pytest.mark.parametrize("text", TRUST_FAULTS)
def test_a_trust_file_that_is_not_valid_is_refused(public: str, text: str) -> None:
    SHELF.mkdir()
    TRUST.write_text(text.replace("KEY", public))
    for command in ("verify", "serve"):
        assert_refused(command, SHELF, "--trust", TRUST, words=TRUST_FAULTS[text])


def test_signatures_without_the_library_name_the_command_that_installs_it(
    tiny: Backbone, adapter: Adapter, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tiny, adapter)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    words = "pip install 'adapterkit[sign]'"
    assert_refused("signing-key", "new.pem", words=words)
    assert_refused("sign", "acme/intent", "--store", SHELF, "--key", KEY, words=words)
    assert_refused("verify", SHELF, "--trust", TRUST, words=words)
    assert_refused("serve", SHELF, "--trust", TRUST, words=words)
