"""What the Chat tab does with a conversation, without a page."""

import errno
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from core.chat import memory, talks, votes
from core.chat.engine import Piece, Rendered
from core.chat.hub import GgufFile, SeveralFilesError
from core.chat.memory import Room
from core.chat.sampling import Sampling
from core.data.dataset import Dataset
from core.errors import UserError
from core.export.artifacts import Artifact
from tests.unit.data.files import talk
from tests.unit.training.test_samples import imported, run_of
from ui import chat_ask, chat_knobs, chat_pool, chat_sources, chat_tab, chat_talk, chat_view, chat_vote, feedback, picks
from ui.access import Caller

OWNER, VISITOR = Caller("me", "owner", is_local=True), Caller("a visitor", "public")
MALLORY = Caller("mallory", "signed_in")


class Request:
    """A browser at this machine."""

    def __init__(self):
        self.headers, self.session_hash = {"host": "127.0.0.1:7860"}, "page"


REQUEST = Request()
SHOUT, TALK = Rendered("USER: <script>\n", 5, 100), Rendered("USER", 3, 0)
TURNS = [
    {"prompt": "Who are you?", "answers": [{"id": "a", "name": "M", "label": "q4_0 · 2 MB", "text": "I am M.", "mark": None, "same": False,
                                            "state": "done", "stop": "eos", "stats": {}, "notices": [], "error": None}]},
    {"prompt": "And now?", "answers": []},
]  # fmt: skip


def call(handler, *values, **named):
    return handler(REQUEST, None, *values, **named)


def from_page(handler, *values, **named):
    """As `call`, for a handler that asks who the page is."""
    return handler(REQUEST, None, REQUEST, *values, **named)


def test_a_message_is_chosen_shown_changed_and_deleted():
    choices = call(chat_talk.list_messages, TURNS)[0].choices
    assert [value for _, value in choices] == ["0", "0:a", "1"] and choices[1][0] == "1. q4_0: I am M."
    assert call(chat_talk.show_words, "0:a", TURNS) == "I am M." and call(chat_talk.show_words, "1", TURNS) == "And now?"
    _, changed = from_page(chat_talk.keep_words, TURNS, "0:a", "I am mended.")
    assert changed[0]["answers"][0]["text"] == "I am mended." and TURNS[0]["answers"][0]["text"] == "I am M."
    shown, left = from_page(chat_talk.delete_turn, TURNS, "0")
    assert [turn["prompt"] for turn in left] == ["And now?"] and "Who are you" not in shown
    for nonsense in (None, "", "7", "x", "-1", "0x"):
        with pytest.raises(UserError, match="No message is chosen"):
            from_page(chat_talk.delete_turn, TURNS, nonsense)
    with pytest.raises(UserError, match="cannot be empty"):
        from_page(chat_talk.keep_words, TURNS, "0", " ")


def test_undo_puts_the_question_back():
    shown, left, prompt = from_page(chat_tab.take_back, TURNS)
    assert prompt == "And now?" and len(left) == 1 and "Who are you?" in shown
    assert from_page(chat_tab.take_back, [])[1] == []


class Endless:
    """A model that goes on until it is stopped."""

    def __init__(self):
        self._stop = threading.Event()

    def ready(self):
        return self

    def stream(self, asked, sampling, *, with_adapter=True):
        self._stop.clear()
        while not self._stop.wait(0.01):
            yield Piece("word ", token_id=1)
        yield Piece("", done="stopped")

    def stop(self):
        self._stop.set()

    def close(self):
        self.stop()


VALUES = {"system": "", "context_length": 0, "temperature": 0, "seed": 0, "raw": False}


@pytest.fixture
def endless(monkeypatch):
    source = chat_sources.sources.Source("a", "M", "q4_0", url="http://127.0.0.1:9/v1")
    monkeypatch.setattr(chat_sources, "find", lambda ids, caller: [source])
    monkeypatch.setattr(chat_pool, "pool", chat_pool.Pool())
    monkeypatch.setattr(chat_pool, "open_source", lambda source, _: Endless())


