"""A person brings a broken file, finds what is wrong, mends it, sees what training would learn, and looks through a million rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from core.paths import EXAMPLES
from tests.browser import looks
from tests.browser.steps import open_section, open_tab, reload, says, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NUM_ROWS, BROKEN_EVERY = 1_000_000, 20


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million rows, of which every twentieth is a question without an answer."""
    path = tmp_path_factory.mktemp("data") / "million.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(NUM_ROWS):
            answer = "" if number % BROKEN_EVERY == 7 else f',{{"from":"gpt","value":"It is {number}."}}'
            file.write(f'{{"id":"r{number}","conversations":[{{"from":"human","value":"Which?"}}{answer}]}}\n')
    return path


def upload(page, path: Path) -> None:
    page.locator("#dataset-upload input[type=file]").set_input_files(path)


def drop(page, path: Path) -> None:
    """Let a file fall onto the place for files, as a person does who drags it there."""
    files = page.evaluate_handle(
        "([text, name]) => { const held = new DataTransfer(); held.items.add(new File([text], name)); return held; }",
        [path.read_text(encoding="utf-8"), path.name],
    )
    page.locator("#dataset-upload button").first.dispatch_event("drop", {"dataTransfer": files})


def name_path(page, path: Path) -> None:
    """Import a file by its path."""
    open_section(page, "Paste text, fetch")
    open_tab(page, "This machine")
    page.get_by_role("textbox", name="Path of a data file").fill(str(path))
    page.get_by_role("button", name="Import the file").click()


def findings(page) -> str:
    return page.locator("#dataset-findings").inner_text()


def test_a_broken_file_is_told_by_severity_and_kind_and_leads_to_its_rows(page):
    upload(page, EXAMPLES / "broken.json")
    says(page, r"broken: 45 conversations, 2\d cannot be trained")
    says(page, r"Read as Vicuna \(ShareGPT\)")
    page.get_by_role("radio", name=re.compile(r"^Cannot be trained \d+")).check()
    wait_until(lambda: "worth a look" not in findings(page), 120, "the errors alone")
    page.get_by_role("radio", name="Same role twice 2").check()
    wait_until(lambda: "2 findings" in findings(page) and findings(page).count("Same role twice") == 2, 120, "one kind alone")
    page.get_by_role("button", name="Open row 2", exact=True).press("Enter")
    page.locator("#dataset-bubbles .raw").wait_for()
    assert page.get_by_role("spinbutton", name="Row, counted from 0").input_value() == "2"
    says(page, "Two user turns follow each other")
    assert looks.nameless_controls(page) == []


def test_the_findings_are_taken_away_as_a_table(page):
    with page.expect_download() as downloaded:
        page.get_by_role("button", name="Download these findings as CSV").click()
    lines = Path(downloaded.value.path()).read_text(encoding="utf-8").splitlines()
    assert downloaded.value.suggested_filename == "broken-findings.csv"
    assert len(lines) == 3 and all("same-role-twice" in line for line in lines[1:])


def test_repairs_are_counted_before_they_are_applied_and_make_a_dataset_that_can_be_trained(page, browser):
    open_section(page, "Clean")
    page.locator("#clean-total .sum").wait_for()
    box = page.get_by_role("checkbox", name=re.compile("^Drop repeated conversations"))
    assert box.is_checked()
    box.uncheck()
    wait_until(lambda: "Drop repeated" not in page.locator("#clean-effects").inner_text(), 120, "forgetting what is not chosen")
    wait_until(lambda: "45 rows come in" in page.locator("#clean-total").inner_text(), 120, "counting anew")
    page.locator("#clean-effects summary").first.click()
    page.locator("#clean-effects .before-after").first.wait_for()
    assert looks.nameless_controls(page) == []
    long = page.get_by_role("checkbox", name=re.compile("^Drop by length"))
    long.check()
    wait_until(page.locator("#clean-make").is_enabled, 120, "counting anew")
    page.locator("#option-drop-length-max_characters input").fill("5000")
    wait_until(page.locator("#clean-make").is_disabled, 60, "another setting, which was not counted")
    says(page, "Count again")
    long.uncheck()
    wait_until(page.locator("#clean-make").is_enabled, 120, "counting anew")
    page.locator("#clean-make").click()
    says(page, r"broken, cleaned: \d+ conversations, all of them can be trained")
    says(page, "45 rows came in")
    wait_until(page.get_by_role("button", name="Train on this dataset").is_enabled, 60, "the way to training")


