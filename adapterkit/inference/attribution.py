"""Explanations: how much each word raises or lowers a score, by integrated gradients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..backbone.tokenizer import TextEncoder
from ..cjk import HAN, KANA
from ..errors import AdapterkitError, BackboneError
from ..tasks.types import Answer, Example, Outputs, Part, Score, Text
from .forward import forward, text_limit
from .pipeline import compute_outputs
from .predictor import Predictor

STEPS = (32, 64, 128, 256, 512)
"""Numbers of points on the path from baseline to text; the next is tried until words add up."""

TOLERANCE = 0.005
"""Largest error of the sum, relative to the sum of the absolute attributions of all tokens."""

MAX_TOKENS = 1024
"""Most tokens in one packed batch of points; gradients keep the states of every layer."""

JOINED = re.compile(rf"[^\W{KANA}{HAN}]{{2}}")
"""Two characters of one word: letters or digits, but not Chinese or Japanese ones."""

Place = tuple[str, int, int]
"""Role, and first and past-the-last character in its text."""


@dataclass(frozen=True)
class Word:
    """The attribution of one word.

    Attributes:
        role: Role of the text that it is in.
        word: The word.
        start, end: First and past-the-last character in that text.
        attribution: How much it raises the score, in units of the score.
    """

    role: str
    word: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Attribution:
    """The attributions of all words for one score of an answer.

    Attributes:
        name: Name of the score, such as a label.
        score: The score of the text, before softmax or sigmoid.
        baseline_score: The score if every word is the baseline token.
        error: Difference between the sum of the words and that of the two scores.
        steps: Points on the path that were computed.
        texts: Role to text.
        words: In the order of the texts, without words that were cut off.
    """

    name: str
    score: float
    baseline_score: float
    error: float
    steps: int
    texts: dict[str, str]
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Explanation:
    """An answer with the attributions of its words.

    Attributes:
        adapter: Its name.
        answer: Its answer.
        baseline: The token that means "no word here".
        attributions: One for each score of the answer; none if it has found nothing.
    """

    adapter: str
    answer: Answer
    baseline: str
    attributions: tuple[Attribution, ...]

    def plain(self) -> dict[str, Any]:
        """Baseline and scores as plain values for JSON."""
        scores = [asdict(attribution) for attribution in self.attributions]
        return {"baseline": self.baseline, "scores": scores}


def explain(
    backbone: Backbone,
    adapter: Adapter | None,
    text: Text,
    *,
    name: str = "text 1",
    steps: Sequence[int] = STEPS,
    tolerance: float = TOLERANCE,
) -> Explanation:
    """Attributes an answer's scores to the words of the text.

    Integrated gradients (Sundararajan et al. 2017) by captum over the word embeddings, through the
    adapter and the same forward as predictions. In the baseline every token of the text is
    `[MASK]`: pretraining has seen it in place of any word, unlike `[PAD]`, which is never attended
    to. Special tokens and marks stay, so the words add up to the score minus the baseline's.

    Args:
        backbone: The backbone, in float32.
        adapter: The adapter; the plain backbone (None) has no score.
        text: The text.
        name: How messages call the text.
        steps: Numbers of points on the path to try, one after the other.
        tolerance: Largest error of the sum, relative to the sum of the absolute attributions of all
            tokens; if it is exceeded, the next number of points is tried.

    Raises:
        AdapterkitError: captum is missing, the text is not sound, or its answer has no score.
        BackboneError: The backbone is not in float32, or quantised.
    """
    captum = _captum()
    if adapter is None:
        raise AdapterkitError(
            f"{name}: the plain backbone answers with a vector, which no single score stands for"
        )
    _check_exact(backbone)
    baseline = _baseline(backbone)
    adapter, task = adapter.to(backbone.device), adapter.task
    row = task.fields(text, name)
    reader = _RecordingEncoder(backbone.tokenizer)
    (example,) = task.examples([row], reader, text_limit(backbone, adapter))
    outputs = Outputs.of(compute_outputs(backbone, [(adapter, example)]))
    (answer,) = task.answers(outputs, [example])
    sources = _sources(example, reader.encodings, task.parts(row))
    attributions = []
    for score in task.scores(outputs, example):
        path = _Path(backbone, adapter, sources, outputs, score, baseline)
        attributions.append(path.attribute(captum, steps, tolerance))
    return Explanation(
        adapter.name, answer, backbone.reader.tokens([baseline])[0], tuple(attributions)
    )


def explain_all(
    predictor: Predictor, requests: Sequence[tuple[str | None, Text]], names: Sequence[str]
) -> list[Explanation]:
    """Explains the answers of a predictor, with a progress bar for several requests.

    Args:
        predictor: The predictor.
        requests: Adapter name and text of each request, as in `Predictor`.
        names: How messages call each text.
    """
    bar = tqdm(requests, unit="explanation", disable=None if len(requests) > 1 else True)
    return [
        explain(predictor.backbone, predictor.find(adapter), text, name=name)
        for (adapter, text), name in zip(bar, names, strict=True)
    ]


class _RecordingEncoder(TextEncoder):
    """An encoder that records its encodings: examples do not hold the positions of tokens."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.encodings: list[Any] = []

    def encode(self, *texts: Any, **options: Any) -> list[Any]:
        found = super().encode(*texts, **options)
        self.encodings += found
        return found


@dataclass(frozen=True)
class _Source:
    """One sequence of a row, with the place of each of its tokens in the texts."""

    inputs: TokenSequence
    parts: tuple[Part, ...]
    places: tuple[Place | None, ...]