def writing():
    """The Chat tab's answer to a third question, which has begun."""
    answering = from_page(chat_tab.ask, ["a"], "Third?", TURNS, **VALUES)
    while "word" not in str(next(answering)[0]):
        continue
    return answering


SKIPPED = gr.skip()


@pytest.mark.parametrize(
    ("handler", "values"),
    [(chat_tab.take_back, (TURNS,)), (chat_tab.forget, ()), (chat_talk.delete_turn, (TURNS, "0")),
     (chat_talk.keep_words, (TURNS, "0", "x")), (chat_talk.fork, (TURNS, "0", ["a"], ""))],
)  # fmt: skip
def test_what_changes_the_conversation_while_a_model_answers_is_not_reverted(workspace, endless, handler, values):
    answering = writing()
    from_page(handler, *values)
    (last,) = answering
    assert last[:2] == (SKIPPED, SKIPPED), "the answer is written into a conversation that is not there any more"
    assert last[2].submit_btn == "Ask" and last[2].stop_btn is False and last[3].interactive, "one can ask again"


def test_a_saved_conversation_opened_while_a_model_answers_stays(workspace, endless):
    identifier = talks.save(TURNS[:1])
    answering = writing()
    assert from_page(chat_talk.open_saved, identifier)[1] == TURNS[:1]
    assert [step[:2] for step in answering] == [(SKIPPED, SKIPPED)]


def test_undo_while_a_model_answers_takes_that_question_back(endless):
    answering = writing()
    assert from_page(chat_tab.take_back, TURNS)[1:] == (TURNS, SKIPPED)
    list(answering)


def test_another_question_takes_the_place_of_the_one_that_is_answered(endless):
    first, second = writing(), writing()
    assert list(first) == [(SKIPPED,) * 4], "the page belongs to the second question"
    from_page(chat_tab.stop_asking)
    *_, last = second
    assert len(last[1]) == 3 and last[1][-1]["answers"][0]["stop"] == "stopped", "Stop keeps what was written"


def test_the_last_question_asked_again_while_a_model_answers_takes_its_place(endless):
    first = writing()
    again = from_page(chat_tab.ask_again, ["a"], TURNS, **VALUES)
    while "word" not in str(next(again)[0]):
        continue
    assert list(first) == [(SKIPPED,) * 4]
    from_page(chat_tab.stop_asking)
    *_, last = again
    assert [turn["prompt"] for turn in last[1]] == ["Who are you?", "And now?"] and last[1][-1]["tries"] == 1


def test_no_turn_is_dropped_and_a_conversation_too_long_to_keep_says_so(endless):
    turns = [{"prompt": f"{number}?", "answers": []} for number in range(30)]
    answering = from_page(chat_tab.ask, ["a"], "One more?", turns, **VALUES)
    next(answering)
    from_page(chat_tab.stop_asking)
    *_, last = answering
    assert [turn["prompt"] for turn in last[1]] == [*(f"{number}?" for number in range(30)), "One more?"]
    long = [{"prompt": "你" * chat_tab.KEPT_BYTES, "answers": []}]
    with pytest.raises(UserError, match="as long as the browser can keep"):
        next(from_page(chat_tab.ask, ["a"], "One more?", long, **VALUES))


def test_without_templates_a_model_goes_on_with_the_bare_text():
    source = chat_sources.sources.Source("a", "M", "q4_0")
    values = VALUES | {"system": "Be kind."}
    assert chat_tab.asked_of(source, "Once", TURNS, values | {"raw": True}) == "Once"
    asked = chat_tab.asked_of(source, "Once", TURNS, values)
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "user"] and asked[-1]["content"] == "Once"


