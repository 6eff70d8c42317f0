"""The scripts of recipes/ that serve run unchanged."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterkit.adapter.folder import save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from helpers.adapters import MakeAdapter
from helpers.paths import ROOT
from helpers.server import serving

SCRIPTS = ROOT / "recipes" / "scripts"

Script = Callable[..., str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Run a script in a subprocess and return its standard output."""

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_an_adapter_is_swapped_while_another_thread_predicts(
    script: Script, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    store, text = Store(tmp_path / "store"), "我的 card"
    old, new = make_adapter(tiny, seed=1), make_adapter(tiny, seed=2)
    store.publish(old, tiny.geometry)
    folder = save_adapter(new, tmp_path / "new", tiny.geometry)
    options = ("--store", store.root, "--backbone", tiny_folder)
    *lines, last = script("hot_swap.py", "acme/intent", folder, text, *options).splitlines()
    answers = [Predictor(tiny, [adapter])([("acme/intent", text)])[0] for adapter in (old, new)]
    first, second = (f"answers {answer}" for answer in answers)
    assert first != second
    assert lines == [f"version 1 {first}", f"version 2 {second}", f"version 1 {first}"]
    assert int(last.split()[0]) > 0
    assert store.find("acme/intent").number == 1
    with pytest.raises(SystemExit, match="Error: there is no adapter 'acme/none'"):
        script("hot_swap.py", "acme/none", folder, text, *options)


def test_a_file_of_many_adapters_is_predicted_locally_and_by_a_server(
    script: Script, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    for seed, name in enumerate(("acme/intent", "globex")):
        labels = ("envío", "银行")
        store.publish(make_adapter(tiny, name=name, labels=labels, seed=seed), tiny.geometry)
    rows = ["acme/intent,where is my card", "globex,我的卡丢了", ",rain", "acme/intent,sun"]
    (tmp_path / "mixed.csv").write_text("adapter,text\n" + "\n".join(rows), encoding="utf-8")

    def answered(*options: str | Path) -> list[tuple[str, str, str | None]]:
        output = script("mixed_file.py", "mixed.csv", "answers.jsonl", *options)
        assert output == "4 answers in answers.jsonl\n"
        lines = Path("answers.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        return [(row["adapter"], row["text"], row.get("label")) for row in found]

    here = answered("--store", store.root, "--backbone", tiny_folder)
    assert [row[:2] for row in here] == [
        ("acme/intent", "where is my card"),
        ("globex", "我的卡丢了"),
        ("base", "rain"),
        ("acme/intent", "sun"),
    ]
    assert {row[2] for row in here} <= {"envío", "银行", None}
    with serving(store.root, tiny_folder) as url:
        assert answered("--url", url) == here
