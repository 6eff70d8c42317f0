"""Where `predict` writes its answers: to a file, to an HTML page and to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ..atomic import check_output
from ..data.requests import RequestRow
from ..inference.attribution import Explanation
from ..inference.attribution_html import SUFFIXES, write_page
from ..inference.pipeline import summarize
from ..inference.predictor import Predictor
from ..tasks.types import Answer
from .answers import FORMATS, answer_row, answers_table, write_answers
from .options import json_text


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

    def write(
        self,
        predictor: Predictor,
        requests: Sequence[RequestRow],
        answers: Sequence[Answer],
        explanations: Sequence[Explanation],
    ) -> None:
        """Writes and prints answers.

        Args:
            predictor: The predictor that gave them.
            requests: The row of each answer.
            answers: The answers.
            explanations: The explanation of each answer; empty if none is needed.
        """
        rows = [answer_row(one.text, answer) for one, answer in zip(requests, answers, strict=True)]
        for row, explanation in zip(rows, explanations, strict=False):
            row["explanation"] = explanation.plain()
        if self.file is not None:
            write_answers(self.file, rows)
            typer.echo(f"{len(rows)} answers in {self.file}", err=True)
        if self.page is not None:
            write_page(self.page, explanations)
            typer.echo(f"{len(rows)} explanations in {self.page}", err=True)
        if self.as_json:
            typer.echo(json_text(rows))
        elif self.file is None:
            pairs = zip(requests, answers, strict=True)
            summaries = [summarize(predictor.find(one.adapter), answer) for one, answer in pairs]
            names = [answer["adapter"] for answer in answers]
            typer.echo(answers_table(names, [one.text for one in requests], summaries))
            if self.explain:
                _print(explanations)


def _print(explanations: Sequence[Explanation]) -> None:
    from rich.console import Console

    from .attribution_text import print_explanations

    typer.echo()
    print_explanations(explanations, Console())
