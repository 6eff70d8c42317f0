"""Adapter folders: written completely or not at all, and every error named."""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapterkit
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS, checksum_errors
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import LARGEST_FILE, WEIGHTS, read_weights, tensor_shapes
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.inference.predictor import Predictor
from helpers.adapters import MakeAdapter
from helpers.folder_faults import Fault, change_json, remove_file

QUERY_A = "base_model.model.encoder.layer.1.attention.self.query.lora_A.weight"


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return fault


def cut(name: str, keep: float) -> Fault:
    def fault(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return fault


def write(file: str, text: str) -> Fault:
    def fault(folder: Path) -> None:
        (folder / file).write_text(text)

    return fault


def make_huge(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, LARGEST_FILE + 1)  # it takes no space on the disk


def unknown_dtype(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content.replace(b'"F32"', b'"F99"'))


def to_pickle(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "adapter_model.bin")


def pickle_in_disguise(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"a": 1}) * 50)


def no_rank(folder: Path) -> None:
    content = json.loads((folder / CARD).read_text())
    content["method"]["r"] = 16
    (folder / CARD).write_text(json.dumps(content))


FAULTS: dict[str, tuple[Fault, str]] = {
    "weights cut in the header": (cut(WEIGHTS, 0.01), "truncated or not safetensors"),
    "weights cut in the data": (cut(WEIGHTS, 0.9), "truncated or not safetensors"),
    "weights empty": (cut(WEIGHTS, 0.0), "truncated or not safetensors"),
    "weights huge": (make_huge, f"at most {LARGEST_FILE} are read"),
    "weights of an unknown type": (unknown_dtype, "truncated or not safetensors"),
    "weights missing": (remove_file(WEIGHTS), f"{WEIGHTS} is missing"),
    "weights pickled": (
        to_pickle,
        "adapter_model.bin is pickled.*never loaded.*`adapterkit convert ",
    ),
    "pickle named safetensors": (pickle_in_disguise, "truncated or not safetensors"),
    "tensor renamed": (
        change_tensors(lambda t: t.update({"other": t.pop(QUERY_A)})),
        f"'{QUERY_A}' is missing; .*'other' does not belong here",
    ),
    "tensor mis-shaped": (
        change_tensors(lambda t: t.update({QUERY_A: t[QUERY_A].T.contiguous()})),
        r"has shape \[32, 8\] where \[8, 32\] is expected",
    ),
    "tensor with NaN": (
        change_tensors(lambda t: t[QUERY_A].fill_(float("nan"))),
        f"'{QUERY_A}' holds NaN or infinite",
    ),
    "tensor with infinity": (
        change_tensors(lambda t: t["base_model.model.classifier.bias"].fill_(float("inf"))),
        "classifier.bias' holds NaN or infinite",
    ),
    "tensor of integers": (
        change_tensors(lambda t: t.update({QUERY_A: t[QUERY_A].long()})),
        "holds torch.int64, expected floating point",
    ),
    "config missing": (remove_file(CONFIG), f"{CONFIG} is missing"),
    "config cut": (cut(CONFIG, 0.5), "not readable as JSON"),
    "card cut": (cut(CARD, 0.5), "not readable as JSON"),
    "card a list": (write(CARD, "[]"), "expected a JSON object"),
    "card without method": (
        write(CARD, '{"name": "a", "backbone": {}}'),
        "lacks or garbles 'method'",
    ),
    "card of another rank": (no_rank, r"has shape \[8, 32\] where \[16, 32\] is expected"),
    "card with an unknown setting": (
        change_json(CARD, method={"type": "lora", "rr": 3}),
        "method.rr: there is no such key; did you mean 'r'",
    ),
    "card of an unknown method": (
        change_json(CARD, method={"type": "laura"}),
        "'laura' is not known; did you mean 'lora'",
    ),
    "card with a hostile name": (change_json(CARD, name="../../x"), "is not an adapter name"),
    "files of two methods": (change_json(CONFIG, peft_type="PREFIX_TUNING"), "says PREFIX_TUNING"),
    "other weights": (
        change_json(
            CARD, backbone={"name": "other", "fingerprint": "sha256:0", "lower_case": True}
        ),
        "was trained on 'other'",
    ),
    "other case": (
        lambda f: change_json(
            CARD,
            backbone={**json.loads((f / CARD).read_text())["backbone"], "lower_case": False},
        )(f),
        "lower-casing off",
    ),
    "no card": (remove_file(CARD), "does not say which weights it was trained on"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_damaged_folder_is_refused_and_loaded_adapters_stay(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, fault: str
) -> None:
    good = make_adapter(tiny, name="t/good")
    predictor = Predictor(tiny, [good])
    before = predictor([("t/good", "my card")])
    folder = save_adapter(
        make_adapter(tiny, name="t/good", seed=9), tmp_path / "bad", tiny.geometry
    )
    FAULTS[fault][0](folder)
    with pytest.raises(AdapterError, match=FAULTS[fault][1]) as caught:
        predictor.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert predictor.names == ["t/good"]
    assert predictor([("t/good", "my card")]) == before


def test_all_errors_are_reported_at_once(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_adapter(make_adapter(tiny), tmp_path / "a", tiny.geometry)
    for name in ("tensor renamed", "tensor with infinity", "other weights"):
        FAULTS[name][0](folder)
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, tiny)
    for part in ("is missing", "does not belong here", "holds NaN", "was trained on 'other'"):
        assert part in str(caught.value)


def test_a_backbone_of_another_shape_is_refused(
    tiny: Backbone, minilm: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_adapter(make_adapter(tiny), tmp_path / "a", tiny.geometry)
    with pytest.raises(AdapterError, match=r"has shape \[8, 32\] where \[8, 384\]"):
        load_adapter(folder, minilm, any_backbone=True)


def test_any_backbone_accepts_other_weights_of_the_same_shape(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_adapter(make_adapter(tiny), tmp_path / "a", tiny.geometry)
    FAULTS["other weights"][0](folder)
    with pytest.raises(AdapterError, match=f"{CARD} was changed: .*remove {SUMS} to accept it"):
        load_adapter(folder, tiny, any_backbone=True)
    (folder / SUMS).unlink()
    assert load_adapter(folder, tiny, any_backbone=True).backbone == "other"


def test_a_flipped_bit_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Any bit of the files that are loaded, and of their checksums."""
    folder = save_adapter(make_adapter(tiny), tmp_path / "a", tiny.geometry)
    rng = random.Random(0)
    for name in (WEIGHTS, CARD, CONFIG, SUMS):
        content = (folder / name).read_bytes()
        for _ in range(15):
            changed, place = bytearray(content), rng.randrange(len(content))
            if name == SUMS:  # the lines of the files that people read are checked by `verify`
                first = content.index(b"README.md") + len("README.md") + 1
                place = first + place % (len(content) - first)
            changed[place] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(changed)
            with pytest.raises(AdapterError):
                load_adapter(folder, tiny)
        (folder / name).write_bytes(content)
    load_adapter(folder, tiny)


def test_a_pipe_in_a_folder_is_refused_and_never_opened(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    for name in (WEIGHTS, CARD, CONFIG, SUMS):
        folder = save_adapter(make_adapter(tiny), tmp_path / name, tiny.geometry)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(AdapterError):
            load_adapter(folder, tiny)
        assert checksum_errors(folder) != []


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_a_loaded_adapter_does_not_depend_on_its_file(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, kind: str
) -> None:
    folder = save_adapter(make_adapter(tiny, kind), tmp_path / "a", tiny.geometry)
    predictor = Predictor(tiny)
    predictor.load(folder)
    before = predictor([("acme/intent", "my card")])
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * (folder / WEIGHTS).stat().st_size)
        file.truncate(0)
    assert predictor([("acme/intent", "my card")]) == before


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say it elsewhere")
def test_reading_weights_again_takes_no_more_memory(tmp_path: Path) -> None:
    """As a server does whose memory is smaller than its store, for weeks."""
    save_file({f"{number}": torch.zeros(2) for number in range(500)}, tmp_path / WEIGHTS)
    sizes = []
    for _ in range(3):
        for _ in range(80):
            assert len(read_weights(tmp_path)) == 500
        gc.collect()
        sizes.append(resident_bytes())
    assert sizes[-1] - sizes[0] < 2**21  # 64 bytes of each tensor would be 5 MB


def test_saving_does_not_replace_a_folder(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(AdapterError, match="something is there already; nothing was written"):
        save_adapter(make_adapter(tiny), tmp_path / "there", tiny.geometry)
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_failed_save_leaves_no_files(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AdapterError, match="cannot be written"):
        save_adapter(make_adapter(tiny), tmp_path / "a", tiny.geometry)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_saves_and_loads_itself(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny)
    folder = adapter.save(tmp_path / "a", tiny)
    again = adapterkit.Adapter.load(folder, tiny)
    assert (again.name, again.task) == (adapter.name, adapter.task)
    assert all(torch.equal(again.tensors[name], adapter.tensors[name]) for name in adapter.tensors)
    with pytest.raises(AdapterError, match="something is there already"):
        adapter.save(folder, tiny)
    unknown = replace(adapter, fingerprint=None).save(tmp_path / "b", tiny)
    with pytest.raises(AdapterError, match="does not say which weights"):
        adapterkit.Adapter.load(unknown, tiny)
    assert adapterkit.Adapter.load(unknown, tiny, any_backbone=True).fingerprint is None


def test_the_files_of_a_folder_describe_the_adapter(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny, labels=("neutral", "坏", "好"))
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    card = json.loads((folder / CARD).read_text())
    assert card["task"]["labels"] == ["neutral", "坏", "好"]
    assert card["backbone"]["fingerprint"] == tiny.fingerprint
    config = json.loads((folder / CONFIG).read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    assert config["task_type"] == "FEATURE_EXTRACTION"  # the head reads the mean
    readme = (folder / "README.md").read_text()
    assert "# acme/intent\n" in readme
    assert "`坏`" in readme
    assert tensor_shapes(folder / WEIGHTS)[QUERY_A] == [8, 32]


def test_a_process_killed_at_any_operation_leaves_the_old_or_the_new_version(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """The process is killed at its n-th file operation, for every n."""
    old, new = (make_adapter(tiny, seed=seed) for seed in (1, 2))
    answers = [Predictor(tiny, [a])([("acme/intent", "my card")]) for a in (old, new)]
    outcomes = set()
    for operation in range(1, 200):
        store = Store(tmp_path / str(operation))
        store.publish(old, tiny.geometry)
        finished = _publish_in_killed_child(store, new, tiny, operation)
        predictor = Predictor(tiny)
        predictor.load(Store(store.root).path("acme/intent"))
        answer = predictor([("acme/intent", "my card")])
        assert answer in answers
        outcomes.add(answers.index(answer))
        if finished:
            assert answer == answers[1]
            break
        Store(store.root).publish(new, tiny.geometry)
        predictor.load(Store(store.root).path("acme/intent"))
        assert predictor([("acme/intent", "my card")]) == answers[1]
    assert finished
    assert operation > 15
    assert outcomes == {0, 1}


def _publish_in_killed_child(
    store: Store, adapter: object, backbone: Backbone, operation: int
) -> bool:
    """Publish in a child process that exits at its n-th file operation; True if it finished."""
    child = os.fork()
    if child == 0:
        n_events = [0]

        def count(event: str, _: object) -> None:
            if event.startswith(("open", "os.")):
                n_events[0] += 1
                if n_events[0] == operation:
                    os._exit(9)

        torch.set_num_threads(1)
        sys.addaudithook(count)
        try:
            store.publish(adapter, backbone.geometry)  # type: ignore[arg-type]
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_the_json_of_a_card_has_few_short_lines(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    labels = tuple(f"label number {n}" for n in range(60))
    losses = [[step, 1.0 / (1 + step)] for step in range(200)]
    odd: dict[str, Any] = {"名": 'a "quoted" [1,\n 2] }', "nothing": [], "deep": [[[]], {}, None]}
    adapter = make_adapter(tiny, labels=labels)
    adapter = replace(adapter, training={"losses": losses, "odd": odd})
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    text = (folder / CARD).read_text(encoding="utf-8")
    assert json.loads(text)["training"] == {"losses": losses, "odd": odd}
    assert json.loads(text)["task"]["labels"] == list(labels)
    assert len(text.splitlines()) < 120
    assert max(map(len, text.splitlines())) <= 110
    assert '  "method": {' in text.splitlines()
