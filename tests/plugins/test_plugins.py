"""A package outside of adapterkit adds one thing of each kind, one file each, and works.

The package is what lies beside this file. It is installed without a network, into a folder of its
own, so that no other test sees it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit_example.family import RenamedBert, RenamedBertConfig
from helpers.paths import ROOT

HERE = Path(__file__).parent
PACKAGE = "adapterkit_example"

RECIPE = """
name: t/topic
data: {{path: rows.csv}}
task: {{type: stance, pooling: mean}}
method: {{type: red}}
training: {{epochs: 8, batch_size: 8}}
backbone: {{model: {backbone}, device: cpu}}
"""
CONTRACTS = {
    "methods/test_contract.py": "red-0",
    "tasks/test_contract.py": "stance",
    "metrics/test_contract.py": "cohen_kappa",
    "backbone/test_contract.py": "renamed-bert",
    "training/test_contract.py": "speed",
}
"""The contract test of each kind, and the thing of the package that it must find."""

ROWS = "text,hashtag,label,split\n" + "".join(
    f"{first} {second},#{topic},{label},{split}\n"
    for first in ("my", "the", "a", "please")
    for second, label in (("bank", "for"), ("fee", "for"), ("rain", "against"), ("sun", "against"))
    for topic in ("tea", "card")
    for split in ("train", "validation", "test")
)

ROW = {"text": "my bank", "topic": "#tea"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `PYTHONPATH` that holds what `pip install ./tests/plugins` would write."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(HERE / PACKAGE, folder / PACKAGE)
    info = folder / f"{PACKAGE}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def renamed_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A random model of the package's family, with the tokenizer of the tiny BERT."""
    folder = tmp_path / "backbone"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    vocabulary = (tiny_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    model = RenamedBert(RenamedBertConfig(n_tokens=len(vocabulary)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def environment(site: Path) -> dict[str, str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def run(site: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in the current folder."""
    done = subprocess.run(
        list(map(str, command)),
        env=environment(site),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@contextmanager
def server(site: Path, program: Path, backbone: Path) -> Iterator[str]:
    """The URL of `adapterkit serve`."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    options = ("--port", str(port), "--backbone", backbone, "--device", "cpu")
    process = subprocess.Popen(
        [program, "serve", "adapters", *options],
        env=environment(site),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_one_file_each_trains_evaluates_predicts_and_serves(
    site: Path, programs: Path, renamed_folder: Path, tmp_path: Path
) -> None:
    program = programs / "adapterkit"
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(backbone=renamed_folder))
    (tmp_path / "rows.csv").write_text(ROWS)
    done = run(site, program, "train", "recipe.yaml", "--output", "adapters")
    assert re.search(r"^32 steps in \d+\.\d s$", done.stderr, re.MULTILINE)
    card = json.loads((tmp_path / "adapters/t/topic/1/adapterkit.json").read_text())
    assert card["method"] == {"type": "red", "targets": ["after_ffn"]}
    history = card["training"]["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    kappas = [entry["validation"]["cohen_kappa"] for entry in history]
    assert kappas[card["training"]["epoch"] - 1] == max(kappas) > kappas[0]
    backbone = ("--backbone", renamed_folder)
    done = run(site, program, "evaluate", "t/topic", "rows.csv", *backbone)
    assert re.search(r"^cohen_kappa 0\.[5-9]", done.stdout, re.MULTILINE)
    done = run(site, program, "predict", "t/topic", json.dumps(ROW), *backbone, "--json")
    (answer,) = json.loads(done.stdout)
    assert (answer["adapter"], answer["label"]) == ("t/topic", "for")
    with server(site, program, renamed_folder) as url:
        best, *_ = post(f"{url}/predict", {"adapter_id": "t/topic", "inputs": ROW})
    assert best["label"] == answer["label"]
    assert best["score"] == pytest.approx(answer["score"], abs=1e-5)


@pytest.mark.slow
def test_a_benchmark_measures_its_method(site: Path, programs: Path) -> None:
    options = "--method red --steps 4 --rounds 1 --no-peers --json".split()
    program = programs / "adapterkit"
    rows = json.loads(run(site, program, "bench", "train", *options).stdout)["rows"]
    assert [row["rows_per_second"] > 0 for row in rows if row["method"] == "red"] == [True]


def test_each_contract_test_runs_with_its_thing(site: Path, programs: Path) -> None:
    options = ("-q", "-rA", "-n0", "-p", "no:cacheprovider", "--rootdir", ROOT)
    imported = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    files = [ROOT / "tests" / name for name in CONTRACTS]
    chosen = " or ".join(CONTRACTS.values())
    command = (programs / "python", "-m", "pytest", *options, *imported)
    done = run(site, *command, "-k", chosen, *files)
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    for file, thing in CONTRACTS.items():
        assert sum(file in line and thing in line for line in passed) >= 4, done.stdout[-2000:]
