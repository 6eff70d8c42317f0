"""Texts in the log, with personal numbers and addresses masked, and the entities of an adapter."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError, DataError, OverloadedError
from adapterkit.inference.pipeline import encode_requests
from adapterkit.inference.token_vectors import compute_token_vectors
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.text_log import text_log
from adapterkit.serving.text_log.entity_finder import MASK, EntityFinder
from adapterkit.serving.text_log.recognisers import Recognisers
from adapterkit.serving.text_log.row_texts import LONGEST, MARGIN, RowTexts
from adapterkit.serving.text_log.text_log import MaskedTextLog
from adapterkit.serving.text_log.text_span import TextSpan, mask_text, merge_spans
from adapterkit.tasks.regression import Regression
from adapterkit.tasks.tagging import Tagging
from helpers.adapters import MakeAdapter
from helpers.checkpoints import save_random_bert
from helpers.command_line import assert_one_line, assert_refused, run_command
from helpers.server import serving
from helpers.vocabulary import WORDS

TAGS = {
    "jane": "B-PERSON",
    "doe": "I-PERSON",
    "张": "B-PERSON",
    "三": "I-PERSON",
    "北": "B-PLACE",
    "京": "I-PLACE",
}
"""What the tagging adapter of these tests finds; all other words are outside."""

OTHERS = [*WORDS, *"在丢了卡我的,.@7"]
UNKNOWN = ["mail", "4711", "和"]
"""Words that the backbone has no token for."""


def masked(text: Any) -> Any:
    """A request as the log shows it without an adapter."""
    rows, recognisers = RowTexts([(None, text)]), Recognisers()
    ((_, shown),) = rows.masked([recognisers.find(one) for one in rows.texts])
    return shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to jane.doe+x@mail.example.org, please", "to <EMAIL>, please"),
        ("DE89 3704 0044 0532 0130 00 AND more", "<IBAN> AND more"),
        ("(GB82WEST12345698765432)", "(<IBAN>)"),
        ("4111 1111 1111 1111, 4111111111111111", "<CARD>, <CARD>"),
        ("4111 1111 1111 1112", "<NUMBER>"),
        ("call +49 171 1234567 or 0171/1234567", "call <PHONE> or <NUMBER>"),
        ("3 items, order 12345, 99 euros", "3 items, order 12345, 99 euros"),
        (
            {"text": "a@b.de", "c@d.de": ["x", 5, True]},
            {"text": "<EMAIL>", "<EMAIL>": "x 5 True"},
        ),
        ({"text": "a@b.de", "tokens": ["4111", "1111", "1111", "1111"]}, None),
        ([["a@b.de"], 5], ["<EMAIL>", "5"]),
        ({"tokens": ["card", 4111, "1111", 1111, 1111]}, {"tokens": "card <CARD>"}),
        ("write to o'neil/x!y@example.org or jane@intranet", "write to <EMAIL> or <EMAIL>"),
        (["mail", "jane", "@", "example", ".", "org", ",", "please"], "mail <EMAIL> , please"),
        ("0171 / 12 34 56, 0171_1234567", "<NUMBER>, <NUMBER>"),
        ("GB82-WEST-1234-5698-7654-32", "<IBAN>"),
        ("x" * (LONGEST - 8) + " 4111 1111 1111 1111 and a@b.de" + 300 * " y", None),
        ("y " * LONGEST, "y " * (LONGEST // 2) + "..."),
        ("", ""),
    ],
)
def test_numbers_and_addresses_are_masked(text: Any, expected: Any) -> None:
    shown = masked(text)
    if expected is not None:
        assert shown == expected
    assert "@" not in json.dumps(shown)
    assert "1111" not in json.dumps(shown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111{space}1111{space}1111{space}1111", "<CARD>"),
        ("4111{dash}1111{dash}1111{dash}1111", "<CARD>"),
        ("DE89{space}3704{space}0044{space}0532{space}0130{space}00", "<IBAN>"),
        ("call +49{space}171{dash}1234567", "call <PHONE>"),
        ("0171{space}12{dash}345", "<NUMBER>"),
    ],
)
def test_numbers_are_masked_with_any_spaces_and_dashes(text: str, expected: str) -> None:
    spaces = ("\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}", "\n", "\t")
    dashes = ("\N{EN DASH}", "\N{NON-BREAKING HYPHEN}", "\N{SOFT HYPHEN}")
    for space, dash in product(spaces, dashes):
        assert masked(text.format(space=space, dash=dash)) == expected, (space, dash)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\N{FULLWIDTH DIGIT FOUR}111 1111 1111 111\N{FULLWIDTH DIGIT ONE}", "<CARD>"),
        ("4\N{ZERO WIDTH SPACE}111111111111111", "<CARD>"),
        ("\u0660\u0661\u0667\u0661 \u0661\u0662\u0663\u0664\u0665\u0666\u0667", "<NUMBER>"),
        (
            "请发到 jane\N{FULLWIDTH COMMERCIAL AT}example\N{FULLWIDTH FULL STOP}org。",
            "请发到 <EMAIL>。",
        ),
        ("to jose\N{COMBINING ACUTE ACCENT}@example.org", "to <EMAIL>"),
        ("to josé@exämple.org", "to <EMAIL>"),
        ("संपर्क@डाटामेल.भारत", "<EMAIL>"),
        ("一二三四\uff0c在北京", "一二三四\uff0c在北京"),
        ("🙂 jane@example.org 🙂", "🙂 <EMAIL> 🙂"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_numbers_and_addresses_are_masked_in_any_script(
    text: str, expected: str, form: Literal["NFC", "NFD"]
) -> None:
    assert masked(unicodedata.normalize(form, text)) == expected


def test_many_small_values_are_few_texts() -> None:
    texts = RowTexts([(None, {"text": [1] * 100_000, "question": [[1, 2], 3, "x", {"text": 5}]})])
    assert [len(one) for one in texts.texts] == [LONGEST + MARGIN, 3, 3, 1]
    assert texts.size > sum(map(len, texts.texts))


def test_a_text_is_cut_behind_what_is_masked_at_its_end() -> None:
    text = "x" * (LONGEST - 8) + " 4111 1111 1111 1111 and more"
    assert masked(text) == "x" * (LONGEST - 8) + " <CARD>..."


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 4, "A"), (4, 6, "B")], "<A><B>6789"),
        ([(4, 6, "B"), (0, 5, "A")], "<A>6789"),
        ([(2, 4, "SHORT"), (1, 8, "LONG")], "0<LONG>89"),
        ([(1, 3, "A"), (2, 9, "B"), (8, 10, "C")], "0<B>"),
        ([(1, 3, "FIRST"), (1, 3, "SECOND")], "0<FIRST>3456789"),
        ([], "0123456789"),
    ],
)
def test_spans_that_overlap_are_one(spans: list[tuple[int, int, str]], expected: str) -> None:
    found = [TextSpan(*one) for one in spans]
    assert mask_text("0123456789", found, 10) == expected
    assert merge_spans(merge_spans(found)) == merge_spans(found)


def test_a_server_without_recognisers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = run_command("serve", "--log-texts", "--log-masked-texts")
    assert_one_line(both, "give either --log-texts or --log-masked-texts")
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(AdapterkitError, match=r"pip install 'adapterkit\[mask\]'"):
        Recognisers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that has a token for each word of these tests, and hardly mixes them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*OTHERS, *TAGS])]
    return save_random_bert(
        tmp_path_factory.mktemp("pii"),
        words,
        hidden_size=192,
        num_hidden_layers=1,
        initializer_range=0.02,
    )


def tagger(backbone: Backbone, make_adapter: MakeAdapter) -> Adapter:
    """An adapter that tags words as `TAGS` says, by least squares over the backbone's states."""
    labels = ("O", *dict.fromkeys(TAGS.values()))
    adapter = replace(make_adapter(backbone, "head", name="acme/pii"), task=Tagging(labels=labels))
    rng = random.Random(0)
    words = [*OTHERS, *UNKNOWN, *list(TAGS) * 4]
    lengths = [*range(1, 63), *[61, 62] * 12]  # all positions of a window
    texts = [" ".join(rng.choices(words, k=length)) for length in lengths]
    examples = encode_requests(backbone, [adapter] * len(texts), texts)
    states, targets = [], []
    for example, vectors in zip(
        examples, compute_token_vectors(backbone, [(None, one) for one in examples]), strict=True
    ):
        found = example.notes
        for (start, end), (number, token) in zip(found.spans, found.first_tokens, strict=True):
            states.append(torch.cat([vectors[number][token], torch.ones(1)]))
            targets.append(labels.index(TAGS.get(found.text[start:end], "O")))
    wanted = torch.nn.functional.one_hot(torch.tensor(targets), len(labels)).float()
    solution = torch.linalg.lstsq(torch.stack(states), wanted).solution.T.contiguous()
    weight, bias = solution[:, :-1].clone(), solution[:, -1].clone()
    return replace(adapter, head={"classifier.weight": weight, "classifier.bias": bias})