def _sources(
    example: Example, encodings: Sequence[Any], parts: Sequence[tuple[Part, ...]]
) -> list[_Source]:
    """The sequences with their places: windows share one encoding, choices have one each."""
    places = [_places(*one) for one in zip(encodings, parts, strict=True)]
    found = []
    for number, inputs in enumerate(example.inputs):
        which = number if len(encodings) > 1 else 0
        kept = inputs.kept or range(len(inputs))
        found.append(_Source(inputs, parts[which], tuple(places[which][index] for index in kept)))
    return found


def _places(encoding: Any, parts: tuple[Part, ...]) -> list[Place | None]:
    """The place of each token of an encoding; None for special tokens and marks."""
    found: list[Place | None] = []
    tokens = zip(encoding.offsets, encoding.sequence_ids, encoding.word_ids, strict=True)
    for (start, end), owner, word in tokens:
        span = parts[owner].at(word, start, end) if owner is not None and start < end else None
        found.append(_stripped(parts[owner], *span) if span else None)
    return found


def _stripped(part: Part, start: int, end: int) -> Place | None:
    """A place without the blanks that some tokenizers include in a token."""
    piece = part.text[start:end]
    start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    return (part.role, start, end) if start < end else None


class _Path:
    """The straight line from the baseline's embeddings to the text's, and one score along it.

    Every point is a row of a packed batch. Sequences that have no part in the score are left out.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        sources: Sequence[_Source],
        outputs: Outputs,
        score: Score,
        baseline: int,
    ) -> None:
        weights = score.weights.split(outputs.counts[0])
        used = [number for number, part in enumerate(weights) if bool(part.any())]
        self._backbone, self._adapter, self._score = backbone, adapter, score
        self._sources = [sources[number] for number in used]
        self._weights = torch.cat([weights[number] for number in used]).to(backbone.device)
        self._places = [place for source in self._sources for place in source.places]
        ids = [token for source in self._sources for token in source.inputs.input_ids]
        masked = [
            token if place is None else baseline
            for token, place in zip(ids, self._places, strict=True)
        ]
        with torch.no_grad():
            self._ends = torch.stack(
                [backbone.word_embeddings(masked), backbone.word_embeddings(ids)]
            )

    def attribute(self, captum: Any, steps: Sequence[int], tolerance: float) -> Attribution:
        """The attributions of the words, with as many points as the tolerance needs."""
        with torch.no_grad():
            low, high = self(self._ends).tolist()
        for count in steps:
            values = self._integrated(captum, count)
            error = abs(float(values.sum()) - (high - low))
            if error <= tolerance * float(values.abs().sum()):
                break
        texts = {part.role: part.text for source in self._sources for part in source.parts}
        words = word_attributions(texts, self._places, values.tolist())
        return Attribution(self._score.name, high, low, error, count, texts, words)

    def _integrated(self, captum: Any, steps: int) -> Tensor:
        """The attribution of every token, `[T]`."""
        low, high = self._ends
        found: Tensor = captum.IntegratedGradients(self).attribute(
            high[None].requires_grad_(),
            baselines=low[None],
            n_steps=steps,
            internal_batch_size=max(1, MAX_TOKENS // (len(high) * self._adapter.n_members)),
        )
        return found[0].detach().double().sum(-1)

    def __call__(self, points: Tensor) -> Tensor:
        """The score at some points, `[n, T, e] -> [n]`."""
        sizes = [len(source.inputs) for source in self._sources]
        rows = [
            (member, replace(source.inputs, inputs_embeds=words))
            for member in self._adapter.members
            for point in points
            for source, words in zip(self._sources, point.split(sizes), strict=True)
        ]
        outputs = [output.values.float() for output in forward(self._backbone, rows)]
        logits = torch.stack(outputs).mean(0).view(len(points), *self._weights.shape)
        return (logits * self._weights).sum((1, 2)) + self._score.offset


def word_attributions(
    texts: dict[str, str], places: Sequence[Place | None], values: Sequence[float]
) -> tuple[Word, ...]:
    """Sums tokens up to words; a word in several windows is one word with the sum of all."""
    sums: dict[Place, float] = {}
    for place, value in zip(places, values, strict=True):
        if place is not None:
            sums[place] = sums.get(place, 0.0) + value
    roles = list(texts)
    words: list[Word] = []
    for role, start, end in sorted(sums, key=lambda place: (roles.index(place[0]), *place[1:])):
        value, text = sums[role, start, end], texts[role]
        if words and words[-1].role == role and _is_same_word(text, words[-1].end, start):
            first = words.pop()
            value, start, end = first.attribution + value, first.start, max(first.end, end)
        words.append(Word(role, text[start:end], start, end, value))
    return tuple(words)


def _is_same_word(text: str, end: int, start: int) -> bool:
    """Whether a token that starts at a character belongs to the word that ends at another."""
    return start < end or (start == end and bool(JOINED.fullmatch(text[end - 1 : end + 1])))


def _check_exact(backbone: Backbone) -> None:
    """Refuses a backbone whose gradients do not belong to its answers.

    Raises:
        BackboneError: It is quantised or not in float32.
    """
    if backbone.quantization != "none":
        raise BackboneError(
            f"quantization: '{backbone.quantization}' has no exact gradients; explain "
            "answers with quantization none and dtype float32"
        )
    if backbone.dtype != torch.float32:
        dtype = str(backbone.dtype).removeprefix("torch.")
        raise BackboneError(
            f"dtype: in '{dtype}' attributions do not add up to the score; explain answers in "
            "float32"
        )


def _baseline(backbone: Backbone) -> int:
    """Id of the token that means "no word": the mask token, or the pad token without one."""
    tokenizer = backbone.tokenizer
    mask = tokenizer.mask_token_id
    return int(tokenizer.pad_token_id if mask is None else mask)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise AdapterkitError(
            "explaining an answer needs captum: pip install 'adapterkit[explain]'"
        ) from None
    return captum.attr
