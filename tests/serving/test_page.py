"""The page at `/`, in a real browser and with a real server."""

from __future__ import annotations

import json
import urllib.error
from typing import TYPE_CHECKING

import pytest

from adapterkit.serving.page import FILE
from helpers.page import EVIL, KEY, MANY, OTHERS, ask, choose, get

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_an_answer_is_shown_with_bars(page: Page, url: str) -> None:
    page.goto(url)
    row = page.locator('#models tr[data-id="acme/intent"]')
    row.wait_for()
    assert "classification · lora · v2" in row.inner_text()
    assert "kB" in row.inner_text()
    ensemble = page.locator('#models tr[data-id="globex/regression"]')
    assert "regression · 2 \u00d7 prefix · v1" in ensemble.inner_text()
    row.click()
    page.fill("#field-main", "my card is lost")
    page.click("#go")
    page.locator(".answer").wait_for()
    body = {"requests": [{"adapter_id": "acme/intent", "inputs": "my card is lost"}]}
    answer = get(f"{url}/predict", "POST", body)[0]
    bars = page.locator(".answer .bar")
    assert bars.locator(".label").all_inner_texts() == list(answer["scores"])
    width = bars.first.locator(".fill").evaluate("node => parseFloat(node.style.width)")
    assert width == pytest.approx(100 * answer["score"], abs=0.01)
    assert page.locator(".verdict").inner_text() == answer["label"]
    assert " ms" in page.locator(".answer footer").inner_text()


def test_texts_and_labels_are_never_markup(page: Page, url: str) -> None:
    choose(page, url, "acme/intent", "acme/names", "base")
    ask(page, f"{EVIL} tea")
    assert EVIL in page.locator('.answer[data-id="acme/intent"] .label').all_inner_texts()
    assert EVIL in page.locator('[data-id="acme/names"] .read').inner_text().replace(f" {EVIL}", "")
    kinds = page.locator('[data-id="acme/names"] .kind').all_inner_texts()
    assert set(kinds) == {EVIL}
    assert page.evaluate("document.title") == "adapterkit"


@pytest.mark.parametrize("text", ["my card", "😀 𠮷 tea\n银行 e\u0301 👩‍👩‍👧 rain"])
def test_entities_are_marked_at_their_code_points(page: Page, url: str, text: str) -> None:
    choose(page, url, "acme/names")
    ask(page, text)
    body = {"requests": [{"adapter_id": "acme/names", "inputs": text}]}
    entities = get(f"{url}/predict", "POST", body)[0]["entities"]
    assert len(entities) >= 2
    shown = page.locator("mark").evaluate_all("all => all.map(one => one.firstChild.data)")
    assert shown == [entity["word"] for entity in entities]
    assert shown == [text[entity["start"] : entity["end"]] for entity in entities]
    assert page.locator(".found th").all_text_contents() == shown
    bare = page.locator(".read").evaluate(
        """node => {
          node.querySelectorAll(".type").forEach((one) => one.remove());
          return node.textContent;
        }"""
    )
    assert bare == text


def test_an_answer_is_marked_in_its_context(page: Page, url: str) -> None:
    context = "😀 my 银行 card 𠮷 is lost in the rain"
    choose(page, url, "acme/answers")
    page.fill('[id="field-text:question"]', "where is the card")
    ask(page, context)
    inputs = {"question": "where is the card", "context": context}
    body = {"requests": [{"adapter_id": "acme/answers", "inputs": inputs}]}
    best = get(f"{url}/predict", "POST", body)[0]["best"]
    assert len(best) == 3
    candidates = page.locator(".candidates button")
    for index, candidate in enumerate(best):
        candidates.nth(index).click()
        assert page.locator("mark").text_content() == candidate["answer"]
        before = page.locator("mark").evaluate("node => node.previousSibling.data")
        assert before == context[: candidate["start"]]


def test_several_adapters_answer_side_by_side(page: Page, url: str) -> None:
    page.goto(url)
    page.locator("#models tr").first.wait_for()
    before = get(f"{url}/v1/activity")
    for name in ("acme/intent", "acme/names", "globex/multi_label", "globex/regression", "base"):
        page.locator(f'#models tr[data-id="{name}"] input').set_checked(True)
    page.locator('#models tr[data-id="acme/answers"] input').set_checked(False)
    assert page.locator("#go").inner_text() == "Ask 5 adapters"
    ask(page, "the bank is slow")
    cards = page.locator(".answer")
    assert cards.evaluate_all("all => all.map(one => one.dataset.id)") == [
        "acme/intent", "acme/names", "globex/multi_label", "globex/regression", "base",
    ]  # fmt: skip
    assert "5 adapters answered one request" in page.locator(".tally").inner_text()
    labels = page.locator('[data-id="globex/multi_label"] .tag').all_inner_texts()
    assert sorted(labels) == ["price", "service"]
    number = float(page.locator('[data-id="globex/regression"] .verdict').inner_text())
    body = {"requests": [{"adapter_id": "globex/regression", "inputs": "the bank is slow"}]}
    answer = get(f"{url}/predict", "POST", body)[0]
    assert number == pytest.approx(answer["score"], abs=1e-3)
    assert "32 numbers" in page.locator('.answer[data-id="base"]').inner_text()
    after = get(f"{url}/v1/activity")
    assert after["requests"] - before["requests"] == 2
    assert after["rows"] - before["rows"] == 6


