"""Explanations: words that add up to the score, as a plain loop finds them, for every task."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import adapterkit
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.cli.attribution_text import print_explanations
from adapterkit.errors import AdapterkitError
from adapterkit.inference import pipeline
from adapterkit.inference.attribution import (
    Attribution,
    Explanation,
    Word,
    explain,
    word_attributions,
)
from adapterkit.inference.attribution_html import page
from adapterkit.inference.forward import forward
from adapterkit.methods.base import methods
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Answer, Example, Outputs
from helpers import reference
from helpers.adapters import MakeAdapter
from helpers.checkpoints import save_random_bert
from helpers.command_line import assert_refused, run_command
from helpers.sequences import tokenise
from helpers.task_adapters import random_task_adapter, read_example, request_row
from helpers.vocabulary import WORDS

TEXT = "please, where is my unbelievable card?"
SPECIAL = ("[CLS]", "[SEP]", "@", "#")
UNEXPLAINED = ("embedding", "masked_language_modelling")
EXPLAINED = sorted(kind for kind in tasks() if kind not in UNEXPLAINED)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A tiny backbone that knows the marks around entities and reads words in pieces."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "@", "#", ",", "?", *letters]
    vocabulary += [*dict.fromkeys(w for w in WORDS if len(w) > 1), *(f"##{c}" for c in letters)]
    folder = save_random_bert(tmp_path_factory.mktemp("marked"), vocabulary)
    return Backbone.load(str(folder), device="cpu")


def outputs(backbone: Backbone, adapter: Adapter, example: Example) -> Outputs:
    return Outputs.of(pipeline.compute_outputs(backbone, [(adapter, example)]))


def masked(backbone: Backbone, adapter: Adapter, inputs: TokenSequence) -> TokenSequence:
    tokenizer = backbone.tokenizer
    kept = SPECIAL if adapter.task.type == "relation" else SPECIAL[:2]
    names = tokenizer.convert_ids_to_tokens(list(inputs.input_ids))
    ids = [
        i if n in kept else tokenizer.mask_token_id
        for i, n in zip(inputs.input_ids, names, strict=True)
    ]
    return replace(inputs, input_ids=ids)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def expected_scores(kind: str, answer: Answer, example: Example, outputs: Outputs) -> list[float]:
    """The scores that an answer is based on, from the answer and the raw outputs."""
    means, rows = outputs.means()[0], outputs.rows()[0]
    if kind in ("classification", "relation"):
        return [float(means.max())]
    if kind == "multiple_choice":
        return [float(outputs.logits[answer["index"], 0])]
    if kind == "multi_label":
        best = max(answer["scores"], key=answer["scores"].__getitem__)
        return [logit(answer["scores"][label]) for label in answer["labels"] or [best]]
    if kind == "regression":
        return [answer["score"]]
    if kind == "summarisation":
        return [logit(one["score"]) for one in answer["extract"]]
    if kind == "tagging":
        best = [float(rows[n][line].max()) for n, line in example.notes.first_tokens]
        place = {start: n for n, (start, _) in enumerate(example.notes.spans)}
        ends = {end: n + 1 for n, (_, end) in enumerate(example.notes.spans)}
        own = [best[place[e["start"]] : ends[e["end"]]] for e in answer["entities"]]
        return [sum(part) / len(part) for part in own]
    if not answer["answer"]:
        return [min(float(window[0].sum()) for window in rows)]
    found = []
    for window, spans in zip(rows, example.notes.spans, strict=True):
        starts = [n for n, span in enumerate(spans) if span and span[0] == answer["start"]]
        ends_at = [n for n, span in enumerate(spans) if span and span[1] == answer["end"]]
        found += [float(window[a, 0] + window[b, 1]) for a in starts for b in ends_at]
    return [max(found)]


def check(backbone: Backbone, adapter: Adapter, row: Mapping[str, Any]) -> Explanation:
    """Scores are the answer's, words add up, every word is at its characters."""
    found = explain(backbone, adapter, row)
    example = read_example(backbone, adapter, row)
    output = outputs(backbone, adapter, example)
    assert found.answer == adapter.task.answers(output, [example])[0]
    expected = expected_scores(adapter.task.type, found.answer, example, output)
    assert [a.score for a in found.attributions] == pytest.approx(expected, abs=1e-4)
    blind = replace(example, inputs=tuple(masked(backbone, adapter, i) for i in example.inputs))
    nothing = outputs(backbone, adapter, blind).logits
    scores = adapter.task.scores(output, example)
    for score, attribution in zip(scores, found.attributions, strict=True):
        low = float((score.weights * nothing).sum()) + score.offset
        assert attribution.baseline_score == pytest.approx(low, abs=1e-4)
        parts = [word.attribution for word in attribution.words]
        difference = attribution.score - attribution.baseline_score
        assert abs(difference) > 1e-3
        assert sum(parts) == pytest.approx(difference, abs=0.005 * sum(map(abs, parts)) + 1e-4)
        assert attribution.error == pytest.approx(abs(sum(parts) - difference), abs=1e-4)
        assert len(set(map(abs, parts))) > 1
        for word in attribution.words:
            assert attribution.texts[word.role][word.start : word.end] == word.word
            assert word.word == word.word.strip() != ""
        places = [(word.role, word.start, word.end) for word in attribution.words]
        assert len(set(places)) == len(places)
    return found