def test_the_memory_that_models_take_is_said_and_a_warning_when_they_do_not_fit(monkeypatch):
    starter = chat_sources.starter()
    monkeypatch.setattr(memory, "room", lambda: Room(10**12))
    said = chat_sources.memory_line([starter], None)
    assert "Loading them takes about" in said and "of 1000.0 GB free memory." in said
    monkeypatch.setattr(memory, "room", lambda: Room(10**12, (8 * 10**9,), has_torch_gpu=True))
    said = chat_sources.memory_line([starter], None)
    assert re.search(r"of 1000\.0 GB free memory and \d+\.\d MB of 8\.0 GB free GPU memory\.", said)
    monkeypatch.setattr(memory, "room", lambda: Room(10**12, (10**8,), has_torch_gpu=True))
    said = chat_sources.memory_line([starter], None)
    assert 'class="message warning"' in said and "of GPU memory and 100.0 MB are free" in said
    monkeypatch.setattr(memory, "room", lambda: Room(10**6))
    said = chat_sources.memory_line([starter], None)
    assert 'class="message warning"' in said and "1.0 MB are free" in said and "Choose fewer models" in said
    monkeypatch.setattr(chat_pool, "loaded", lambda: ["starter"])
    assert "Loaded already." in chat_sources.memory_line([starter], None)
    assert chat_sources.memory_line([chat_sources.sources.Source("u", "u", "endpoint", url="http://x/v1")], None) == ""


def test_the_prompts_offered_are_those_that_were_not_trained_on_and_no_more_is_read(workspace, tmp_path, monkeypatch):
    train = imported(tmp_path, "train.json", [talk(("human", "Trained?"), ("gpt", "Yes."), id="t")])
    held = imported(
        tmp_path, "held.json", [talk(("human", f"Held {number // 2}?"), ("gpt", "No."), id=str(number)) for number in range(20)]
    )
    run_dir = run_of(tmp_path, train, held)
    artifact = Artifact(id="a", kind="merged", name="m", run_id="r")
    monkeypatch.setattr(chat_sources, "find", lambda ids, caller: [chat_sources.sources.of_artifact(artifact)])
    monkeypatch.setattr("core.running.runs.folder", lambda run_id: run_dir)
    monkeypatch.setattr(chat_vote, "OFFERED", 3)
    read, one = [], Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, row: read.append(row) or one(self, row))
    assert [value for value, _ in call(chat_vote.offer_prompts, ["a"]).choices] == ["Held 0?", "Held 1?", "Held 2?"]
    assert read == [0, 1, 2, 3, 4], "the whole dataset was read"
    monkeypatch.setenv("SYSTEM", "spaces")
    assert call(chat_vote.offer_prompts, ["a"]).choices == [], "the owner's data is not shown to visitors"


def test_a_fork_keeps_the_whole_and_goes_on_with_a_part(workspace):
    _, kept, saved = from_page(chat_talk.fork, TURNS, "0", ["a"], "be kind")
    assert len(kept) == 1 and len(saved.choices) == 1
    _, opened, _, system = from_page(chat_talk.open_saved, saved.choices[0][1])
    assert opened == TURNS and system == "be kind"
    assert call(chat_talk.remove, saved.choices[0][1]).choices == []
    with pytest.raises(UserError, match="no such conversation"):
        call(chat_talk.remove, None)


def test_a_fork_of_an_edited_conversation_keeps_the_edit_on_both_sides(workspace):
    _, edited = from_page(chat_talk.keep_words, TURNS, "0:a", "I am mended.")
    _, kept, saved = from_page(chat_talk.fork, edited, "0", ["a"], "")
    _, opened, *_ = from_page(chat_talk.open_saved, saved.choices[0][1])
    assert [one[0]["answers"][0]["text"] for one in (kept, opened)] == ["I am mended."] * 2 and len(opened) == 2
    assert kept[0]["answers"][0]["stop"] == "edited"
    source = chat_sources.sources.Source("a", "M", "q4_0")
    assert chat_tab.asked_of(source, "Next?", kept, VALUES)[1] == {"role": "assistant", "content": "I am mended."}


def test_a_conversation_is_written_out_and_becomes_a_dataset(workspace):
    path = Path(call(chat_talk.export, TURNS, ""))
    (record,) = json.loads(path.read_text(encoding="utf-8"))
    assert record["conversations"] == [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "I am M."}]
    (record,) = json.loads(Path(call(chat_talk.export, TURNS, "be kind")).read_text(encoding="utf-8"))
    assert record["conversations"][0] == {"from": "system", "value": "be kind"}
    dataset_id, _ = call(chat_talk.make_dataset, TURNS, "be kind")
    from core.data.dataset import open_dataset

    assert [turn.role for turn in open_dataset(dataset_id)[0].turns] == ["system", "user", "assistant"]
    with pytest.raises(UserError, match="no answer to write"):
        call(chat_talk.export, TURNS[1:], "")


