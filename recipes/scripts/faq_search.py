"""Find the three answers of an FAQ that fit a question best, with an embedding adapter.

    adapterkit train recipes/tasks/faq.yaml
    python faq_search.py adapters/acme/faq/1 recipes/tasks/faq.csv "What is E4?"

The answers are embedded once. Each question then costs one forward pass and one matrix product.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from adapterkit import AdapterkitError, Backbone, Predictor, read_card, read_records

COLUMN = "text_pair"
TOP = 3


class Faq:
    """The answers of an FAQ as vectors of length 1, `[n, d]`.

    Args:
        folder: Adapter folder of the task `embedding`.
        answers: The answers; duplicates are dropped.
        backbone: The backbone; if omitted, the one that the adapter was trained on is loaded.
    """

    def __init__(self, folder: Path, answers: list[str], backbone: Backbone | None = None) -> None:
        self.answers = list(dict.fromkeys(answers))
        model = str(read_card(folder)["backbone"]["name"])
        self.predictor = Predictor(backbone or Backbone.load(model))
        self.adapter = self.predictor.load(folder)
        self.vectors = self.embed(self.answers)

    def embed(self, texts: list[str]) -> torch.Tensor:
        """Vectors of texts, `[n, d]`."""
        answers = self.predictor([(self.adapter, text) for text in texts])
        return torch.tensor([answer["vector"] for answer in answers])

    def search(self, questions: list[str], top: int = TOP) -> list[list[tuple[float, str]]]:
        """The best answers to each question with their cosine similarity, best first."""
        cosines = self.embed(questions) @ self.vectors.T
        best = cosines.topk(min(top, len(self.answers)))
        return [
            [(score, self.answers[index]) for score, index in zip(scores, indices, strict=True)]
            for scores, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def read_answers(file: Path) -> list[str]:
    """The answers in a CSV or JSONL file.

    Raises:
        AdapterkitError: The file cannot be read, or a row has no answer.
    """
    answers = []
    for where, record in read_records(file):
        if not record.get(COLUMN):
            raise AdapterkitError(f"{where}: there is no answer in column '{COLUMN}'")
        answers.append(str(record[COLUMN]))
    return answers


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="adapter folder that adapterkit train wrote")
    parser.add_argument(
        "faq", type=Path, help=f"CSV or JSONL file with the answers in column {COLUMN}"
    )
    parser.add_argument("questions", nargs="+", metavar="question")
    options = parser.parse_args(arguments)
    try:
        faq = Faq(options.adapter, read_answers(options.faq))
        found = faq.search(options.questions)
    except AdapterkitError as error:
        parser.error(str(error))
    for question, answers in zip(options.questions, found, strict=True):
        print(question)
        for score, answer in answers:
            print(f"  {score:.3f}  {answer}")


if __name__ == "__main__":
    main()