def words_in(text: str) -> list[str]:
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]", text)


@pytest.mark.parametrize("kind", EXPLAINED)
def test_words_add_up_to_the_score_of_every_task(
    marked: Backbone, tmp_path: Path, kind: str
) -> None:
    adapter = random_task_adapter(marked, kind, tmp_path)
    row = request_row(adapter)
    found = check(marked, adapter, row)
    assert found.baseline == "[MASK]"
    assert found.attributions
    for attribution in found.attributions:
        for role, text in attribution.texts.items():
            own = [word.word for word in attribution.words if word.role == role]
            assert own == words_in(text)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("classification", {"long_text": "windows", "max_length": 16, "stride": 5}),
        ("classification", {"long_text": "head+tail", "max_length": 16}),
        ("regression", {"long_text": "windows", "max_length": 16, "stride": 5}),
        ("tagging", {"max_length": 16, "stride": 5}),
        ("question_answering", {"max_length": 20, "stride": 6}),
        ("question_answering", {"max_length": 20, "stride": 6, "unanswerable": False}),
    ],
)
def test_windows_of_long_texts_add_up_too(
    marked: Backbone, tmp_path: Path, kind: str, task: dict[str, Any]
) -> None:
    adapter = random_task_adapter(marked, kind, tmp_path, **task)
    row = request_row(adapter, times=5)
    assert len(read_example(marked, adapter, row).inputs) > 1 or "head+tail" in task.values()
    check(marked, adapter, row)


@pytest.mark.parametrize("kind", reference.METHODS)
def test_attributions_are_those_of_a_plain_loop(
    marked: Backbone, make_adapter: MakeAdapter, kind: str
) -> None:
    """A midpoint sum over the written-out float32 BERT, one point and one token at a time."""
    adapter = make_adapter(marked, kind, labels=("no", "yes", "perhaps"))
    (attribution,) = check(marked, adapter, {"text": TEXT}).attributions
    (inputs,) = tokenise(marked, [TEXT], None, 64)
    table = marked.model.get_input_embeddings().weight  # type: ignore[operator]
    high, low = (
        table[list(inputs.input_ids)],
        table[list(masked(marked, adapter, inputs).input_ids)],
    )
    best = int(reference.logits(marked, adapter, inputs).argmax())
    slopes, points = torch.zeros_like(high), 60
    for step in range(points):
        at = (low + (step + 0.5) / points * (high - low)).requires_grad_()
        score = reference.logits(marked, adapter, replace(inputs, inputs_embeds=at))[best]
        slopes += torch.autograd.grad(score, at)[0] / points
    tokens = ((high - low) * slopes).sum(-1).tolist()
    owners = marked.reader.encode([TEXT])[0].word_ids
    sums = [0.0] * (max(word for word in owners if word is not None) + 1)
    for word, value in zip(owners, tokens, strict=True):
        if word is not None:
            sums[word] += value
    assert [word.word for word in attribution.words] == words_in(TEXT)
    ours = [word.attribution for word in attribution.words]
    assert ours == pytest.approx(sums, abs=0.005 * sum(map(abs, sums)))


