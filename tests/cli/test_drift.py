"""`adapterkit drift`: files of answers and a server beside the answers of the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterkit.adapter.card import read_card
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.tasks.regression import Regression
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_one_line, run_command
from helpers.server import serving

ROWS = [
    {"text": f"{first} {second}", "label": label, "split": split}
    for first in ("my", "the", "a")
    for second, label in (("card", "bank"), ("account", "bank"), ("rain", "sky"), ("sun", "sky"))
    for split in ("train", "validation", "test")
]


TRAINING = {"epochs": 10, "batch_size": 4, "learning_rate": 0.01}


def trained_record(tiny: Backbone, store: Store, splits: tuple[str, ...]) -> dict[str, object]:
    """The distribution of answers in the card of an adapter, after a short training."""
    data = {} if "validation" in splits else {"validation": 0.0}
    recipe = Recipe.of({"name": "acme/topic", "data": data, "training": TRAINING})
    rows = [row for row in ROWS if row["split"] in splits]
    adapter = train(recipe, tiny, rows=rows, progress=False)
    found: dict[str, object] = read_card(store.publish(adapter, tiny.geometry))["training"][
        "answers"
    ]
    return found


@pytest.fixture(scope="module")
def shelf(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one version for each set of splits."""
    store = Store(tmp_path_factory.mktemp("shelf"))
    for splits, name in (
        (("train",), "train"),
        (("train", "test"), "test"),
        (("train", "validation", "test"), "validation"),
    ):
        record = trained_record(tiny, store, splits)
        assert record["split"] == name
        assert record["rows"] == 12
    return store


def test_output_of_predict_is_compared_with_the_training(
    shelf: Store, tiny_folder: Path, tmp_path: Path
) -> None:
    lines = "".join(
        json.dumps({"text": row["text"], "label": "x", "error": "late"}) + "\n" for row in ROWS
    )
    Path("texts.jsonl").write_text(lines)
    store = ("--store", shelf.root)
    for target in ("answers.csv", "answers.jsonl"):
        words = ("--input", "texts.jsonl", "--output", target, "--backbone", tiny_folder, *store)
        assert run_command("predict", "acme/topic", *words, "--device", "cpu").code == 0
        same = run_command("drift", "acme/topic", "--answers", target, *store, "--json").json
        assert same["observed"]["rows"] == len(ROWS)
        assert same["drift"]["labels"]["js_distance"] == pytest.approx(0, abs=1e-6)
        assert not same["drifted"]
    answers = Path("answers.jsonl").read_text().splitlines()
    sky = [line for line in answers if json.loads(line)["predicted_label"] == "sky"]
    Path("sky.jsonl").write_text("\n".join(sky * 40))
    arguments = ("drift", "acme/topic@3", "--answers", "sky.jsonl", *store)
    against_training = run_command(*arguments)
    assert against_training.code == 1
    assert "drifted" in against_training.out
    assert "beside 12 of validation rows" in against_training.err
    against_file = run_command(*arguments, "--reference", "sky.jsonl", "--json")
    assert against_file.json["drift"]["labels"]["psi"] == pytest.approx(0, abs=1e-9)
    assert_one_line(run_command(*arguments, "--since", "1h"), "column `time` in ISO 8601")
    assert_one_line(run_command(*arguments, "--since", "soon"), "--since soon: expected a time")
    Path("plain.jsonl").write_text('{"text": "sun", "label": "x"}')
    assert_one_line(run_command(*arguments, "--reference", "plain.jsonl"), "plain.jsonl:1")


def test_a_server_is_asked_for_its_counts(shelf: Store, tiny_folder: Path) -> None:
    with serving(shelf.root, tiny_folder) as url:
        words = ("drift", "acme/topic", "--url", url)
        none = run_command(*words)
        assert none.code == 2
        assert none.err.endswith("acme/topic: there are no answers in the last 24h\n")
        assert_one_line(run_command(*words, "--since", "7d"), "a server keeps 24h")
        asked = ("client", "predict", "acme/topic", "the sun", "my card", "--url", url)
        assert run_command(*asked).code == 0
        assert run_command(*words, "--since", "1h", "--json").json["observed"]["rows"] == 2


def test_adapters_whose_answers_cannot_be_compared_are_refused(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    store = Store(tmp_path / "shelf")
    adapter = make_adapter(tiny, "lora", name="acme/old")
    store.publish(adapter, tiny.geometry)
    Path("answers.jsonl").write_text('{"text": "sun", "label": "yes", "score": 0.9}')
    options = ("--answers", "answers.jsonl", "--store", store.root)
    result = run_command("drift", "acme/old", *options)
    assert_one_line(result, "its card has no distribution of answers")
    number = Regression(pooling="mean")
    head = {"classifier.weight": torch.zeros(1, 32), "classifier.bias": torch.zeros(1)}
    store.publish(replace(adapter, name="acme/number", task=number, head=head), tiny.geometry)
    result = run_command("drift", "acme/number", *options)
    assert_one_line(result, "the answers of its task 'regression' are none of them")
