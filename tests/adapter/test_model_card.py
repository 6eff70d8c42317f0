"""The report of a folder: figures, tables, intervals, and the card that links to them."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from matplotlib.colors import to_rgb
from PIL import Image

from adapterkit.adapter import confusion_plot, plots
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.confusion_plot import MATRIX, confusions
from adapterkit.adapter.figure import font_families
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.model_card import model_card, report_files
from adapterkit.adapter.store import Store
from adapterkit.atomic import write_folder
from adapterkit.backbone.model import Backbone
from adapterkit.data.requests import parse_text
from adapterkit.errors import AdapterError
from adapterkit.inference.predictor import Predictor
from adapterkit.metrics.base import Predictions
from adapterkit.metrics.per_class import confusion
from adapterkit.tasks.base import tasks
from adapterkit.yaml12 import read_yaml
from helpers.adapters import MakeAdapter
from helpers.paths import ROOT


def random_predictions(n: int = 200, c: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.integers(c, size=n)
    predicted = np.where(rng.random(n) < 0.7, targets, rng.integers(c, size=n))
    return Predictions(predicted, targets, np.eye(c)[predicted])


def with_report(adapter: Adapter, predictions: Predictions) -> Adapter:
    """The adapter with a record of training and evaluation."""
    record = {
        "history": [{"epoch": 1, "step": 3, "validation": {"accuracy": 0.5, "loss": 1.0}}],
        "losses": [(1, 2.0), (3, 1.0)],
        "epoch": 1,
        "intervals": {"test": {"accuracy": [0.25, 0.75]}},
        "report": {"split": "test", **adapter.task.report(predictions)},
    }
    return replace(adapter, training=record, metrics={"test": {"accuracy": 0.5, "loss": 1.0}})


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_every_link_of_the_card_is_a_file_of_the_folder(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = with_report(make_adapter(tiny, labels=("no", "maybe", "yes")), random_predictions())
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((report/[^)]+)\)", readme)
    assert sorted(linked) == sorted(f"report/{file.name}" for file in (folder / "report").iterdir())
    assert len(linked) == 3
    assert "| test | 0.5000 (95%: 0.2500 to 0.7500) | 1.0000 |" in readme
    for name in ("learning_curve", "confusion_matrix"):
        with Image.open(folder / "report" / f"{name}.png") as image:
            assert image.format == "PNG"


def test_a_folder_without_report_loads_and_a_save_restores_it(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = with_report(make_adapter(tiny, labels=("no", "maybe", "yes")), random_predictions())
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    before = {file.name: file.read_bytes() for file in (folder / "report").iterdir()}
    for file in (folder / "report").iterdir():
        file.unlink()
    (folder / "report").rmdir()
    again = save_adapter(load_adapter(folder, tiny), tmp_path / "b", tiny.geometry)
    assert {file.name: file.read_bytes() for file in (again / "report").iterdir()} == before


FIXTURES = ROOT / "tests" / "fixtures" / "version_0_1_0"
REFERENCES = list(json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))["adapters"])
"""Adapters of every task and method."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(FIXTURES / "backbone"))


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_usage_in_a_model_card_runs(
    backbone: Backbone, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's request is answered, and so is the program's, as they stand in the card."""
    store = Store(FIXTURES / "store")
    adapter = load_adapter(store.path(reference), backbone, on_top_of=store.root)
    card = model_card(adapter)
    (words,) = [shlex.split(line) for line in card.splitlines() if "adapterkit predict " in line]
    assert words[:3] == ["adapterkit", "predict", adapter.name]
    predictor = Predictor(backbone, [adapter])
    (answer,) = predictor.predict(adapter.name, [parse_text(words[3])])
    by_names = {(adapter.name,): predictor}
    monkeypatch.setattr(Predictor, "open", lambda names: by_names[tuple(names)])
    printed: list[Any] = []
    program = card.partition("```python\n")[2].partition("```")[0]
    exec(program, {"print": printed.extend})  # it is what the card tells to run
    assert printed == [answer]


def test_a_model_card_begins_with_what_the_hub_reads(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapter = replace(make_adapter(tiny), metrics={"test": {"accuracy": 0.5, "loss": 1.0}})
    expected = {
        "library_name": "adapterkit",
        "tags": ["adapterkit", adapter.method.type],
        "pipeline_tag": "text-classification",
        "metrics": ["accuracy"],
        "widget": [{"text": "a text"}],
    }
    assert read_yaml(model_card(adapter).split("---\n")[1]) == expected
    hub = replace(adapter, backbone="google-bert/bert-base-uncased")
    assert "base_model: google-bert/bert-base-uncased\n---" in model_card(hub)


def test_a_record_without_report_has_a_card(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    old = replace(make_adapter(tiny), metrics={"test": {"accuracy": 0.5}}, training={"epoch": 1})
    assert report_files(old) == {}
    assert "| test | 0.5000 |" in model_card(old)
    assert "95%" not in model_card(old)


def test_per_class_tables_equal_scikit_learn(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    names, predictions = ("no", "never", "yes"), random_predictions(c=2)
    some = Predictions(2 * predictions.predicted, 2 * predictions.references)  # no row has "never"
    adapter = with_report(make_adapter(tiny, labels=names), some)
    rows = rows_of(report_files(adapter)["per_class.csv"])
    expected = sklearn.metrics.precision_recall_fscore_support(
        some.references, some.predicted, labels=[0, 1, 2], zero_division=0
    )
    assert [row["label"] for row in rows] == list(names)
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    for name, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [float(row[name]) for row in rows] == pytest.approx(list(column), abs=1e-6)
    counts = np.zeros((3, 3), dtype=int)
    for target, prediction, count in confusion(some):
        counts[target, prediction] = count
    matrix = sklearn.metrics.confusion_matrix(some.references, some.predicted, labels=[0, 1, 2])
    assert (counts == matrix).all()


def test_per_class_tables_of_the_other_tasks() -> None:
    kinds: Any = tasks()
    two_labels = Predictions(np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]]))
    labels = kinds["multi_label"](labels=("a", "b")).report(two_labels)["per_class"]
    assert [(row["precision"], row["recall"], row["support"]) for row in labels] == [
        (0.5, 1.0, 1),
        (1.0, 0.5, 2),
    ]
    tagging = kinds["tagging"]
    predicted, targets = [["B-A", "O", "X"], []], [["B-A", "B-地", "O"], []]
    entities = tagging(labels=("B-A", "B-地", "O", "X")).report(Predictions(predicted, targets))
    assert [(row["label"], row["f1"], row["support"]) for row in entities["per_class"]] == [
        ("A", 1.0, 1),
        ("地", 0.0, 1),
    ]
    no_entities = tagging(labels=("B-A", "O")).report(Predictions([["O"]], [["O"]]))
    assert no_entities == {"per_class": [], "labels": ["A", "O"], "confusion": [[1, 1, 1]]}
    tags = tagging(labels=("N", "V", "X")).report(Predictions([["N", "N"]], [["N", "V"]]))
    assert [(row["precision"], row["recall"], row["support"]) for row in tags["per_class"]] == [
        (0.5, 1.0, 1),
        (0.0, 0.0, 1),
        (0.0, 0.0, 0),
    ]
    numbers = kinds["regression"]().report(Predictions(np.arange(1200.0), np.ones(1200)))["numbers"]
    assert numbers[:2] == [[1.0, 0.0], [1.0, 3.0]]
    assert len(numbers) == 400
    assert tagging(labels=("B-A", "I-A", "E-A", "O", "X")).report(
        Predictions([["B-A", "I-A", "O"]], [["B-A", "X", "O"]])
    )["confusion"] == [[0, 0, 1], [1, 0, 1], [2, 2, 1]]


@pytest.mark.parametrize(
    "labels",
    [
        ["ham", "spam"],
        ["体育", "财经", "股票"],
        ["$a$", "$", "a\nb_{", "x" * 90],
        ["مرحبا", "日本語", "🙂"],
        [f"label_{n}" for n in range(MATRIX)],
        [f"label_{n}" for n in range(MATRIX + 1)],
    ],
    ids=["two", "chinese", "signs", "scripts", "many", "too many"],
)
def test_labels_of_any_script_are_drawn_without_a_warning(labels: list[str]) -> None:
    predictions = random_predictions(400, len(labels))
    for counts in (confusion(predictions), [[0, 0, 7]]):
        content = confusions("acme/x, test rows", labels, counts)
        with Image.open(io.BytesIO(content)) as image:
            assert min(image.size) > 100
            assert len(content) < 100_000


def test_a_label_without_rows_is_marked(drawn: list[Any]) -> None:
    confusions("acme/x", ["a", "b", "c"], [[0, 1, 3], [2, 2, 5]])
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["3", "5", "no rows"]


def test_digits_have_enough_contrast_on_every_shade(drawn: list[Any]) -> None:
    """At least 4.5, which WCAG asks of small text."""
    counts = [[0, n, 1 + n] for n in range(8)] + [[n, n, 9] for n in range(1, 8)]
    confusions("acme/x", [str(n) for n in range(8)], counts)
    axes = drawn[0].axes[0]
    (image,) = axes.images

    def luminance(color: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    for text in axes.texts:
        predicted, true = map(int, text.get_position())
        shade = luminance(image.cmap(image.norm(image.get_array()[true][predicted])))
        low, high = sorted([shade, luminance(to_rgb(text.get_color()))])
        assert (high + 0.05) / (low + 0.05) > 4.0, text


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ([0.91, 0.92], (0.47, 1.03)),
        ([0.2, 0.9], (-0.03, 1.03)),
        ([-0.2, 0.9], (-1.06, 1.06)),
        ([0.3, 0.3], (-0.03, 1.03)),
        ([2.0, 7.0], (1.5, 7.5)),
        ([-7.0, -7.0], (-7.7, -6.3)),
    ],
)
def test_an_axis_of_scores_does_not_exaggerate(scores: list[float], limits: Any) -> None:
    assert plots._score_range(scores) == pytest.approx(limits)


def test_a_learning_curve_shows_both_losses_and_names_the_kept_epoch(drawn: list[Any]) -> None:
    history: list[dict[str, Any]] = [
        {"epoch": n, "step": 3 * n, "validation": {"loss": 1 / n, "accuracy": 0.9 - n / 100}}
        for n in (1, 2, 3)
    ]
    record = {"history": history, "losses": [(1, 1.0), (9, 0.2)], "epoch": 1}
    plots.learning_curve("acme/x", "accuracy", record)
    above, below = drawn[0].axes
    assert above.figure.get_suptitle() == "acme/x (kept: epoch 1, 0.890)"
    assert [text.get_text() for text in below.get_legend().get_texts()] == [
        "training",
        "validation",
    ]
    assert list(below.get_lines()[1].get_ydata()) == [1.0, 0.5, pytest.approx(1 / 3)]
    del history[0]["validation"]["accuracy"]
    plots.learning_curve("acme/x", "accuracy", record)
    assert drawn[1].axes[0].figure.get_suptitle() == "acme/x (kept: epoch 1)"


def test_numbers_are_drawn_against_the_right_ones(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    report = {"split": "test", "numbers": [[1.0, 1.5], [3.0, 2.5]]}
    adapter = replace(make_adapter(tiny), training={"report": report})
    with Image.open(io.BytesIO(report_files(adapter)["scatter.png"])) as image:
        assert image.format == "PNG"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, in place of their files."""
    found: list[Any] = []
    for module in (confusion_plot, plots):
        monkeypatch.setattr(module, "png", found.append)
    return found


def test_labels_missing_from_every_font_are_numbered(
    drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confusion_plot, "font_families", lambda characters: None)
    confusions("acme/x", ["体育", "财经"], [[0, 1, 3]])
    monkeypatch.setattr(confusion_plot, "font_families", lambda characters: ["DejaVu Sans"])
    confusions("acme/x", ["体育", "财经"], [[0, 1, 3]])
    for figure, names in zip(drawn, (["1", "2"], ["体育", "财经"]), strict=True):
        axes = figure.axes[0]
        assert [text.get_text() for text in axes.get_yticklabels()] == names
        assert [text.get_text() for text in axes.get_xticklabels()] == names
    assert "per_class.csv" in drawn[0].get_suptitle().replace("\n", " ")
    assert font_families("абв") == ["DejaVu Sans"]


def test_a_long_title_stays_inside_its_plot(drawn: list[Any]) -> None:
    confusions("international-insurance/customer-satisfaction-2026, test rows", "ab", [[0, 1, 3]])
    (figure,) = drawn
    figure.draw_without_rendering()
    (title,) = figure.texts
    assert "2026" in title.get_text()
    assert title.get_window_extent().x1 < figure.bbox.x1


def test_a_folder_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    write_folder(folder, {"x": b"1", "report/y": b"2", "report/deep/z": b"3"})
    contents = {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }
    assert contents == {"x": b"1", "report/y": b"2", "report/deep/z": b"3"}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(AdapterError, match="No space left"):
        write_folder(tmp_path / "b", {"report/y": b"2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