def test_points_differ_below_the_lowest_edited_layer(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    """All points have the text's ids, so that none may be taken for another (`fanout`)."""
    for kind in ("lora", "bottleneck"):
        check(tiny, make_adapter(tiny, kind, layers=(2,)), {"text": TEXT})
    adapter = make_adapter(tiny, "lora", layers=(2,))
    (inputs,) = tokenise(tiny, [TEXT], None, 64)
    rows = [
        replace(inputs, inputs_embeds=tiny.word_embeddings(inputs.input_ids) * n)
        for n in (1.0, 0.5, 0.0)
    ]
    (together,) = forward(tiny, [(adapter, row) for row in rows])
    alone = torch.cat([forward(tiny, [(adapter, row)])[0].values for row in rows])
    assert together.values.detach() == pytest.approx(alone.detach(), abs=1e-5)


def test_word_embeddings_may_stand_in_place_of_ids(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    rows = tokenise(tiny, ["where is my card", "rain", "the fee is not good at all"], None, 64)
    adapters = [make_adapter(tiny, kind) for kind in sorted(methods())]
    plain = [(adapter, inputs) for adapter in adapters for inputs in rows]
    given = [
        (a, replace(i, inputs_embeds=tiny.word_embeddings(i.input_ids).detach())) for a, i in plain
    ]
    for one, other in zip(forward(tiny, plain), forward(tiny, given), strict=True):
        assert torch.equal(one.values, other.values)
    swapped = [(a, replace(i, input_ids=[0] * len(i))) for a, i in given]
    for one, other in zip(forward(tiny, plain), forward(tiny, swapped), strict=True):
        assert torch.equal(one.values, other.values)


def test_words_add_up_on_every_device(anywhere: Backbone, make_adapter: MakeAdapter) -> None:
    for kind in sorted(methods()):
        check(anywhere, make_adapter(anywhere, kind, seed=1), {"text": TEXT})


def test_chinese_characters_stand_alone_and_offsets_are_the_texts(
    chinese_folder: Path, make_adapter: MakeAdapter
) -> None:
    backbone = Backbone.load(str(chinese_folder), device="cpu")
    text = "我的 iPhone丢了，怎么办？ 😀 Zürich在2024年"  # noqa: RUF001
    found = explain(backbone, make_adapter(backbone, "lora"), text)
    words = found.attributions[0].words
    assert [word.word for word in words] == [
        *"我的", "iPhone", *"丢了，怎么办？😀", "Zürich", "在", "2024", "年",  # noqa: RUF001
    ]  # fmt: skip
    assert all(text[word.start : word.end] == word.word for word in words)


def test_pieces_are_joined_whatever_the_tokenizer_makes_of_them() -> None:
    text = "unlikely 我的卡 don't 😀"
    spans = [(0, 2), (2, 8), (9, 11), (11, 12), (13, 16), (16, 17), (17, 18), (19, 20), (19, 20)]
    found = word_attributions({"a": text}, [("a", *span) for span in spans], [1.0] * len(spans))
    assert [(w.word, w.attribution) for w in found] == [
        ("unlikely", 2), ("我的", 1), ("卡", 1), ("don", 1), ("'", 1), ("t", 1), ("😀", 2),
    ]  # fmt: skip
    two = word_attributions(
        {"b": "ab", "a": "cd"}, [("a", 0, 2), ("b", 0, 2), None], [1.0, 2.0, 9.0]
    )
    assert [(w.role, w.word, w.attribution) for w in two] == [("b", "ab", 2), ("a", "cd", 1)]


def test_marks_around_entities_are_no_words(marked: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(marked, "relation", tmp_path)
    text = "@my#card"
    for head, tail in (((1, 3), (4, 8)), ((4, 8), (1, 3)), ((1, 8), (4, 8))):
        row = {"text": text, "head": head, "tail": tail}
        (attribution,) = explain(marked, adapter, row).attributions
        assert [w.word for w in attribution.words] == ["@", "my", "#", "card"]
        assert all(text[w.start : w.end] == w.word for w in attribution.words)


def test_tags_that_are_no_entities_have_scores_too(marked: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(marked, "tagging", tmp_path)
    adapter = replace(adapter, task=replace(adapter.task, labels=("noun", "verb", "O")))  # type: ignore[type-var]
    found = explain(marked, adapter, "my card is lost")
    tags = found.answer["tags"]
    names = [a.name for a in found.attributions]
    pairs = zip("my card is lost".split(), tags, strict=True)
    assert names == [f"{word} ({tag})" for word, tag in pairs if tag != "O"]
    assert names
    adapter.head["classifier.bias"][2] = 1e3
    assert explain(marked, adapter, "my card is lost").attributions == ()


def test_no_answer_is_scored_as_it_competes(marked: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(marked, "question_answering", tmp_path, null_threshold=-50.0)
    (attribution,) = explain(marked, adapter, request_row(adapter)).attributions
    example = read_example(marked, adapter, request_row(adapter))
    first = outputs(marked, adapter, example).logits[0]
    assert attribution.name == "(no answer)"
    assert attribution.score == pytest.approx(float(first.sum()) + 50.0, abs=1e-4)
    assert sum(word.attribution for word in attribution.words) == pytest.approx(
        attribution.score - attribution.baseline_score, abs=0.02
    )


def test_more_points_are_taken_until_the_words_add_up(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(tiny, "lora")
    (rough,) = explain(tiny, adapter, TEXT, steps=(1, 2), tolerance=0.0).attributions
    (fine,) = explain(tiny, adapter, TEXT, steps=(1, 2, 200)).attributions
    assert rough.steps == 2
    assert fine.error < rough.error
    assert fine.steps in (2, 200)
    assert explain(tiny, adapter, TEXT, steps=(64,), tolerance=9.0).attributions[0].steps == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "bfloat16"}, "dtype: in 'bfloat16' attributions do not add up"),
        ({"quantization": "int8"}, "quantization: 'int8' has no exact gradients"),
    ],
)
def test_only_exact_gradients_explain(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    options: dict[str, Any],
    words: str,
) -> None:
    backbone = Backbone.load(str(tiny_folder), device="cpu", **options)
    with pytest.raises(AdapterkitError, match=re.escape(words)):
        explain(backbone, make_adapter(tiny), TEXT)


def test_what_has_no_score_is_not_explained(
    tiny: Backbone, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    with pytest.raises(AdapterkitError, match="task 'embedding' has no single score"):
        explain(tiny, random_task_adapter(tiny, "embedding", tmp_path), TEXT)
    with pytest.raises(AdapterkitError, match="the plain backbone answers with a vector"):
        explain(tiny, None, TEXT)
    with pytest.raises(AdapterkitError, match="x:3: text is empty"):
        explain(tiny, make_adapter(tiny), " ", name="x:3")


def test_without_captum_one_line_says_what_to_install(
    tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(AdapterkitError, match=re.escape("pip install 'adapterkit[explain]'")):
        explain(tiny, make_adapter(tiny), TEXT)
    assert adapterkit.explain is explain


SHOWN = Explanation(
    "acme/topic",
    {},
    "[MASK]",
    (
        Attribution(
            "<b>good",
            1.5,
            0.25,
            0.001,
            32,
            {"text": "a <i>fine</i>\x1b[31m day & 好", "text_pair": "none"},
            (
                Word("text", "fine", 5, 9, 1.0),
                Word("text", "day", 19, 22, -0.5),
                Word("text", "好", 25, 26, 0.01),
            ),
        ),
    ),
)


def printed(*explanations: Explanation, **variables: str) -> str:
    """What a terminal of 16 million colours is sent, under environment variables."""
    variables = {"TERM": "xterm-256color", "COLORTERM": "truecolor", **variables}
    console = Console(file=io.StringIO(), force_terminal=True, width=20, _environ=variables)
    with console.capture() as capture:
        print_explanations(explanations, console)
    return capture.get()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_words_have_signs_and_numbers(variables: dict[str, str]) -> None:
    plain = printed(SHOWN, **variables)
    assert plain.splitlines() == [
        "acme/topic: <b>good  score +1.500, with every word [MASK] +0.250",
        "  text: a <i>fine(+1.00)</i>\ufffd[31m day(-0.50) & 好",
        "  text_pair: none",
        "",
        "+ speaks for the answer, - against it, in units of the score",
    ]


def test_a_terminal_shows_words_in_colour() -> None:
    colours = printed(SHOWN)
    assert "\x1b[38;2;0;0;0;48;2;38;110;220mfine\x1b[0m" in colours
    assert "\x1b[31m" not in colours
    without_colours = re.sub(r"\x1b\[[\d;]*m", "", colours).splitlines()
    assert without_colours[1] == "  text: a <i>fine</i>\ufffd[31m day & 好"


def test_an_explanation_of_nothing_is_printed() -> None:
    nothing = Explanation("acme/ner", {}, "[MASK]", ())
    assert "acme/ner: nothing was found" in printed(nothing)


class Reader(HTMLParser):
    """Tags and texts of a page, in their order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_is_escaped_and_needs_nothing_else() -> None:
    found = Reader(page([SHOWN, Explanation("acme/ner", {}, "[MASK]", ())]))
    assert found.tags.count("mark") == 3
    assert found.tags.count("article") == 2
    assert {"script", "link", "img"}.isdisjoint(found.tags)
    assert found.tags.count("i") == 2  # the key's; those of the text are text
    assert {name for name, _ in found.attributes}.isdisjoint({"src", "href"})
    text = "".join(found.texts)
    assert "a <i>fine</i>\x1b[31m day & 好" in text
    assert "<b>good" in text
    assert "http" not in page([SHOWN]).replace("http-equiv", "")


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    for name, kind in (("acme/topic", "lora"), ("globex", "prefix")):
        Store(tmp_path / "store").publish(make_adapter(tiny, kind, name), tiny.geometry)
    return tmp_path / "store"


def test_the_command_explains_as_the_library_does(
    store: Path, tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("--adapter", "acme/topic", "--adapter", "globex", "--store", store)
    texts = (TEXT, "<script>我的卡</script>")
    rows = run_command(
        "predict", *names, *texts, "--explain", "--explain-html", "x.html", "--json"
    ).json
    assert [(row["text"], row["adapter"]) for row in rows] == [
        (text, name) for text in texts for name in ("acme/topic", "globex")
    ]
    expected = explain(tiny, make_adapter(tiny, "prefix", "globex"), TEXT).plain()
    explanation = rows[1]["explanation"]
    assert explanation["baseline"] == "[MASK]"
    (ours,), (theirs,) = explanation["scores"], expected["scores"]
    assert ours["name"] == rows[1]["label"] == theirs["name"]
    for one, other in zip(ours["words"], theirs["words"], strict=True):
        assert one == {**other, "attribution": pytest.approx(other["attribution"], abs=1e-4)}
    found = Reader(Path("x.html").read_text(encoding="utf-8"))
    assert found.tags.count("article") == 4
    assert "script" not in found.tags
    result = run_command(
        "predict", "globex", TEXT, "--store", store, "--explain", "--output", "x.jsonl"
    )
    assert result.code == 0
    assert '"explanation": {"baseline": "[MASK]"' in Path("x.jsonl").read_text(encoding="utf-8")


def test_people_see_the_table_and_the_words(store: Path) -> None:
    output = run_command("predict", "globex", TEXT, "--store", store, "--explain").out
    assert output.splitlines()[1].startswith("globex")
    assert re.search(r"\w+\([+-]\d\.\d\d\)", output)
    assert "\x1b" not in output
    quiet = run_command("predict", "globex", TEXT, "--store", store, "--explain-html", "x.html")
    assert "speaks for" not in quiet.out
    assert quiet.err.endswith("1 explanations in x.html\n")


FAULTS = {
    "globex a --explain --dtype bfloat16": "dtype: in 'bfloat16' attributions do not add up",
    "globex a --explain --quantization int8": "quantization: 'int8' has no exact gradients",
    "base a --explain": "text 1: the plain backbone answers with a vector",
    "globex a --explain-html x.txt": "--explain-html x.txt: expected a file ending in .html",
    "globex a --explain-html no/x.html": "no/x.html: there is no folder no",
}


@pytest.mark.parametrize("line", FAULTS)
def test_what_cannot_be_explained_is_one_line(store: Path, line: str) -> None:
    assert_refused(*["predict", *line.split(), "--store", str(store)], words=FAULTS[line])
