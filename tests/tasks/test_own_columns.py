"""A task of a plug-in with columns of its own, from the recipe to the server."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import CommandResult
from helpers.paths import ROOT
from helpers.vocabulary import WORDS

RECIPE = """
name: acme/stance
data: {{path: rows.jsonl, validation: 0.0, text: post, author: who}}
task: {{type: stance, pooling: mean}}
method: {{type: lora}}
backbone: {{model: {model}, device: cpu}}
training: {{epochs: 6, batch_size: 8, learning_rate: 1.0e-2}}
"""
REQUEST = {"text": "the bank", "topic": "#money"}
COMMANDS = {
    "train": ("train", "recipe.yaml"),
    "keys": ("train", "--keys"),
    "unknown key": ("train", "recipe.yaml", "--set", "data.topik=hashtag"),
    "check": ("data", "check", "recipe.yaml"),
    "unknown column": ("data", "check", "recipe.yaml", "--set", "data.topic=hashtags"),
    "evaluate": ("evaluate", "acme/stance", "rows.jsonl", "--json"),
    "file": ("predict", "acme/stance", "--input", "requests.jsonl"),
    "word": ("predict", "acme/stance", json.dumps(REQUEST)),
    "one text": ("predict", "acme/stance", "a text without a topic"),
    "long topic": ("predict", "acme/stance", json.dumps({"text": "a", "topic": "x" * 41})),
}
PROGRAM = """
import json, sys
from pathlib import Path

import httpx2
from helpers.command_line import run_command
from helpers.server import serving

results = {name: run_command(*words) for name, words in json.loads(sys.argv[1]).items()}
row, path = json.loads(sys.argv[2]), "/v2/models/acme/stance/infer"
with serving(Path("adapters"), sys.argv[3]) as url:
    body = {"requests": [{"adapter_id": "acme/stance", "inputs": row}], "one_line": True}
    results["answer"] = httpx2.post(url + "/predict", json=body).json()[0]
    results["model"] = httpx2.get(url + "/v1/models/acme/stance").json()
    kind = {"shape": [1], "datatype": "BYTES"}
    tensors = [{**kind, "name": name, "data": [text]} for name, text in row.items()]
    results["infer"] = httpx2.post(url + path, json={"inputs": tensors}).json()
    tensors[1]["name"] = "topc"
    results["unknown tensor"] = httpx2.post(url + path, json={"inputs": tensors}).json()
print(json.dumps(results))
"""


def rows(n: int) -> Iterator[dict[str, Any]]:
    generator = random.Random(5)
    for number in range(n):
        is_money = number % 2 == 0
        words = [*generator.choices(WORDS[:8], k=3), "bank" if is_money else "rain"]
        yield {
            "post": " ".join(words),
            "hashtag": "#money",
            "who": "me",
            "label": "for" if is_money else "against",
            "split": "test" if number >= n - 8 else "train",
        }


@pytest.fixture(scope="module")
def results(
    programs: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    """The results of `COMMANDS` and of some requests, in a process with the plug-in installed."""
    folder = tmp_path_factory.mktemp("stance")
    info = folder / "site" / "stance_kit-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stance-kit\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[adapterkit.tasks]\nstance = adapterkit_example.task:Stance\n"
        "[adapterkit.metrics]\nagreement = adapterkit_example.metric:Agreement\n"
    )
    lines = [json.dumps(row) for row in rows(32)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "requests.jsonl").write_text(json.dumps(REQUEST), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_folder), encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    paths = [str(path) for path in (info.parent, ROOT / "tests" / "plugins", ROOT / "tests", ROOT)]
    arguments = [json.dumps(COMMANDS), json.dumps(REQUEST), str(tiny_folder)]
    done = subprocess.run(
        [programs / "python", "program.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout.splitlines()[-1])
    return {k: CommandResult(*v) if k in COMMANDS else v for k, v in values.items()}


def test_its_columns_are_keys_of_a_recipe(results: Mapping[str, Any]) -> None:
    keys = " ".join(results["keys"].out.split())
    assert "topic (hashtag): Column of the topic, such as #vaccines (stance)." in keys
    assert "author (none): Column of who wrote the text (stance)." in keys
    assert "data.topik: there is no such key; did you mean 'topic'?" in results["unknown key"].err


def test_its_rows_are_read_and_checked(results: Mapping[str, Any]) -> None:
    assert results["train"].code == 0, results["train"].err
    assert results["check"].code == 0, results["check"].err
    assert "against" in results["check"].out
    words = "there is no column 'hashtags' for topic; did you mean 'hashtag'?"
    assert words in results["unknown column"].out + results["unknown column"].err


def test_it_is_evaluated_with_the_columns_of_its_recipe(results: Mapping[str, Any]) -> None:
    assert results["evaluate"].json["rows"] == 8
    assert results["evaluate"].json["metrics"]["accuracy"] > 0.7


@pytest.mark.parametrize("source", ["file", "word"])
def test_it_answers(results: Mapping[str, Any], source: str) -> None:
    assert results[source].code == 0, results[source].err
    (line,) = results[source].out.splitlines()[1:]
    assert " is for " in line or " is against " in line
    assert line.endswith("the bank")


def test_requests_are_checked(results: Mapping[str, Any]) -> None:
    assert results["one text"].code == results["long topic"].code == 2
    assert "text 1: expected text and topic, and perhaps author, got" in results["one text"].err
    assert "text 1: topic: expected at most 40 characters, got 41" in results["long topic"].err


def test_it_is_served(results: Mapping[str, Any]) -> None:
    answer, model = results["answer"], results["model"]
    assert answer["one_line"] == {"text": f"is {answer['label']}", "score": answer["score"]}
    assert model["reads"] == {"text": "text", "topic": "topic"}
    assert (model["may_read"], model["document"]) == ({"author": "text"}, "text")
    outputs = {output["name"]: output["data"][0] for output in results["infer"]["outputs"]}
    assert outputs.keys() == {"answer", "label", "score"}
    assert outputs["label"] == answer["label"]
    assert "there is no such role; did you mean 'topic'?" in results["unknown tensor"]["error"]