def test_a_visitor_sees_no_saved_conversations_and_changes_nothing(workspace, monkeypatch):
    talks.save(TURNS)
    monkeypatch.setenv("SYSTEM", "spaces")
    assert call(chat_talk.list_saved).choices == [] and call(chat_vote.show_results) == ""
    for handler, values in (
        (chat_talk.save, (TURNS, [], "")), (chat_talk.fork, (REQUEST, TURNS, "0", [], "")), (chat_talk.open_saved, (REQUEST, "x")),
        (chat_talk.remove, ("x",)), (chat_talk.make_dataset, (TURNS, "")), (chat_vote.vote, (REQUEST, "Both bad")),
        (chat_tab.add_model, ([], "starter", "")), (chat_tab.add_file, ([], "starter", "")),
    ):  # fmt: skip
        with pytest.raises(UserError, match="only its owner"):
            call(handler, *values)


def test_only_somebody_at_the_machine_names_paths_and_endpoints(monkeypatch):
    monkeypatch.setattr(chat_sources, "_added", {})
    far = Caller("the owner from afar", "owner", is_local=False)
    for reference in ("starter", "/etc", "http://169.254.169.254/v1", "../x", "./a/b"):
        with pytest.raises(UserError, match="only at the machine itself"):
            chat_sources.add(reference, "", far)
    source = chat_sources.add("http://127.0.0.1:9/v1#m", "a-secret", OWNER)
    assert ("m · endpoint", source.id) in chat_sources.everything(OWNER) and chat_sources.find([source.id], OWNER) == [source]
    assert chat_sources.find([source.id], VISITOR) == [], "an endpoint is asked with the owner's key"
    assert "a-secret" not in repr(source) and chat_pool.keys.pop(source.id) == "a-secret"


def test_an_added_adapter_can_be_switched_off_and_a_repository_offers_its_levels(monkeypatch):
    monkeypatch.setattr(chat_sources, "_added", {})
    adapter = chat_sources.sources.of_artifact(Artifact(id="/cache/a", kind="adapter", name="org/adapter"))
    files = [GgufFile("org/g:q8_0", "g.q8_0.gguf", "q8_0", 2 * 10**9), GgufFile("org/g/odd.gguf", "odd.gguf", "", 10**9)]

    def resolve(reference, token, *, allow_paths):
        if reference == "org/g":
            raise SeveralFilesError(reference, files)
        return adapter

    monkeypatch.setattr(chat_sources.sources, "resolve", resolve)
    *unchanged, choice = call(chat_tab.add_model, [], "org/g", "")
    assert unchanged == [SKIPPED] * 3 and choice.visible
    assert choice.choices == [("q8_0 · 2.0 GB", "org/g:q8_0"), ("odd.gguf · 1.0 GB", "org/g/odd.gguf")]
    models, _, _, choice = call(chat_tab.add_file, [], "org/adapter", "")
    assert models.value == ["/cache/a"] and not choice.visible
    offered = dict(chat_sources.everything(OWNER))
    assert offered["org/adapter · adapter"] == "/cache/a" and offered["org/adapter · adapter off"] == "/cache/a@base"
    on, off = chat_sources.find(["/cache/a", "/cache/a@base"], OWNER)
    assert on.engine_id == off.engine_id and on.with_adapter and not off.with_adapter