def test_a_summary_is_marked_in_its_text(page: Page, url: str) -> None:
    text = "😀 The bank is slow. My card is lost! 银行关了。 The rain is bad."
    choose(page, url, "acme/summary")
    ask(page, text)
    body = {"requests": [{"adapter_id": "acme/summary", "inputs": text}]}
    extract = get(f"{url}/predict", "POST", body)[0]["extract"]
    assert len(extract) == 2
    marks = page.locator("mark.sentence").all_text_contents()
    assert marks == [text[span["start"] : span["end"]] for span in extract]


def test_the_similarity_of_two_texts_is_shown(page: Page, url: str) -> None:
    choose(page, url, "acme/vectors")
    ask(page, "my card")
    assert "32 numbers" in page.locator(".answer").inner_text()
    page.locator("button", has_text="Second text").click()
    page.keyboard.type("my card")
    page.keyboard.press("Control+Enter")
    page.locator(".verdict", has_text="1.000").wait_for()


def test_choices_and_spans_have_a_form(page: Page, url: str) -> None:
    choose(page, url, "globex/multiple_choice", "globex/relation")
    ask(page, "😀 the bank wants my card")
    assert page.locator("#fault").inner_text() == "Fill in at least two choices."
    page.fill('[aria-label="Choice 1"]', "rain")
    page.fill('[aria-label="Choice 2"]', "tea")
    page.press('[aria-label="Choice 2"]', "Enter")
    page.keyboard.type("fee")
    page.fill('[id="field-span:head"]', "bank")
    page.fill('[id="field-span:tail"]', "nobody")
    page.keyboard.press("Control+Enter")
    page.locator("#fault", has_text="does not have “nobody”").wait_for()
    page.locator("#field-main").evaluate("node => node.setSelectionRange(21, 25)")
    page.locator("button", has_text="Take selection").nth(1).click()
    with page.expect_request("**/predict") as sent:
        page.keyboard.press("Control+Enter")
    choice, relation = sent.value.post_data_json["requests"]  # type: ignore[index]
    assert choice["inputs"]["choices"] == ["rain", "tea", "fee"]
    assert relation["inputs"]["head"] == {"start": 6, "end": 10}
    assert relation["inputs"]["tail"] == {"start": 20, "end": 24}
    page.locator(".answer").nth(1).wait_for()
    ranked = page.locator('[data-id="globex/multiple_choice"] .label').all_inner_texts()
    assert sorted(ranked) == ["fee", "rain", "tea"]
    marks = page.locator('[data-id="globex/relation"] mark')
    assert marks.evaluate_all("all => all.map(n => n.firstChild.data)") == ["bank", "card"]


