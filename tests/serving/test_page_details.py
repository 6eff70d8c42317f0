"""The page at `/`: what it shows of an adapter and an answer, its layout, the prefix of a proxy."""

from __future__ import annotations

import json
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.inference import attribution_html
from adapterkit.inference.page_style import PAGE_STYLE
from adapterkit.serving.page import page as serve_page
from helpers.page import KEY, ask, choose, get, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

PREFIX = "/tools/adapters"
LONG_CONTEXT = "the rain is bad. " * 120 + "my card is lost."
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

BROKEN_WORDS = """() => {
  const broken = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.checkVisibility() || node.parentElement.closest(".unseen")) continue;
    for (const word of node.data.matchAll(/[\\p{Script=Latin}\\p{N}]+/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((line) => Math.round(line.top)));
      if (lines.size > 1) broken.push(word[0]);
    }
  }
  return broken;
}"""
"""The visible Latin words that stand on two lines."""


@pytest.fixture(scope="module")
def proxied(shelf: Path, tiny: Backbone) -> Iterator[str]:
    """A server below a prefix that its proxy removes."""
    with served(shelf, tiny, prefix=PREFIX) as url:
        yield url


def test_old_answers_are_removed_when_another_adapter_is_chosen(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    ask(page, "my card")
    assert page.locator(".answer").count() == 1
    page.locator(".chip select").select_option("stable")
    page.locator(".answer").wait_for(state="detached")
    ask(page, "my card")
    page.locator('#models tr[data-id="acme/names"]').click()
    page.locator(".answer").wait_for(state="detached")
    assert page.locator(".welcome").is_visible()
    assert page.input_value("#field-main") == "my card"


def test_a_late_answer_of_another_adapter_is_not_shown(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    waiting: list[Any] = []
    page.route("**/predict", lambda route: waiting.append(route))
    page.fill("#field-main", "my card")
    with page.expect_request("**/predict"):
        page.click("#go")
    page.locator('#models tr[data-id="acme/names"]').click()
    with page.expect_response("**/predict"):
        waiting[0].continue_()
    page.locator("#go:enabled").wait_for()
    assert page.locator(".answer").count() == 0


def test_activity_does_not_move_the_header(page: Page, url: str) -> None:
    counts: dict[str, Any] = {"adapters": 0, "bytes": 0, "queue_rows": 0, "queue_tokens": 0}
    counts |= {"uptime": 0.0, "rows": 0, "requests": 0, "tokens": 0, "batches": 0, "p50": None}

    def answer(route: Any) -> None:
        counts["uptime"] += 1.0
        route.fulfill(json=counts)

    page.route("**/v1/activity", answer)
    page.goto(url)
    page.locator("#waiting", has_text="0").wait_for()
    places = "all => all.map((one) => JSON.stringify(one.getBoundingClientRect()))"
    before = page.locator(".live > div, .links").evaluate_all(places)
    counts.update(rows=98765, requests=4321, p50=12.34, adapters=987, bytes=654_000_000)
    counts["queue_rows"] = 12_345
    page.locator("#waiting", has_text="12,345").wait_for()
    page.locator("#latency", has_text="12.3 s").wait_for()
    assert page.locator(".live > div, .links").evaluate_all(places) == before


def test_activity_is_drawn_as_steps_up_to_now(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate("pollStop()")
    page.evaluate("sparkline(document.getElementById('rows-spark'), [0, 5])")
    area, curve = page.locator("#rows-spark path").evaluate_all(
        "all => all.map((one) => one.getAttribute('d'))"
    )
    assert curve == "M58,19.00H59V1.00H60"
    assert area == "M58,20V19.00H59V1.00H60V20z"


def test_code_is_monospace(page: Page, url: str) -> None:
    page.goto(url)
    widths = page.evaluate(
        """() => {
          const widthOf = (text) => {
            const name = h("span", { class: "name" }, text);
            document.body.append(name);
            return name.getBoundingClientRect().width;
          };
          return ["iiiiii1111", "MMMMMM0000"].map(widthOf);
        }"""
    )
    assert widths[0] == widths[1] > 0
    fonts = re.findall(r"--mono: ([^;]+);", PAGE_STYLE)[0]
    assert fonts.index("monospace") < fonts.index("CJK")


def test_the_question_stands_above_its_context(page: Page, url: str) -> None:
    choose(page, url, "acme/answers", "acme/intent")
    page.locator('[id="field-text:question"]').wait_for()
    labels = page.locator("#fields label").all_inner_texts()
    assert labels[:2] == ["Question", "Text"]


@pytest.mark.parametrize("size", SIZES)
def test_an_answer_is_in_sight(page: Page, url: str, size: str) -> None:
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    choose(page, url, "acme/answers")
    page.fill('[id="field-text:question"]', "where is the card")
    ask(page, LONG_CONTEXT)
    inside = """node => {
      const { top, bottom } = node.getBoundingClientRect();
      const text = (node.closest(".read") ?? document.documentElement).getBoundingClientRect();
      return top >= Math.max(0, text.top) && bottom <= Math.min(innerHeight, text.bottom);
    }"""
    assert page.locator(".verdict").evaluate(inside)
    for candidate in page.locator(".candidates button").all():
        page.evaluate("node => node.click()", candidate.element_handle())
        mark = page.locator("mark")
        if mark.evaluate("node => node.getClientRects().length") == 1:  # not longer than a line
            assert mark.evaluate(inside)


def test_a_number_stands_on_the_scale_of_the_training_rows(page: Page, url: str) -> None:
    choose(page, url, "globex/regression")
    page.route("**/predict", lambda route: route.fulfill(json=[NUMBER | {"score": 2.0}]))
    ask(page, "the bank is slow")
    assert page.locator(".ends span").all_inner_texts() == ["0", "5"]
    legend = page.locator(".legend").inner_text()
    assert legend == "mean of the training rows 2.5; the training rows have 0 to 5"
    places = page.locator(".knob, .mean").evaluate_all("all => all.map((one) => one.style.left)")
    assert places == ["50%", "40%"]  # mean, answer
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.fulfill(json=[NUMBER | {"score": 7.5}]))
    page.click("#go")
    page.locator(".ends", has_text="7.5").wait_for()


NUMBER = {"adapter_id": "globex/regression", "version": 1, "one_line": {"text": "", "score": None}}


def test_ticks_have_a_legend(page: Page, url: str) -> None:
    choose(page, url, "globex/multi_label")
    ask(page, "the bank is slow")
    assert page.locator(".bar .mark").count() == 2
    assert page.locator(".legend").inner_text().startswith("threshold 0.000000001")
    titles = page.evaluate(
        """() => bars({ a: 0.3, b: 0.8 }, () => true, [0.25, 0.5], ["a", "b"])[0]
          .querySelectorAll(".mark").values().map((one) => one.title).toArray()"""
    )
    assert titles == ["Threshold 0.5", "Threshold 0.25"]


@pytest.mark.parametrize("size", SIZES)
def test_no_word_is_broken(page: Page, url: str, size: str) -> None:
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    name = "international-insurance/customer-satisfaction-questionnaire-2026"

    def rename(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("acme/intent", name))

    page.route("**/v1/models?**", rename)
    page.goto(url)
    page.locator(f'#models tr[data-id="{name}"]').wait_for()
    page.locator('#models tr[data-id="acme/names"]').click()
    page.locator('#models tr[data-id="globex/multi_label"] input').check()
    ask(page, "my card is lost in the rain and the bank is slow " * 3)
    assert page.evaluate(BROKEN_WORDS) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_batch_has_one_time(page: Page, url: str) -> None:
    choose(page, url, "acme/intent", "acme/names")
    ask(page, "my card")
    assert re.search(r"in [0-9.]+ m?s", page.locator(".tally").inner_text())
    assert page.locator(".answer").count() == 2
    assert not re.search(r"\d m?s\b", " ".join(page.locator(".answer").all_inner_texts()))


def test_a_score_has_its_split_and_rows(page: Page, url: str) -> None:
    page.goto(url)
    row = page.locator('#models tr[data-id="acme/intent"]')
    row.wait_for()
    assert row.locator(".number").first.inner_text().split("\n") == [
        "0.967", "accuracy", "60 test rows",
    ]  # fmt: skip
    row.click()
    page.locator("#about", has_text="0.967 accuracy on 60 test rows. Knows close").wait_for()


def test_the_model_card_and_its_plots_are_shown(page: Page, locked: str) -> None:
    page.goto(locked)
    page.fill("#key-text", KEY)
    page.keyboard.press("Enter")
    page.locator('#models tr[data-id="acme/intent"]').click()
    page.click("#papers summary")
    plot = page.locator("#paper img")
    plot.wait_for()
    assert plot.get_attribute("alt") == "scatter"
    assert plot.evaluate("node => node.naturalWidth") > 100
    card = page.locator("#paper pre").inner_text()
    assert card.startswith("# acme/intent")
    assert "adapterkit predict acme/intent" in card
    page.locator('#models tr[data-id="acme/names"]').click()
    assert page.locator("#paper *").count() == 0
    assert page.locator("#papers").get_attribute("open") is None


def test_an_answer_can_be_explained_by_a_command(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    page.fill("#field-main", "it's my card")
    page.click("#explain")
    assert shlex.split(page.locator("#command").inner_text()) == [
        "adapterkit", "predict", "acme/intent", "it's my card",
        "--explain", "--explain-html", "why.html",
    ]  # fmt: skip
    page.locator('#models tr[data-id="base"]').click()
    assert page.locator("#explain").is_hidden()


def test_an_example_fills_every_form(page: Page, url: str) -> None:
    names = ["acme/answers", "acme/names", "globex/multiple_choice", "globex/pairs"]
    choose(page, url, *names, "globex/relation", "acme/summary")
    page.locator('[id="field-text:question"]').wait_for()
    texts = set()
    for _ in range(3):
        page.click("#example")
        texts.add(page.input_value("#field-main"))
        page.click("#go")
        page.locator(".tally", has_text="6 adapters").wait_for()
    assert len(texts) == 3
    page.fill("#field-main", "a text of mine")
    page.click("#example")
    page.locator("#fault", has_text="an example replaces no text of yours").wait_for()
    assert page.input_value("#field-main") == "a text of mine"


def test_fields_are_those_that_an_adapter_was_trained_on(page: Page, url: str) -> None:
    choose(page, url, "globex/pairs")
    page.locator('[id="field-text:text_pair"]').wait_for()
    assert page.locator("#fields label").all_inner_texts() == ["Text", "Second text"]
    page.locator('#models tr[data-id="acme/names"]').click()
    page.locator('[id="field-text:text_pair"]').wait_for(state="detached")
    assert page.locator("#fields button").count() == 0


def test_a_phone_shows_the_chosen_adapter_first(page: Page, url: str) -> None:
    width, height = SIZES["phone"]
    page.set_viewport_size({"width": width, "height": height})
    choose(page, url, "acme/intent")
    tops = page.locator(".chip, .shelf").evaluate_all(
        "all => all.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)"
        ".map((one) => one.className)"
    )
    assert tops == ["chip", "panel shelf"]
    assert page.locator("#go").evaluate("node => node.getBoundingClientRect().bottom") < height
    page.locator("button", has_text="All adapters").click()
    row = page.locator('#models tr[data-id="acme/names"]')
    row.click()
    # Chips are drawn anew until the adapter's card is here, so a single look may find none.
    in_sight = (
        "() => { const box = document.querySelector('.chip[data-id=\"acme/names\"]')"
        "?.getBoundingClientRect(); return box && box.top >= 0 && box.top < innerHeight / 2; }"
    )
    page.wait_for_function(in_sight, timeout=5000)


def test_the_page_lives_below_a_prefix(page: Page, proxied: str) -> None:
    choose(page, proxied, "acme/intent")
    ask(page, "my card")
    assert page.locator(".answer .bar").count() == 3
    page.click("#curl")
    command = page.locator("#command").inner_text()
    assert f"curl -s {proxied}/predict" in command
    page.click("#papers summary")
    page.locator("#paper img").wait_for()
    page.locator("a", has_text="API").click()
    page.locator("h2", has_text="answers").wait_for()
    assert page.url == f"{proxied}/docs"
    page.locator("a", has_text="Page").click()
    page.locator("#models tr").first.wait_for()
    assert page.url.startswith(f"{proxied}/")


def test_redirects_and_the_description_live_below_a_prefix(proxied: str) -> None:
    with urllib.request.urlopen(f"{proxied}/info/?") as response:
        assert response.url == f"{proxied}/info"
    with urllib.request.urlopen(f"{proxied}/v1/models/acme/names/?") as response:
        assert response.url == f"{proxied}/v1/models/acme/names"
    assert get(f"{proxied}/openapi.json")["servers"] == [{"url": "./"}]


def test_all_pages_have_one_style(url: str) -> None:
    with urllib.request.urlopen(f"{url}/docs") as response:
        docs = response.read().decode()
    pages = {"page": bytes(serve_page().body).decode(), "docs": docs}
    pages["explanation"] = attribution_html.page([])
    for name, html in pages.items():
        assert PAGE_STYLE in html, name
        rest = html.replace(PAGE_STYLE, "")
        assert "font-family: system-ui" not in rest
        if name != "page":  # it has more: the colours of tags
            assert not re.search(r"#[0-9a-f]{3,8}\b|rgb\(", rest.partition("</style>")[0]), name


def test_the_card_is_served_to_those_who_may_use_the_adapter(url: str, locked: str) -> None:
    about = get(f"{url}/v1/cards/acme/intent@1")
    assert (about["name"], about["version"], about["files"]) == ("acme/intent", 1, [])
    about = get(f"{url}/v1/cards/acme/intent")
    assert about["version"] == 2
    assert "# acme/intent" in about["card"]
    assert about["files"] == ["scatter.png"]
    with urllib.request.urlopen(f"{url}/v1/cards/acme/intent/report/scatter.png") as response:
        assert response.headers["content-type"] == "image/png"
        assert response.read().startswith(b"\x89PNG")
    for path in ("acme/intent/report/adapterkit.json", "acme/intent/report/..%2Fadapterkit.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/v1/cards/{path}")
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        get(f"{locked}/v1/cards/globex/regression", key=KEY)
    assert "there is no adapter" in json.loads(refused.value.read())["error"]


def test_a_rollout_is_described(page: Page, url: str) -> None:
    with Client(url) as client:
        client.roll_out("acme/intent", "trial", {1: 9, 2: 1})
        client.predict("acme/intent@trial", ["my card", "a bank"])
        choose(page, url, "acme/intent")
        page.locator("#about", has_text="Rollout of trial:").wait_for()
        about = page.locator("#about").inner_text()
        client.alias("acme/intent", "trial", None)
    assert re.search(r"version [12] for (90|10) % \(2 rows in [0-9.]+ ms\)", about), about
    assert re.search(r"version [12] for (90|10) % \(0 rows\)", about), about
