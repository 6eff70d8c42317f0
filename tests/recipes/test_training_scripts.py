"""The scripts of recipes/ that train, run on little data."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.card import read_card
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.training.comparison import method_names
from helpers.paths import ROOT

SCRIPTS = ROOT / "recipes" / "scripts"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows of two labels, each with words of its own, in three splits."""
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for word, label in (("card", "bank"), ("rain", "sky"), ("money", "bank"), ("sun", "sky")):
            for place, split in enumerate(("train", "train", "train", "validation", "test")):
                writer.writerow([f"{'my the a please i'.split()[place]} {word}", label, split])
    return path


def run(script: str, *words: Any) -> None:
    runpy.run_path(str(SCRIPTS / script))["main"]([str(word) for word in words])


def test_train_in_code_from_its_own_rows(
    tiny: Backbone, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "topic"
    run("train_in_code.py", folder, "--backbone", tiny_folder, "--epochs", 2)
    card = read_card(folder)
    assert card["training"]["rows"] == {"train": 6}
    assert card["task"]["labels"] == ["card", "transfer"]
    lines = capsys.readouterr().out.splitlines()
    predictor = Predictor(tiny)
    name = predictor.load(folder)
    for line, text in zip(lines[-2:], ("where is my card", "my money did not arrive"), strict=True):
        (answer,) = predictor([(name, text)])
        assert line == f"{text}: {answer['label']} ({answer['score']:.2f})"
    with pytest.raises(SystemExit):
        run("train_in_code.py", folder, "--backbone", tiny_folder, "--epochs", 1)
    assert "something is there already" in capsys.readouterr().err


def test_train_in_code_from_a_csv(
    tiny_folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "train_in_code.py",
        tmp_path / "out",
        "--csv",
        rows,
        "--backbone",
        tiny_folder,
        "--epochs",
        1,
    )
    assert read_card(tmp_path / "out")["task"]["labels"] == ["bank", "sky"]
    assert "'test'" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("train_in_code.py", tmp_path / "x", "--csv", "no.csv", "--backbone", tiny_folder)
    assert "no.csv: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_compare_methods_prints_a_line_for_each(
    tiny_folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "methods.png"
    run("compare_methods.py", rows, "--backbone", tiny_folder, "--epochs", 1, "--plot", plot)
    header, *lines, last = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["method", "validation", "accuracy"]
    assert sorted(line.split()[0] for line in lines) == sorted(method_names())
    assert all(0.0 <= float(one) <= 1.0 for line in lines for one in line.split()[1:3])
    assert last == "accuracy of the test rows (12 train, 4 validation, 4 test)"
    assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        run("compare_methods.py", rows, "--label", "topic", "--backbone", tiny_folder)
    assert "there is no column 'topic'" in capsys.readouterr().err
