"""Hostile words in every place that a stranger can write to: a dataset's rows and name, a run's name, what a model answers. Nothing runs (R20)."""

from __future__ import annotations

import json
import re
import threading
from http.server import ThreadingHTTPServer

import pytest

from core import events
from tests.browser.steps import is_at_work, open_section, open_tab, says, wait_until
from tests.page import App, free_port
from tests.unit.chat.test_endpoint import Handler

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
RUN = "r-hostile"
# After OWASP's cheat sheet on getting around XSS filters; each would set `window.hit` or open a dialog if it were taken for more than words.
DO = "window.hit=1;alert(1)"
PAYLOADS = [
    f"<script>{DO}</script>", f"<SCRIPT SRC=data:text/javascript,{DO}></SCRIPT>", f"<img src=x onerror={DO}>", f'<IMG """><SCRIPT>{DO}</SCRIPT>">',
    f"<svg/onload={DO}>", f"<svg><script>{DO}</script></svg>", f"<body onload={DO}>", f"<iframe src=javascript:parent.{DO}></iframe>",
    f"<iframe srcdoc='<script>parent.{DO}</script>'></iframe>", f'<a href="javascript:{DO}" id=clicked>click</a>', f"[click](javascript:{DO})",
    f"![x](x \"onerror={DO}\")", f"<details open ontoggle={DO}>", f"<video><source onerror={DO}></video>", f"<input autofocus onfocus={DO}>",
    f"<marquee onstart={DO}>", f"<math><mtext><table><mglyph><style><img src=x onerror={DO}>", f"</textarea><script>{DO}</script>",
    f"</style></title></script><img src=x onerror={DO}>", f'" onmouseover="{DO}" x="', f"' autofocus onfocus='{DO}", f"`-{DO}-`",
    "${" + DO + "}", "{{constructor.constructor('" + DO + "')()}}", f"<object data=javascript:{DO}>", f"<embed src=javascript:{DO}>",
    f"<style>@keyframes x{{}}</style><b style=animation-name:x onanimationstart={DO}>", f"<form><button formaction=javascript:{DO}>X",
    f"$$\\href{{javascript:{DO}}}{{x}}$$",
    f"&lt;script&gt;{DO}&lt;/script&gt;", f"\\u003cscript\\u003e{DO}\\u003c/script\\u003e", f"<scr<script>ipt>{DO}</scr</script>ipt>",
    f"<<img src=x onerror={DO}//",
]  # fmt: skip
NAME = "<img src=x onerror=window.hit=1;alert(1)>"  # a file's name has no slash


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page, with a run in its workspace whose name, note, questions and answers are hostile."""
    home = tmp_path_factory.mktemp("hostile") / "workspace"
    run_dir = home / "runs" / RUN
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id=RUN, name=" ".join(PAYLOADS), method="lora", steps=["train"])
    events.append(run_dir, "train_began", step=0, max_steps=1)
    events.append(run_dir, "train_log", step=1, loss=1.0)
    events.append(run_dir, "samples", step=1, samples=[{"prompt": each, "answer": each} for each in PAYLOADS])
    events.append(run_dir, "remark", text="\n".join(PAYLOADS))
    for each in PAYLOADS:
        events.append(run_dir, "note", text=each)
    failed = {"problem": PAYLOADS[0], "where": PAYLOADS[2], "remedy": PAYLOADS[4], "code": "BUG"}
    events.append(run_dir, "finished", state="failed", error=failed)
    (run_dir / "worker.log").write_text("\n".join(PAYLOADS), encoding="utf-8")
    running = App(home, free_port())
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def page(app, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(90_000)
    opened.dialogs = []

    def note(dialog):
        opened.dialogs.append(dialog.message)
        dialog.dismiss()

    opened.on("dialog", note)
    opened.goto(app.url)
    is_at_work(opened)
    yield opened
    context.close()


def nothing_ran(page):
    """After everything that stands on the page was pointed at and given the focus."""
    page.evaluate("""() => {
        for (const each of document.querySelectorAll('main *, .gradio-container *')) {
            for (const name of ['mouseover', 'focus', 'toggle', 'animationstart']) each.dispatchEvent(new Event(name))
            if (each.id === 'clicked' || (each.tagName === 'A' && /^javascript:/i.test(each.getAttribute('href') || ''))) each.click()
        }
    }""")
    page.wait_for_timeout(500)
    assert page.evaluate("window.hit") is None
    assert page.dialogs == []
    assert page.locator("[onerror*='window.hit'], [onload*='window.hit'], [href^='javascript:'], iframe[srcdoc*='window.hit']").count() == 0


def test_the_marker_would_be_seen(browser):
    """So that the silence of the other tests means something."""
    opened = browser.new_page()
    seen = []
    opened.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
    opened.set_content(PAYLOADS[2])
    opened.wait_for_function("window.hit === 1")
    assert seen == ["1"]
    opened.close()


def test_rows_and_names_of_a_dataset_are_words(page, tmp_path):
    def talk(words):
        turns = [{"from": "human", "value": words}, {"from": "gpt", "value": words}]
        return {"id": words, "conversations": turns}

    broken = [{"id": each, "conversations": [{"from": each, "value": each}, {each: each}]} for each in PAYLOADS]
    content = json.dumps([talk("\n\n".join(PAYLOADS)), *map(talk, PAYLOADS), *broken]).encode()
    upload = {"name": f"{NAME}.json", "mimeType": "application/json", "buffer": content}
    page.locator("#dataset-upload input[type=file]").set_input_files([upload])
    says(page, "cannot be trained")
    page.locator("#dataset-bubbles", has_text="<script>").wait_for()
    nothing_ran(page)
    for row in (5, len(PAYLOADS) + 3):
        page.locator("#dataset-row input").fill(str(row))
        page.locator("#dataset-row input").press("Enter")
        page.wait_for_timeout(1500)
        nothing_ran(page)
    open_section(page, "Statistics")
    page.locator("#statistics", has_text="Conversations").wait_for()
    nothing_ran(page)


def test_the_name_the_notes_the_log_and_the_answers_of_a_run_are_words(page):
    open_tab(page, "Runs")
    says(page, "Resume")
    open_section(page, "Answers as it learnt")
    page.locator("#runs-answers", has_text="<script>").wait_for()
    open_section(page, "Note")
    nothing_ran(page)


def test_what_a_model_answers_is_words(page):
    """The model says back what it was asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.left, server.daemon_threads = [], threading.Event(), True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            open_tab(page, "Chat")
            open_section(page, "Add a model")
            page.locator("#chat-add textarea, #chat-add input").first.fill(f"http://127.0.0.1:{server.server_port}/v1#echo")
            page.locator("#chat-add-go").click()
            wait_until(page.locator("#chat-action").is_enabled, 60, "the model to be there")
            page.get_by_role("textbox", name=re.compile("^Prompt")).fill("\n\n".join(PAYLOADS))
            page.locator("#chat-action").click()
            page.locator("article.reply[aria-busy=false]", has_text="onerror").first.wait_for()
            assert server.asked, "the model was asked"
            nothing_ran(page)
        finally:
            server.shutdown()
            thread.join()
