"""The page at /: its files hold together and need no network; a real browser, where there is one, uses all of it."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import Any

import httpx
import numpy as np
import pytest
from servers import ScriptedLoop, served

import offload
from offload.server.page import FILES
from offload.serving.heat import MOST_ROWS, MOST_STEPS, ExpertHeat

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
THOUGHTS = "\n<think>It is a function.</think>\nHere it is."


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.named: list[str] = []  # ids that attributes refer to
        self.files: list[str] = []
        self.controls: list[str] = []  # ids of fields, which need labels
        self.inline = 0  # what the content security policy would stop
        self.feed((FILES / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.ids += [attributes["id"]] if "id" in attributes else []
        for name in ("for", "aria-labelledby", "aria-describedby"):
            self.named += attributes.get(name, "").split()
        self.files += [attributes[name] for name in ("src", "href") if name in attributes]
        self.controls += [attributes["id"]] if tag in ("input", "select", "textarea") else []
        self.inline += "style" in attributes or any(name.startswith("on") for name in attributes)
        self.inline += tag == "style" or (tag == "script" and "src" not in attributes)


def scripts() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in FILES.glob("*.js")}


def test_ids_are_unique_and_all_that_is_named_exists() -> None:
    page = Page()
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.named) <= set(page.ids)
    assert set(page.controls) <= set(page.named)
    assert page.inline == 0
    for name, text in scripts().items():
        wanted = re.findall(r'(?:getElementById|field|show)\(\s*"([a-z-]+)"', text)
        assert set(wanted) <= set(page.ids), name


def test_every_file_is_there_and_none_comes_from_elsewhere() -> None:
    page, names = Page(), {path.name for path in FILES.iterdir()}
    files = {name.removeprefix("/page/") for name in page.files if not name.startswith("#")}
    for text in scripts().values():
        files |= {name.removeprefix("./") for name in re.findall(r'from "([^"]+)"', text)}
    assert files | {"index.html", "docs.css"} == names
    for path in FILES.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"https?:|[\"'(]//|@import|innerHTML|eval\(", text), path.name


def test_heat_counts_steps_that_used_an_expert() -> None:
    rng, heat = np.random.default_rng(0), ExpertHeat(12)
    assert heat.steps_using()[0] == 0
    steps = [[rng.integers(0, 12, (rows, 3), np.int32) for _ in range(4)] for rows in rng.integers(1, 80, 100)]
    for step in steps:
        heat.observe(step)
    num_steps, uses_LE = heat.steps_using()
    assert num_steps == MOST_STEPS
    for layer in range(4):
        for expert in range(12):
            naive = sum((step[layer][-MOST_ROWS:] == expert).any() for step in steps[-MOST_STEPS:])
            assert uses_LE[layer, expert] == naive
    assert max(len(ids_TK) for step in heat._steps for ids_TK in step) == MOST_ROWS
    assert all(ids_TK.base is None for step in heat._steps for ids_TK in step)  # no large array is kept alive


@pytest.fixture(scope="module")
def address(slotted: offload.LanguageModel) -> Iterator[str]:
    loop = slotted.serve(max_waiting=8)
    with served(loop, model_name="tiny") as address:
        yield address
    loop.close()


def test_the_page_is_served(address: str) -> None:
    for name in ("", *(f"page/{path.name}" for path in FILES.iterdir())):
        answer = httpx.get(f"{address}/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert httpx.get(f"{address}/page/none.js").status_code == 404
    assert httpx.get(f"{address}/page/../app.py").status_code == 404


def test_experts_of_the_last_steps(address: str, slotted: offload.LanguageModel) -> None:
    httpx.post(f"{address}/v1/completions", json={"prompt": "a", "max_tokens": 8}).raise_for_status()
    found = httpx.get(f"{address}/experts").json()
    uses = np.frombuffer(base64.b64decode(found["uses"]), np.uint8).reshape(found["layers"], found["experts"])
    assert found["experts"] == slotted.config.num_experts
    assert 1 <= found["steps"] <= MOST_STEPS
    assert (uses.sum(1) >= found["steps"] * slotted.config.num_used_experts).all()
    assert uses.max() <= found["steps"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("needs Chromium and the playwright package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh tab. Errors of the page's scripts fail the test."""
    page, errors = browser.new_page(color_scheme="light"), list[str]()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
    yield page
    page.close()
    assert not errors