def test_a_dropped_row_is_looked_at_and_taken_back(page):
    open_section(page, "Look at the")
    row = page.get_by_role("checkbox", name=re.compile("^Row 4 · Drop what cannot be trained"))
    row.check()
    page.get_by_role("button", name="Take 1 row back").click()
    says(page, r"broken, cleaned, rows restored: \d+ conversations, 1 cannot be trained")
    page.get_by_role("button", name="Open broken", exact=True).click()
    says(page, r"broken: 45 conversations")


def test_the_mask_shows_what_is_learned_and_what_is_cut(page, browser):
    page.locator("#example-identity").click()
    says(page, "identity: 300 conversations")
    learned = page.locator("#dataset-tokens .tokens mark.learned")
    wait_until(lambda: "Argo" in "".join(learned.all_inner_texts()), 120, "the answers in colour")
    assert page.locator("#dataset-tokens .tokens del.cut").count() == 0
    limit = page.get_by_role("spinbutton", name="Maximum length (tokens)")
    limit.fill("60")
    limit.press("Tab")
    page.locator("#dataset-tokens .tokens del.cut").first.wait_for()
    says(page, r"tokens of answers are cut off")
    says(page, r"lose part of an answer at 60 tokens")
    limit.fill("256")
    limit.press("Tab")
    page.locator("#dataset-tokens .tokens del.cut").first.wait_for(state="detached")


def test_words_are_found_forwards_and_backwards(page):
    words = page.get_by_role("textbox", name="Find in conversations")
    words.fill("FRANCE")
    words.press("Enter")
    says(page, r"Found in row \d+")
    first = page.locator("#dataset-sought").inner_text()
    assert "france" in page.locator("#dataset-bubbles mark.hit").first.inner_text().lower()
    page.get_by_role("button", name="Next hit").click()
    wait_until(lambda: page.locator("#dataset-sought").inner_text() not in ("", first), 120, "the next hit")
    page.get_by_role("button", name="Previous hit").click()
    wait_until(lambda: page.locator("#dataset-sought").inner_text() == first, 120, "the first hit again")
    words.fill("no such words anywhere")
    words.press("Enter")
    says(page, "No conversation has the words")


def test_the_sections_on_the_whole_dataset_open_and_tell(page):
    open_section(page, "Statistics")
    page.locator("#statistics .charts").wait_for()
    assert page.locator("#statistics figure").count() == 4
    page.locator("#statistics .extremes .jump").first.click()
    wait_until(lambda: page.get_by_role("spinbutton", name="Row, counted from 0").input_value() != "0", 120, "the longest row")
    open_section(page, "Mask audit")
    says(page, "Every one of the 300 conversations teaches something")
    assert page.locator("#audit-csv").is_hidden(), "there is nothing to download"
    longest = page.get_by_role("spinbutton", name="Maximum length (tokens)")
    usual = longest.input_value()
    longest.fill("24")
    longest.press("Tab")
    says(page, "would lose|would teach nothing|Nothing at all")
    with page.expect_download() as downloaded:
        page.locator("#audit-csv").click()
    assert len(Path(downloaded.value.path()).read_text(encoding="utf-8").splitlines()) > 100
    longest.fill(usual)
    longest.press("Tab")
    says(page, "Every one of the 300 conversations teaches something")
    open_section(page, "Split and download")
    with page.expect_download() as downloaded:
        page.get_by_role("button", name="Download the conversations").click()
    lines = Path(downloaded.value.path()).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 300 and json.loads(lines[0])["conversations"][0]["from"] == "human"
    assert looks.nameless_controls(page) == [] and not looks.is_too_wide(page)


def test_a_split_is_trained_and_evaluated_on(page):
    page.get_by_role("button", name="Split the dataset").click()
    says(page, r"identity, train: \d+ conversations")
    says(page, r"conversations to train on, \d+ \(\d+ %\) to evaluate on")
    page.get_by_role("button", name="Train on this dataset").click()
    says(page, r"with \d+ conversations")
    page.get_by_role("button", name=re.compile("^Data: evaluation dataset differs from the preset")).click()
    wait_until(lambda: "identity, eval" in page.locator("#knob-eval_dataset input").first.input_value(), 120, "the evaluation dataset")
    open_tab(page, "Dataset")


