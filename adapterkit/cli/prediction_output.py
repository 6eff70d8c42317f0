"""Where `predict` writes its answers: to a file, to an HTML page and to the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..atomic import check_output
from ..data.requests import RequestRow
from ..inference.attribution import Explanation
from ..inference.attribution_html import SUFFIXES, write_page
from ..inference.progress_bar import progress_bar
from ..prediction.answers import FORMATS, answers_table, json_parts, write_answers
from ..prediction.prediction_rows import OutputColumns, Prediction, PredictionStream

FEW_ROWS = 100
"""Number of rows that are answered without a progress bar."""


@dataclass(frozen=True)
class PredictionOutput:
    """The outputs that a user asked for.

    Attributes:
        file: File for the answers; if None, they are printed as a table.
        page: HTML page for the explanations; none if None.
        explain: Print the explanations below the table.
        as_json: Print the answers as JSON, whether or not they are written to a file.

    Raises:
        DataError: The file or the page cannot be written there.
    """

    file: Path | None
    page: Path | None
    explain: bool
    as_json: bool

    def __post_init__(self) -> None:
        if self.file is not None:
            check_output(self.file, FORMATS, "--output")
        if self.page is not None:
            check_output(self.page, SUFFIXES, "--explain-html")

    @property
    def needs_explanations(self) -> bool:
        """Whether the answers must be explained."""
        return self.explain or self.page is not None

    def progress_bar(self, n_rows: int) -> Any:
        """A progress bar on a terminal, if there is more than a moment's work."""
        is_short = n_rows <= (1 if self.needs_explanations else FEW_ROWS)
        return progress_bar(not is_short, total=n_rows, unit="row")

    def write(self, predictions: PredictionStream, columns: OutputColumns) -> None:
        """Writes and prints predictions.

        They stream to a file alone, or to standard output as JSON alone. For a table, for
        explanations and for both outputs, all of them are in memory.

        Args:
            predictions: The predictions.
            columns: Names of the columns that are written.
        """
        if self.needs_explanations or (self.file is not None) == self.as_json:
            found = list(predictions)
            rows: Iterable[dict[str, Any]] = [columns.row(one) for one in found]
        else:
            found, rows = [], map(columns.row, predictions)
        if self.file is not None:
            write_answers(self.file, rows)
            typer.echo(f"{predictions.n_answers} answers in {self.file}", err=True)
        explanations = [one.explanation for one in found if one.explanation is not None]
        if self.page is not None:
            write_page(self.page, explanations)
            typer.echo(f"{len(explanations)} explanations in {self.page}", err=True)
        if self.as_json:
            for part in json_parts(rows):
                typer.echo(part, nl=False)
        elif self.file is None:
            typer.echo(_table(found))
            if self.explain:
                _print(explanations)


def _table(predictions: Sequence[Prediction]) -> str:
    names, texts, summaries = [], [], []
    for one in predictions:
        names.append((one.row.adapter or "") if isinstance(one.row, RequestRow) else "")
        texts.append(one.row.text if isinstance(one.row, RequestRow) else "")
        summaries.append(one.summary or (f"(error) {one.error}", None))
    return answers_table(names, texts, summaries)


def _print(explanations: Sequence[Explanation]) -> None:
    from rich.console import Console

    from .attribution_text import print_explanations

    typer.echo()
    print_explanations(explanations, Console())