def test_a_version_is_chosen(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    versions = page.locator(".chip select")
    versions.locator("option").nth(3).wait_for(state="attached")
    assert versions.locator("option").all_inner_texts() == [
        "latest · 2", "stable · 1", "version 2", "version 1",
    ]  # fmt: skip
    versions.select_option("stable")
    ask(page, "my card")
    assert "v1" in page.locator(".answer header").inner_text()
    assert page.url.endswith("#acme/intent@stable")


def test_a_key_is_requested_and_stored_in_the_tab(page: Page, locked: str) -> None:
    page.goto(locked)
    page.locator("#key-form").wait_for()
    page.locator("#end", has_text="This server asks for an API key.").wait_for()
    page.fill("#key-text", "密钥")
    page.keyboard.press("Enter")
    page.locator("#key-why", has_text="only Latin letters").wait_for()
    page.fill("#key-text", "ak-wrong")
    page.keyboard.press("Enter")
    page.locator("#key-why", has_text="does not know this key").wait_for()
    page.fill("#key-text", KEY)
    page.keyboard.press("Enter")
    page.locator('#models tr[data-id="acme/intent"]').wait_for()
    assert page.locator("#key").is_hidden()
    assert page.locator("#models tr").count() == 6  # base and those of acme
    page.reload()
    page.locator('#models tr[data-id="acme/intent"]').click()
    ask(page, "my card")
    assert page.locator(".answer .bar").count() == 3
    page.click("#curl")
    command = page.locator("#command").inner_text()
    assert "$ADAPTERKIT_KEY" in command
    assert KEY not in command
    page.click("#forget")
    page.locator("#key-form").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_errors_are_sentences(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    page.click("#go")
    page.locator("#fault", has_text="Fill in the text.").wait_for()
    page.evaluate("location.hash = 'acme/nobody'")  # as a link in another text does
    page.locator("#about", has_text="There is no adapter 'acme/nobody'.").wait_for()
    ask(page, "my card")
    page.locator("#fault", has_text="There is no adapter 'acme/nobody'.").wait_for()
    page.route("**/predict", lambda route: route.abort())
    page.keyboard.press("Control+Enter")
    page.locator("#fault", has_text="The server cannot be reached.").wait_for()


def test_many_adapters_are_listed_by_page_and_found_by_name(page: Page, url: str) -> None:
    page.goto(url)
    rows = page.locator("#models tr")
    rows.nth(99).wait_for(state="attached")
    assert page.locator("#count").inner_text() == "the first 100"
    page.locator("#rows").evaluate("node => node.scrollTo(0, node.scrollHeight)")
    page.locator("#count", has_text=f"{MANY + OTHERS} adapters").wait_for()
    assert rows.count() == MANY + OTHERS + 1
    page.keyboard.press("/")
    page.keyboard.type("TASK-12")
    page.locator("#count", has_text="10 adapters").wait_for()
    assert rows.first.get_attribute("data-id") == "many/Task-120"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".chip .name").all_inner_texts() == ["many/Task-121"]


def test_the_curl_command_has_the_same_request(page: Page, url: str) -> None:
    choose(page, url, "acme/intent", "acme/names")
    page.fill("#field-main", "it's\nmy card")
    page.click("#curl")
    command = page.locator("#command").inner_text()
    body = command.partition("-d '")[2].removesuffix("'").replace("'\\''", "'")
    assert [request["inputs"] for request in json.loads(body)["requests"]] == ["it's\nmy card"] * 2
    assert url in command


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_exceeds_the_width_of_the_window(page: Page, url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    choose(page, url, "acme/intent", "acme/names", "acme/answers", "globex/relation", "base")
    page.fill('[id="field-text:question"]', "where")
    for role in ("head", "tail"):
        page.fill(f'[id="field-span:{role}"]', "card")
    ask(page, "card " + "lostcard" * 40)
    assert page.locator(".answer").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_every_control_has_a_name(page: Page, url: str) -> None:
    choose(page, url, "globex/multiple_choice", "globex/relation", "acme/answers")
    nameless = page.locator("input, textarea, select, button").evaluate_all(
        """all => all.filter(one => !one.ariaLabel && !one.textContent.trim()
                                    && !(one.labels && one.labels.length)).map(one => one.id)"""
    )
    assert nameless == []


def test_other_scripts_do_not_run(page: Page, url: str) -> None:
    answer = page.goto(url)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")
    with pytest.raises(Exception, match="TrustedScript"):
        page.evaluate("document.createElement('script').text = 'document.title = 1'")


def test_throughput_is_shown_while_somebody_looks(page: Page, url: str) -> None:
    choose(page, url, "acme/intent")
    ask(page, "my card")
    page.locator("#rows-spark .curve[d*='V']").wait_for(state="attached")
    assert page.locator("#latency").inner_text().endswith("ms")
    page.evaluate(
        """() => {
          Object.defineProperty(document, "visibilityState", { value: "hidden" });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.wait_for_timeout(2500)
    assert requested == []


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = FILE.read_text(encoding="utf-8")
    assert "innerHTML" not in html
    assert ' style="' not in html
    links = [part.split('"')[0] for part in html.split('href="')[1:]]
    assert {link.partition(":")[0] for link in links} == {"data", "./docs"}
    assert 'src="' not in html


def test_activity_names_nobody(locked: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{locked}/v1/activity")
    before = get(f"{locked}/v1/activity", key=KEY)
    rows = [{"adapter_id": "acme/intent", "inputs": "my card"}] * 3
    get(f"{locked}/predict", "POST", {"requests": rows}, KEY)
    after = get(f"{locked}/v1/activity", key=KEY)
    passed = {name: after[name] - before[name] for name in ("requests", "rows", "batches")}
    assert passed == {"requests": 1, "rows": 3, "batches": 1}
    assert after["tokens"] - before["tokens"] == 12
    assert after["uptime"] > before["uptime"]
    assert after["p50"] > 0
    assert after["adapters"] >= 1
    assert after["bytes"] > 0
    assert after["queue_rows"] == after["queue_tokens"] == 0
    assert "acme" not in json.dumps(after)


def test_models_are_found_by_a_part_of_their_name(url: str, locked: str) -> None:
    def names(query: str) -> list[str]:
        return [model["id"] for model in get(f"{url}/v1/models?{query}")["data"]]

    assert names("search=NAMES") == ["acme/names"]
    assert names("search=ba") == ["base"]
    assert names("search=task-00&limit=3") == [f"many/Task-00{n}" for n in range(3)]
    assert names("search=task-00&limit=3&after=many/Task-007") == ["many/Task-008", "many/Task-009"]
    assert names("search=*") == []
    models = get(f"{locked}/v1/models?search=regress", key=KEY)
    assert models["data"] == []


def test_a_model_says_what_it_reads(url: str) -> None:
    about = get(f"{url}/v1/models/acme/answers")
    assert about["reads"] == {"question": "text", "context": "text"}
    assert about["main_metric"] == "f1"
    about = get(f"{url}/v1/models/globex/regression")
    assert about["may_read"] == {"text_pair": "text"}
    assert about["settings"]["center"] == 2.5
    assert get(f"{url}/v1/models?limit=1")["data"][0]["reads"] == {"text": "text"}
