"""Anything at all sent to the endpoints, and hostile words in what the page shows: an answer or a sentence, never a surprise, never markup."""

import html
import json
import re

import gradio as gr
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data.dataset import import_dataset
from core.errors import UserError
from core.training.recipe import Recipe
from ui import chat_tab, dataset_handlers, feedback, models_tab, programs, runs_tab, train_estimate, train_handlers
from ui.access import Caller
from ui.view import text

HOSTILE = ["../../../etc/passwd", "/etc/passwd", "..", ".", "", "a\x00b", "~/.ssh/id_rsa", "runs/../..", "\ud800", "x" * 5000, "CON", "%2e%2e%2f",
           "<script>alert(1)</script>", "'; drop table runs; --", "${HOME}", "$(id)", "260101-101010-aaaa"]  # fmt: skip
words = st.sampled_from(HOSTILE) | st.text(max_size=40)
simple = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(simple, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6)
knobs = st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)) | words, anything, max_size=4)
ENDPOINTS = {
    "quantize": (programs.quantize, st.tuples(anything, anything)),
    "measure": (programs.measure, st.tuples(words | anything, anything)),
    "publish": (programs.publish, st.tuples(st.lists(words, max_size=3) | anything, words | anything, anything, anything, st.just(True))),
    "run_status": (runs_tab.run_status, st.tuples(words | anything)),
    "stop_run": (runs_tab.stop_run, st.tuples(words | anything)),
    "list_artifacts": (models_tab.list_artifacts, st.tuples()),
    "chat": (chat_tab.chat, st.tuples(st.lists(words, max_size=3) | anything, words | anything, anything, anything)),
    # A recipe that happens to be good would start; its dataset is one that is not there.
    "start_run": (train_handlers.start_run, st.tuples(knobs.map(lambda given: given | {"dataset": "ds-gone"}) | words | st.lists(simple, max_size=2))),
    "estimate": (train_estimate.estimate, st.tuples(knobs | words | st.lists(simple, max_size=2))),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_answers_anything_with_a_value_or_a_sentence(name):
    handler, values = ENDPOINTS[name]
    endpoint = feedback.for_programs(handler)

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(values)
    def fuzz(given):
        try:
            json.dumps(endpoint(None, None, *given))
        except gr.Error as error:
            said = str(error.message)
            assert "did not foresee" not in said and "Traceback" not in said and "root:" not in said, said
            assert not re.search(r"(?<![\w./])/(?:home|root|work|tmp)/", said.replace(str(given), "")), said

    fuzz()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(words | st.text(alphabet="<>&\"'/=ascript ", max_size=60))
def test_words_on_the_page_are_words(word):
    shown = text(word)
    assert "<" not in shown and ">" not in shown and '"' not in shown and "'" not in shown


@pytest.mark.parametrize(
    "word", ["<img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "</p><script>alert(1)</script>", "<svg/onload=alert(1)>"]
)
def test_a_hostile_row_is_shown_as_its_words(word, tmp_path):
    path = tmp_path / "hostile.json"
    rows = [{"id": word, "conversations": [{"from": "human", "value": word}, {"from": "gpt", "value": word}]}, {word: word}]
    path.write_text(json.dumps(rows), encoding="utf-8")
    caller = Caller(name="test", role="owner", is_local=True)
    shown = dataset_handlers.opened(import_dataset(path, name=word), "starter", 256, "answers", caller)
    markup = "".join(value for value in shown.values() if isinstance(value, str)) + feedback.card(UserError(word, word, word))
    assert html.escape(word)[:4] in markup and word not in markup
