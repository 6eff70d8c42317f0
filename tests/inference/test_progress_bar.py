"""The progress bar: nothing in a pipe, text in a notebook without ipywidgets."""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from adapterkit.errors import TrainingInterruptedError
from adapterkit.inference import progress_bar


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What tqdm sees in a notebook without ipywidgets."""
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    ipython = ModuleType("IPython")
    vars(ipython)["get_ipython"] = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    forget_tqdm(monkeypatch)
    yield
    monkeypatch.undo()
    importlib.reload(progress_bar)


def forget_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tqdm look again at where it runs."""
    for name in ("tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_pipe_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar.progress_bar(True, total=2) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("in_notebook")
def test_a_notebook_without_widgets_draws_text_without_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(progress_bar)
        with progress_bar.progress_bar(True, total=2, unit="row") as bar:
            bar.update(2)
        with progress_bar.progress_bar(False, total=7):
            pass
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "0/7" not in shown


def test_an_interrupted_training_is_one_line_in_a_notebook() -> None:
    """IPython shows what `_render_traceback_` returns in place of a traceback."""
    error = TrainingInterruptedError("Interrupted by SIGINT after 3 of 9 steps", signal.SIGINT)
    assert error._render_traceback_() == ["Interrupted by SIGINT after 3 of 9 steps"]