def ask(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_idle(page: Any) -> None:
    page.wait_for_selector("#send:not([disabled])", timeout=60_000)


def bodies(page: Any) -> list[dict[str, Any]]:
    """Requests for answers, as they are sent."""
    sent: list[dict[str, Any]] = []
    page.on("request", lambda r: sent.append(json.loads(r.post_data)) if "completions" in r.url else None)
    return sent


def test_a_conversation_with_drafts(page: Any, address: str) -> None:
    sent = bodies(page)
    page.goto(address)
    page.wait_for_function("() => document.getElementById('model').textContent.includes('tiny')")
    page.fill("#max-tokens", "60")
    page.fill("#temperature", "0")
    page.select_option("#drafting", "3")
    ask(page, "Tell me a long story")
    wait_idle(page)
    answer = page.inner_text("article.assistant .text")
    assert answer
    assert page.locator("article.assistant .drafted").count() > 3
    assert page.inner_text("article.assistant .note").startswith("Cut off")
    assert float(page.inner_text("#speed")) > 0
    assert re.fullmatch(r"\d+ of \d+", page.inner_text("#accepted"))
    assert page.locator("#positions meter").count() == 3
    assert page.inner_text("#tokens") == "60"
    page.wait_for_function("() => document.getElementById('heat-summary').textContent.startsWith('Last ')")
    page.focus("#heat")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#heat-place").startswith("MoE layer 0, expert 1: ")
    page.select_option("#drafting", "off")
    ask(page, "and then?")
    page.wait_for_function("() => document.querySelectorAll('article.assistant[aria-busy=false]').length == 2")
    wait_idle(page)
    assert page.locator("article.assistant").nth(1).locator(".drafted").count() == 0
    assert sent[0]["speculative"] == {"type": "auto", "max_tokens": 3}
    assert sent[1]["speculative"] == {"type": "off"}
    assert [m["role"] for m in sent[1]["messages"]] == ["user", "assistant", "user"]
    assert sent[1]["messages"][1]["content"] == answer
    page.reload()
    assert page.input_value("#drafting") == "off"
    assert page.input_value("#max-tokens") == "60"
    page.click("#new-chat")
    assert page.locator("article").count() == 0


def test_stop_by_button_and_by_key(page: Any, address: str) -> None:
    page.goto(address)
    page.fill("#max-tokens", "3000")
    page.fill("#temperature", "0")  # this one never comes to an end
    for stop in (lambda: page.click("#stop"), lambda: page.keyboard.press("Escape")):
        page.click("#new-chat")
        ask(page, "Tell me a long story")
        page.wait_for_function("() => document.querySelector('article:last-child .text').textContent.length > 20")
        stop()
        wait_idle(page)
        assert page.locator("article:last-child .note").inner_text() == "Stopped."
    deadline = 50
    while any(slot["state"] != "free" for slot in httpx.get(f"{address}/slots").json()):
        page.wait_for_timeout(100)
        deadline -= 1
        assert deadline, "the server went on"


def test_reasoning_is_folded(page: Any, tiny: offload.LanguageModel) -> None:
    with served(ScriptedLoop(tiny, [THOUGHTS])) as address:
        page.goto(address)
        assert page.is_checked("#thinking")
        ask(page, "hello")
        wait_idle(page)
        fold = page.locator("article.assistant details.reasoning")
        assert fold.get_attribute("open") is None
        assert page.locator("article.assistant > .text").inner_text() == "Here it is."
        fold.locator("summary").focus()
        page.keyboard.press("Enter")
        assert fold.locator(".text").inner_text() == "It is a function."


def test_a_failed_request_is_shown_and_can_be_tried_again(page: Any, address: str) -> None:
    sent = bodies(page)
    page.goto(address)
    page.fill("#max-tokens", "-5")
    ask(page, "hello")
    alert = page.wait_for_selector("article.assistant [role=alert]")
    assert "max_tokens" in alert.inner_text()
    page.fill("#max-tokens", "5")
    page.click("text=Try again")
    page.wait_for_selector("article.assistant[aria-busy=false] .note")
    wait_idle(page)
    assert page.locator("[role=alert]").count() == 0
    assert sent[0]["messages"] == sent[1]["messages"] == [{"role": "user", "content": "hello"}]
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "are you there?")
    assert "cannot be reached" in page.wait_for_selector("[role=alert]").inner_text()
    page.unroute("**/v1/chat/completions")
    half = 'data: {"choices":[{"index":0,"delta":{"content":"so far"},"finish_reason":null}]}\n\n'
    page.route("**/v1/chat/completions", lambda r: r.fulfill(content_type="text/event-stream", body=half))
    page.click("text=Try again")
    page.wait_for_function("() => document.querySelector('[role=alert]')?.textContent.includes('before the answer')")
    assert "so far" in page.locator("article:last-child").inner_text()


def test_an_api_key_is_sent(page: Any, tiny: offload.LanguageModel) -> None:
    with served(ScriptedLoop(tiny, ["yes"]), api_keys=("secret",)) as address:
        page.goto(address)
        page.wait_for_function("() => document.getElementById('model').textContent.includes('API key')")
        page.fill("#api-key", "secret")
        page.press("#api-key", "Enter")
        page.wait_for_function("() => document.getElementById('model').textContent.includes('context')")
        ask(page, "hello")
        wait_idle(page)
        assert page.inner_text("article.assistant .text") == "yes"


def test_light_and_dark(page: Any, address: str) -> None:
    page.goto(address)

    def ground() -> int:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert ground() > 600
    page.emulate_media(color_scheme="dark")
    assert ground() < 200
    page.click("#theme")  # light, whatever the system has
    assert ground() > 600
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    assert ground() < 200
    page.reload()
    assert ground() < 200
