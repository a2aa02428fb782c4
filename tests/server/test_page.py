"""The page at / in a browser, and what the server gives to whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forerun.server.server_settings import ServerSettings
from tests.server.harness import MODEL, PacedExecutor, Running, running, wait_for
from tests.server.scripted import saying
from tests.support.chromium import Browser, chromium

HTML = {"Accept": "text/html"}
ASK = "document.getElementById('question').value = '{}'; document.getElementById('question').focus()"
LAST = "document.querySelector('.assistant:last-child')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def ask(browser: Browser, text: str = "hello") -> None:
    browser.run(ASK.format(text))
    browser.key("Enter", "\r")


def opened(browser: Browser, url: str) -> None:
    browser.open("about:blank")  # the last test's page asks its server no more
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(url)


def test_the_page_and_its_files(server: Running) -> None:
    page = server.client.get("/", headers=HTML)
    assert page.headers["content-type"].startswith("text/html") and "<script type=" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy
    assert " style=" not in page.text and " onclick" not in page.text
    assert server.client.get("/ui/main.js").headers["content-type"].startswith("text/javascript")
    for name in ("none.js", "page.py", "..%2Fpage.py"):
        assert server.client.get(f"/ui/{name}").status_code == 404
    assert server.client.get("/").json()["server"] == "forerun"


def test_the_page_needs_no_key_but_its_data_does() -> None:
    keys = ServerSettings(served_names=(MODEL,), api_keys=("alpha", "beta"), admin_api_key="root")
    with running(settings=keys) as own:
        assert own.client.get("/", headers=HTML).status_code == own.client.get("/ui/chat.js").status_code == 200
        assert own.client.post("/ui/chat.js").status_code == own.client.get("/engine").status_code == 401
        assert own.client.get("/engine", headers={"X-Api-Key": "alpha"}).json()["answers"] == []


def test_no_page_where_none_is_wanted() -> None:
    with running(settings=ServerSettings(served_names=(MODEL,), page=False)) as own:
        assert own.client.get("/", headers=HTML).json()["server"] == "forerun"
        assert own.client.get("/ui/chat.js").status_code == 404


@pytest.mark.parametrize("keys", [(), ("alpha", "beta")])
def test_the_engine_at_work_shows_who_holds_what_with_several_keys_to_the_admin_alone(keys: tuple[str, ...]) -> None:
    executor = PacedExecutor()
    settings = ServerSettings(served_names=(MODEL,), api_keys=keys, admin_api_key="root")
    few, everything = {"X-Api-Key": "alpha"}, {"X-Api-Key": "root"}
    with running(executor, settings) as own:
        executor.pause_after = 3
        body = {"prompt": list(range(100, 140)), "max_tokens": 20, "n": 2, "stream": True}
        with own.client.stream("POST", "/v1/completions", json=body, headers=few) as response:
            wait_for(lambda: not executor.gate.is_set())
            answers = own.client.get("/engine", headers=everything).json()["answers"]
            seen = own.client.get("/engine", headers=few).json()
            executor.gate.set()
            response.read()
        assert len(answers) == seen["running"] == 2 and len(seen["answers"]) == (0 if keys else 2)
        assert all(len(answer["blocks"]) * seen["block_size"] >= 40 for answer in answers)
        assert seen["blocks_held"] == len({block for answer in answers for block in answer["blocks"]})


def test_a_chat_streams_while_the_engine_is_watched(browser: Browser) -> None:
    executor = PacedExecutor(0.03)
    with running(executor) as own:
        opened(browser, own.url)
        browser.until(f"document.getElementById('model').textContent == '{MODEL}'")
        browser.run("document.getElementById('max_tokens').value = 100")
        ask(browser)
        browser.until(f"{LAST} && {LAST}.querySelectorAll('.token').length > 3")
        assert not browser.run("document.getElementById('stop').disabled")
        browser.until("document.querySelectorAll('#owners .cell').length > 0")
        browser.until("document.querySelector('#figures dd').textContent == '1'")
        browser.until(f"{LAST}.querySelector('.figures')")
        browser.until("document.getElementById('speed').firstElementChild.getAttribute('points').split(' ').length > 3")
        box = browser.run(f"{LAST}.querySelector('.token').getBoundingClientRect().toJSON()")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 2, y=box["y"] + 5)
        tip = browser.until("!document.getElementById('tip').hidden && document.getElementById('tip').textContent")
        assert tip.startswith("chosen") and tip.count("%") == 6
        assert browser.complaints == [] and browser.requests
        assert all(url.startswith(own.url) for url in browser.requests)


def test_enter_sends_and_shift_enter_begins_a_line(browser: Browser, server: Running) -> None:
    opened(browser, server.url)
    browser.run("document.getElementById('max_tokens').value = 4; " + ASK.format("one"))
    browser.key("Enter", "\r", shift=True)
    assert browser.run("document.getElementById('question').value") == "one\n"
    assert browser.run("document.querySelectorAll('.message').length") == 0
    browser.call("Input.insertText", text="two")
    browser.key("Enter", "\r")
    assert browser.until("document.querySelector('.user')?.textContent") == "one\ntwo"
    browser.until(f"{LAST}?.querySelector('.figures')")


def test_all_by_keyboard_and_every_control_has_a_name(browser: Browser, server: Running) -> None:
    opened(browser, server.url)
    browser.run("document.getElementById('max_tokens').value = 6")
    ask(browser)
    browser.until(f"{LAST}?.querySelector('.figures')")
    where = "document.activeElement.id || document.activeElement.tagName"
    order = []
    for _ in range(5):
        order.append(browser.run(where))
        browser.key("Tab")
    assert order == ["question", "send", "again", "clear", "SUMMARY"]
    browser.run("document.querySelector('details').open = true")
    named = ("textbox", "button", "spinbutton", "checkbox", "log", "image", "complementary", "DisclosureTriangle")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
    assert {role for role, _ in found} >= set(named) and ("spinbutton", "temperature") in found
    assert all(name for role, name in found if role in named), found


def test_probabilities_by_arrow_keys(browser: Browser, server: Running) -> None:
    opened(browser, server.url)
    browser.run("document.getElementById('max_tokens').value = 6; document.getElementById('temperature').value = 0")
    ask(browser)
    browser.until(f"{LAST}?.querySelector('.figures')")
    browser.key("Tab", shift=True)
    assert browser.run("document.activeElement.getAttribute('role')") == "group"
    tip, places = "document.getElementById('tip')", []
    for name in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        browser.key(name)
        assert browser.run(f"{tip}.textContent").startswith("chosen") and not browser.run(f"{tip}.hidden")
        places.append(browser.run("[...document.querySelectorAll('.current')].map(one => one.dataset.place).join()"))
    first, second = places[:2]
    assert first != second and places == [first, second, first, first]
    browser.key("Escape")
    assert browser.run(f"{tip}.hidden") and not browser.run("document.querySelector('.current')")
    browser.key("ArrowLeft")
    browser.key("Tab")
    assert browser.run(f"{tip}.hidden") and browser.run("document.activeElement.id") == "question"
    assert browser.complaints == []


def test_blocks_that_answers_share_are_marked(browser: Browser) -> None:
    executor = PacedExecutor()
    with running(executor) as own:
        opened(browser, own.url)
        prompt = list(range(100, 140))
        own.post("/v1/completions", prompt=prompt, max_tokens=1)
        executor.pause_after = 3
        body = {"prompt": prompt, "max_tokens": 20, "n": 2, "stream": True}
        with own.client.stream("POST", "/v1/completions", json=body) as response:
            wait_for(lambda: not executor.gate.is_set())
            browser.until("document.querySelectorAll('#owners .owner').length == 2")
            count = "document.querySelectorAll('#owners .cell{}').length"
            shared, alone = browser.run(count.format(".shared")), browser.run(count.format(":not(.shared)"))
            executor.gate.set()
            response.read()
    assert shared >= 2 and shared % 2 == 0 and alone >= 1


def test_thoughts_stand_above_the_answer(browser: Browser) -> None:
    think = "{{ messages[-1].content }}<think>{% if enable_thinking is false %}</think>{% endif %}"
    with saying("Hm <b>.</think>\n\nFine.", "Hm", template=think) as (own, _):
        opened(browser, own.url)
        ask(browser)
        browser.until(f"{LAST}?.querySelector('.figures')")
        assert browser.run(f"{LAST}.querySelector('.thoughts > div').textContent") == "Hm <b>."
        browser.until(f"{LAST}.querySelector('[role=group]').textContent == 'Fine.'")
        ask(browser)  # an answer of thoughts alone is shown too
        browser.until("document.querySelectorAll('.figures').length == 2")
        assert browser.run(f"{LAST}.querySelector('.thoughts > div').textContent") == "Hm"
        assert browser.complaints == []


def test_stop_and_regenerate(browser: Browser) -> None:
    executor = PacedExecutor(0.02)
    with running(executor) as own:
        opened(browser, own.url)
        browser.run("document.getElementById('temperature').value = 0")
        ask(browser)
        browser.until(f"{LAST} && {LAST}.querySelector('.token')")
        browser.key("Escape")
        assert "stopped" in browser.until(f"{LAST}.querySelector('.figures')?.textContent")
        own.wait_idle()
        executor.seconds = 0
        browser.run("document.getElementById('max_tokens').value = 6; document.getElementById('again').click()")
        browser.until(f"{LAST}?.querySelector('.figures')?.textContent.includes('tokens/s')")
        assert browser.run("document.querySelectorAll('.message').length") == 2


def test_markup_in_an_answer_stays_text(browser: Browser, server: Running) -> None:
    opened(browser, server.url)
    script = """(async () => {
        const {markdown} = await import('/ui/markdown.js');
        const text = '# T\\n<img src=x onerror=alert(1)> **b** `c<d`\\n\\n- one\\n- two\\n```js\\n<b>\\n```';
        const place = document.createElement('div');
        markdown(place, text, (parent, start, end) => parent.append(text.slice(start, end)));
        return place.innerHTML;
    })()"""
    assert browser.run(script) == (
        "<h4>T</h4><p>&lt;img src=x onerror=alert(1)&gt; <strong>b</strong> <code>c&lt;d</code></p>"
        "<ul><li>one</li><li>two</li></ul><pre><code>&lt;b&gt;\n</code></pre>"
    )
    assert browser.complaints == []


def test_a_key_is_asked_for_and_kept_in_memory_only(browser: Browser) -> None:
    settings = ServerSettings(served_names=(MODEL,), api_keys=("alpha",), root_path="/llm")
    with running(settings=settings) as own:
        opened(browser, f"{own.url}/llm")
        browser.until("!document.getElementById('key-part').hidden && location.pathname == '/llm/'")
        browser.run("const k = document.getElementById('key'); k.value = 'alpha'; k.dispatchEvent(new Event('change'))")
        browser.until(f"document.getElementById('model').textContent == '{MODEL}'")
        assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert all(url.startswith(f"{own.url}/llm") for url in browser.requests)


def test_dark_and_narrow(browser: Browser, server: Running, tmp_path: Path) -> None:
    opened(browser, server.url)
    colours = []
    for width, theme in ((1200, "light"), (360, "dark")):
        browser.look(width, 700, theme)
        colours.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.shot(tmp_path / f"{theme}.webp")
        assert (tmp_path / f"{theme}.webp").stat().st_size > 2000
    assert colours == ["rgb(250, 250, 248)", "rgb(21, 24, 26)"]