def test_knobs_are_checked_and_visitors_are_kept_short():
    values = {"temperature": 1, "stop": "END\n\nUSER:", "max_tokens": 2000, "context_length": 0, "raw": False}
    assert chat_knobs.sampling_of(OWNER, values).stop == ("END", "USER:")
    assert chat_knobs.sampling_of(VISITOR, values).max_tokens == chat_knobs.VISITORS_TOKENS
    with pytest.raises(UserError, match="temperature"):
        chat_knobs.sampling_of(OWNER, {"temperature": -1})
    assert [chat_knobs.context_of(value, OWNER) for value in (None, 0, -5, 1, 10**9)] == [None, None, None, 128, 131_072]
    assert chat_knobs.context_of(512, VISITOR) is None, "no second copy of the model is loaded for a visitor"
    assert chat_knobs.sampling_of(MALLORY, values).max_tokens == chat_knobs.VISITORS_TOKENS
    assert set(Sampling.model_fields) <= set(chat_knobs.build()), "every knob of sampling stands on the page"


def test_the_set_of_one_click_is_the_usual_four():
    made = [Artifact(id=level, kind="gguf", level=level, name="m") for level in ("f16", "q8_0", "q5_0", "Q4_K_M", "q4_0")]
    assert picks.set_of(made) == ["f16", "q8_0", "Q4_K_M", "q4_0"]
    assert len(picks.set_of(made[:3])) == 3


@pytest.mark.parametrize(
    ("levels", "offered"), [(("f16", "q8_0", "Q4_K_M"), "Q4_K_M"), (("f16", "q8_0"), "q8_0"), (("f16", "q4_0"), "f16"), ((), "starter")]
)
def test_when_nobody_has_chosen_the_newest_model_is_offered(levels, offered, monkeypatch):
    made = [Artifact(id=level, kind="gguf", level=level, name="m") for level in levels]
    monkeypatch.setattr(picks, "runs_with_models", lambda: [SimpleNamespace(run_id="r-1", name="mine")] if made else [])
    monkeypatch.setattr(picks, "of_run", lambda run_id: made)
    models, *_ = call(chat_tab.offer, [], "", {})
    assert models.value == [offered]
    models, *_ = call(chat_tab.offer, [], "", {"ids": ["starter"], "carried": ""})
    assert models.value == ["starter"]


def test_a_blind_vote_names_nobody_before_it_is_cast(workspace, monkeypatch):
    sources = [chat_sources.sources.Source(name, f"Name-{name}", "q4_0") for name in ("one", "two")]
    monkeypatch.setattr(chat_sources, "find", lambda ids, caller: sources)
    monkeypatch.setattr(chat_sources, "everything", lambda caller: [(source.name, source.id) for source in sources])

    def answered(page, asked, sampling, context):
        yield [chat_ask.Column(source, state="done", pieces=["words"], stop="eos") for source, _ in asked]

    monkeypatch.setattr(chat_ask, "ask", answered)
    values = {"system": "", "context_length": 0, "temperature": 0}
    *_, last = from_page(chat_vote.ask_blind, ["one", "two"], "Who?", **values)
    assert "Name-" not in str(last[0]) and last[2].interactive
    with monkeypatch.context() as full:
        full.setattr(votes, "cast", raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            from_page(chat_vote.vote, "A is better")
    shown, standings, *buttons = from_page(chat_vote.vote, "A is better")
    assert "Name-one" in shown and "Name-two" in shown and "Share of decided votes" in standings and not buttons[0].interactive
    (vote,) = votes.all_votes()
    assert {vote.first, vote.second} == {"one", "two"} and vote.verdict == "first" and vote.prompt == "Who?"
    with pytest.raises(UserError, match="nothing to vote on"):
        from_page(chat_vote.vote, "A is better")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_full_disk_is_said_when_a_conversation_is_saved(workspace, monkeypatch):
    monkeypatch.setattr("core.paths.write_text", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space") as full:
        call(chat_talk.save, TURNS, [], "")
    said = feedback.as_user_error(full.value)
    assert (said.problem, said.code) == ("The disk is full.", "DISK") and "still there" in said.remedy


def test_what_models_read_is_shown_as_text_and_once_where_it_is_the_same():
    html = chat_view.rendered(
        [("<b>", SHOUT), ("dumb", UserError("It does not say.", "there", "Ask another.")), ("q4", SHOUT), ("other", TALK)]
    )
    assert "<script" not in html and html.count("<pre") == 2
    assert "&lt;b&gt;, q4 read the same 5 of 100 tokens" in html and "other reads 3 tokens" in html and "It does not say." in html