@pytest.fixture(scope="module")
def pii_store(
    folder: Path, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with the tagging adapter, a classifier, and an adapter of another backbone."""
    backbone = Backbone.load(str(folder), device="cpu")
    store, finder = Store(tmp_path_factory.mktemp("shelf")), tagger(backbone, make_adapter)
    elsewhere = replace(finder, name="acme/lost", fingerprint="sha256:" + "ab" * 32)
    for adapter in (finder, elsewhere, make_adapter(backbone, name="acme/intent")):
        store.publish(adapter, backbone.geometry)
    store.alias("acme/pii", "stable", 1)
    return store.root


REQUESTS: list[tuple[Any, Any]] = [
    ("please wait for Jane Doe", "please wait for <PERSON>"),
    (["my card", "jane doe"], "my card <PERSON>"),
    (
        {"question": "where is 张三", "context": "jane@doe.org 在北京"},
        {"question": "where is <PERSON>", "context": "<EMAIL> 在<PLACE>"},
    ),
    ({"tokens": ["card", "of", "jane", "doe"]}, {"tokens": "card of <PERSON>"}),
    ({"text": " ", "jane": 7}, {"text": " ", "<PERSON>": "7"}),
    ("jane doe, jane.doe@mail.org, 0171/1234567", "<PERSON>, <EMAIL>, <NUMBER>"),
    ("张三在北京丢了卡", "<PERSON>在<PLACE>丢了卡"),
    ("我的卡7张三" * 9, "我的卡7<PERSON>" * 9),
    (
        "rain " * 380 + "jane " + "rain " * 18 + "jane doe rain",
        "rain " * 380 + "<PERSON> " + "rain " * 18 + "<PERSON>...",
    ),
]
"""Inputs, and how the log shows them. The long text is read in windows, and cut in an entity."""


def ask(url: str, *inputs: Any) -> httpx2.Response:
    rows = [{"adapter_id": "acme/intent", "inputs": one} for one in inputs]
    return httpx2.post(f"{url}/predict", json={"requests": rows}, timeout=30)


def facts(caplog: pytest.LogCaptureFixture, message: str) -> list[Any]:
    """The facts of the log records with a message."""
    return [vars(one)["facts"] for one in caplog.records if one.message == message]


def test_the_entities_of_an_adapter_are_masked(
    pii_store: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "adapterkit")
    asked: list[tuple[str, bool]] = []
    before = Engine.ask

    async def watched(engine: Engine, tenant: str, *arguments: Any, **options: Any) -> Any:
        asked.append((tenant, len(arguments) > 2))
        return await before(engine, tenant, *arguments, **options)

    monkeypatch.setattr(Engine, "ask", watched)
    options: dict[str, Any] = {"log_masked_texts": True, "mask_with": "acme/pii@stable"}
    with serving(pii_store, folder, **options) as url:
        assert ask(url, "my card", "where is jane doe").status_code == 200
        ask(url, *(inputs for inputs, _ in REQUESTS))  # not all are for a classifier
    first, second = (record["asked"] for record in facts(caplog, "asked"))
    assert first == [["acme/intent", "my card"], ["acme/intent", "where is <PERSON>"]]
    assert second == [["acme/intent", expected] for _, expected in REQUESTS]
    assert (MASK, False) in asked, "it is charged to nobody"
    assert ("acme", True) in asked


class Failing(EntityFinder):
    """Fails each search, or never ends one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def find(self, texts: Sequence[str]) -> list[list[TextSpan]]:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(3600)
        return []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OverloadedError("too many requests", 1.0), "too many requests"),
        (DataError("'jane doe' is no text"), "DataError"),
        (ValueError("jane doe"), "ValueError"),
        (None, "the server is closing"),
    ],
)
def test_a_text_that_cannot_be_masked_is_not_logged(
    error: Exception | None,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "adapterkit")
    monkeypatch.setattr(text_log, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(text_log, "MAX_WAITING", 10)

    async def write() -> None:
        log = MaskedTextLog(Recognisers(), Failing(error))
        log.write("acme", [(None, "i am jane doe, a text longer than the limit")])
        log.write("acme", [(None, "and i am jane")])
        await log.drain()
        await MaskedTextLog(Recognisers()).drain()

    asyncio.run(write())
    found = facts(caplog, "texts not logged")
    assert [one["reason"] for one in found] == ["too many texts wait to be masked", reason]
    assert all(one["tenant"] == "acme" and one["rows"] == 1 for one in found)
    assert facts(caplog, "asked") == []
    assert "jane" not in str([vars(one) for one in caplog.records])


class Waiting(Recognisers):
    """Recognises nothing, and not before an event."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def find(self, text: str) -> list[TextSpan]:
        assert self.event.wait(60)
        return []


def test_masking_takes_no_thread_from_other_work() -> None:
    async def write() -> str:
        event = threading.Event()
        log = MaskedTextLog(Waiting(event))
        for _ in range(40):
            log.write("acme", [(None, "sun")])
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(asyncio.to_thread(str, "done"), 30)
        finally:
            event.set()
            await log.drain()

    assert asyncio.run(write()) == "done"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme/pij", "--mask-with acme/pij: there is no adapter 'acme/pij'"),
        ("acme/pii@2", "--mask-with acme/pii@2: 'acme/pii' has no version '2'"),
        ("acme/intent", "'acme/intent' is a classification adapter whose answers have no entities"),
        ("acme/lost", "which is not loaded; load it with --backbone"),
    ],
)
def test_an_adapter_that_cannot_mask_is_refused_at_the_start(
    pii_store: Path,
    folder: Path,
    name: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name != "acme/lost":  # nothing is loaded to find out
        monkeypatch.delattr(Backbone, "load_with")
    options = ("--port", "0", "--backbone", folder, "--device", "cpu", "--log-masked-texts")
    assert_refused("serve", pii_store, *options, "--mask-with", name, words=words)


def test_an_adapter_masks_only_a_log_that_is_masked() -> None:
    assert_refused("serve", "--mask-with", "acme/pii", words="acme/pii needs --log-masked-texts")


def test_tags_that_are_no_parts_of_entities_have_no_kinds() -> None:
    some = Tagging(labels=("O", "B-PERSON", "I-PERSON", "S-CITY"))
    assert some.entity_kinds == ("PERSON", "CITY")
    assert Tagging(labels=("NOUN", "VERB")).entity_kinds == ()
    assert Regression().entity_kinds == ()