def test_a_file_of_unknown_layout_asks_for_its_columns(page, tmp_path):
    rows = [{"topic": "colours", "ask": f"What is number {number}?", "reply": f"It is {number}."} for number in range(40)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    upload(page, tmp_path / "odd.jsonl")
    says(page, "odd: which columns hold the question and the answer")
    for name, column in (("Question", "ask"), ("Answer", "reply")):
        page.get_by_label(re.compile(f"^{name}")).locator("visible=true").first.click()
        page.get_by_role("option", name=column, exact=True).last.click()  # the list before may be fading still
    wait_until(lambda: "It is 0." in page.locator("#mapping-preview").inner_text(), 120, "the rows as they would be imported")
    assert looks.nameless_controls(page) == []
    page.get_by_role("button", name="Import with these columns").click()
    says(page, "odd: 40 conversations, all of them can be trained")


def test_a_file_is_dropped_onto_the_page(page, tmp_path):
    turns = [{"from": "human", "value": "Dropped?"}, {"from": "gpt", "value": "Yes, it fell here."}]
    rows = [{"id": str(number), "conversations": turns[: 1 + number % 2]} for number in range(6)]
    (tmp_path / "fallen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    drop(page, tmp_path / "fallen.jsonl")
    says(page, "fallen: 6 conversations, 3 cannot be trained")
    page.locator("#example-identity").click()
    says(page, "identity: 300 conversations")
    reload(page)
    page.locator("#dataset-findings").wait_for()
    says(page, "identity: 300 conversations")  # and not what was imported last


def test_an_import_is_stopped_and_nothing_of_it_stays(page, million, app):
    def seen() -> set[str]:
        return {path.name for path in (app.home / "datasets").iterdir()}

    before = seen()
    name_path(page, million)
    page.locator("#import-progress [role=progressbar]").wait_for()
    page.get_by_role("button", name="Stop the import").click()
    wait_until(lambda: "stopped" in page.locator("#import-said").inner_text().lower(), 60, "the word that it was stopped")
    assert not page.get_by_role("button", name="Stop the import").is_visible()
    assert seen() == before
    says(page, "identity: 300 conversations")  # what was open is still open


def test_a_million_rows_are_imported_while_the_page_is_reloaded(page, million, app):
    name_path(page, million)
    page.get_by_role("button", name="Stop the import").wait_for()
    says(page, r"rows per second", 300)
    newest = max((app.home / "imports").iterdir())
    child = psutil.Process(json.loads((newest / "process.json").read_text(encoding="utf-8"))["pid"])
    child.suspend()  # so that it goes on still when the page is there again
    reload(page)
    says(page, r"rows per second", 300)
    child.resume()
    says(page, rf"million: {NUM_ROWS:,} conversations, {NUM_ROWS // BROKEN_EVERY:,} cannot be trained", 600)


def in_view(page) -> list[int]:
    """The numbers of the findings that the table says are in view; none while they are on their way."""
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", page.locator("#dataset-findings .seen").inner_text())]


def shown(page) -> list[int]:
    """The rows whose findings can really be seen in the table, as its buttons name them."""
    return page.locator("#dataset-findings .long-list").evaluate(
        """box => [...box.querySelectorAll('tbody tr')].filter(row => {
          const at = row.getBoundingClientRect(), seen = box.getBoundingClientRect();
          return at.bottom > seen.top + box.querySelector('thead').offsetHeight + 4 && at.top < seen.bottom - 4;
        }).map(row => Number(row.querySelector('[data-row]').dataset.row))"""
    )


def shows(page, first: range) -> bool:
    """Whether the findings that the table says are in view are there, begin where they must, and are as many as there is room for."""
    seen = in_view(page)
    if not seen or seen[0] not in first:
        return False
    return len(seen := range(seen[0], seen[-1] + 1)) > 2 and shown(page) == [(number - 1) * BROKEN_EVERY + 7 for number in seen]


def scroll_to(page, share: float, first: range) -> None:
    """Pull the table's bar to a place, and see that the findings of that place come."""
    page.locator("#dataset-findings .long-list").evaluate("(box, share) => { box.scrollTop = share * box.scrollHeight; }", share)
    wait_until(lambda: shows(page, first), 60, f"the findings at {share} of the table")


def filter_by(page, severity: str) -> None:
    """Choose one, and wait for the table of its findings."""
    table = page.locator("#dataset-findings .long-list")
    before = table.get_attribute("data-of")
    page.locator("#dataset-severity").get_by_role("radio", name=re.compile(f"^{severity} ")).check()
    wait_until(lambda: table.get_attribute("data-of") != before and shows(page, range(1, 2)), 60, f"the findings of {severity}")


def test_the_findings_of_a_million_rows_are_one_table_and_lead_to_their_rows(page):
    total = NUM_ROWS // BROKEN_EVERY
    says(page, f"^{total:,} findings")
    assert in_view(page)[0] == 1
    scroll_to(page, 0.5, range(total // 2 - 20, total // 2 + 20))
    scroll_to(page, 0.25, range(total // 4 - 20, total // 4 + 20))
    table = page.locator("#dataset-findings .long-list")
    table.hover()
    before = in_view(page)[0]
    for _ in range(40):  # further than a piece reaches
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(50)
    wait_until(lambda: shows(page, range(before + 100, total)), 60, "the findings further down")
    assert table.locator("tbody tr").count() < 400
    table.focus()
    page.keyboard.press("Home")
    wait_until(lambda: in_view(page)[:1] == [1], 60, "the first finding")
    scroll_to(page, 1, range(total - 10, total))
    assert in_view(page)[-1] == total


def test_a_filter_and_back_shows_the_end_of_the_findings_again(page):
    end = range(NUM_ROWS // BROKEN_EVERY - 10, NUM_ROWS // BROKEN_EVERY)
    filter_by(page, "Cannot be trained")
    filter_by(page, "All")
    scroll_to(page, 1, end)


def test_a_million_rows_open(page):
    last = NUM_ROWS - BROKEN_EVERY + 7
    page.get_by_role("button", name=f"Open row {last}").click()
    wait_until(lambda: f'"r{last}"' in page.locator("#dataset-bubbles").inner_text(), 120, "the rejected row")
    row = page.get_by_role("spinbutton", name="Row, counted from 0")
    row.fill("987654")
    row.press("Tab")
    wait_until(lambda: "It is 987654." in page.locator("#dataset-bubbles").inner_text(), 120, "the row of this number")
    page.get_by_role("button", name="Next row").click()
    wait_until(lambda: "It is 987655." in page.locator("#dataset-bubbles").inner_text(), 120, "the row behind it")
    words = page.get_by_role("textbox", name="Find in conversations")
    words.fill("it is 123456.")
    words.press("Enter")
    says(page, "Found in row 123,456")


def test_the_sections_are_pictured(page, browser):
    def found_again(seen):
        """The page shows what was open before. A click in the moment in which that answer ends can be lost by Gradio's client."""
        says(seen, "million: 1,000,000 conversations")
        seen.wait_for_timeout(500)

    def broken(seen):
        found_again(seen)
        seen.locator("#example-broken").click()
        says(seen, "broken: 45 conversations")

    def statistics(seen):
        found_again(seen)
        seen.locator("#example-identity").click()
        says(seen, "identity: 300 conversations")
        open_section(seen, "Statistics")
        seen.locator("#statistics .charts").wait_for()
        seen.locator("#dataset-statistics").evaluate("element => element.scrollIntoView()")

    def clean(seen):
        broken(seen)
        open_section(seen, "Clean")
        seen.locator("#clean-total .sum").wait_for()
        seen.locator("#dataset-clean").evaluate("element => element.scrollIntoView()")

    assert looks.picture(browser, page, "Dataset", "#dataset-findings table", "dataset", broken) == []
    assert looks.picture(browser, page, "Dataset", "#statistics .charts", "dataset-statistics", statistics) == []
    assert looks.picture(browser, page, "Dataset", "#clean-total .sum", "dataset-clean", clean) == []


def test_no_picture_is_too_large_and_the_page_raised_no_error(page):
    assert looks.too_large() == []
    assert page.errors == []
