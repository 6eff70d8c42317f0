"""The three answers of an FAQ that fit a question best, by an embedding adapter.

adapterkit train recipes/tasks/faq.yaml
python recipes/scripts/faq_search.py adapters/acme/faq/1 recipes/tasks/faq.csv "What is E4?"

The answers are embedded once; each question is one vector and one product with all of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from adapterkit import Backbone, Predictor
from adapterkit.adapter.card import read_card
from adapterkit.data.dataset import read_rows
from adapterkit.data.readers import read_records
from adapterkit.errors import AdapterkitError

TOP = 3


class Faq:
    """Answers as vectors of length 1, `[n, d]`.

    Args:
        folder: An adapter folder of the task `embedding`.
        answers: The FAQ's answers; one that is there twice counts once.
        backbone: What the adapter was trained on; loaded by the adapter's card where left out.
    """

    def __init__(self, folder: Path, answers: list[str], backbone: Backbone | None = None) -> None:
        self.answers = list(dict.fromkeys(answers))
        name = str(read_card(folder)["backbone"]["name"])
        self.predictor = Predictor(backbone or Backbone.load(name))
        self.adapter = self.predictor.load(folder)
        self.vectors = self.embed(self.answers)

    def embed(self, texts: list[str]) -> torch.Tensor:
        """Vectors of texts, `[n, d]`."""
        answers = self.predictor([(self.adapter, text) for text in texts])
        return torch.tensor([answer["vector"] for answer in answers])

    def search(self, questions: list[str], top: int = TOP) -> list[list[tuple[float, str]]]:
        """For each question its best answers with their cosines, the best first."""
        cosines = self.embed(questions) @ self.vectors.T
        best = cosines.topk(min(top, len(self.answers)))
        return [
            [(score, self.answers[place]) for score, place in zip(scores, places, strict=True)]
            for scores, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="adapter folder, as adapterkit train names it")
    parser.add_argument(
        "faq", type=Path, help="CSV or JSONL file with the answers in its column text_pair"
    )
    parser.add_argument("questions", nargs="+", metavar="question")
    given = parser.parse_args(words)
    try:
        rows = read_rows(read_records(given.faq), {"answer": ("text_pair", "text")}, None)
        faq = Faq(given.adapter, [row.fields["answer"] for _, row in rows])
    except AdapterkitError as error:
        parser.error(str(error))
    for question, found in zip(given.questions, faq.search(given.questions), strict=True):
        sys.stdout.write(f"{question}\n")
        sys.stdout.writelines(f"  {score:.3f}  {answer}\n" for score, answer in found)


if __name__ == "__main__":
    main()
