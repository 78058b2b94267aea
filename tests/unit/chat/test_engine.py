"""An engine streams, stops, survives the death of its model, and never outlives its parent: with a real child process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core.chat.engine import Engine, Sampling, child_payload, open_engine
from core.chat.together import Question, side_by_side
from core.data.tokenizer import VICUNA_TEMPLATE
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.split import split_gguf
from core.paths import PROJECT
from tests.unit.export.test_split import a_file

TOY = "tests.unit.chat.toy_child"
ARTIFACT = Artifact(id="toy", kind="gguf", name="Toy")


def ask(text):
    return [{"role": "user", "content": text}]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.fixture
def open_toy():
    opened = []

    def open_it(**payload):
        opened.append(Engine(ARTIFACT, TOY, {"template": VICUNA_TEMPLATE} | payload))
        return opened[-1]

    yield open_it
    for engine in opened:
        engine.close()


def test_an_answer_streams_whole_characters_and_says_how_it_ended(open_toy):
    pieces = list(open_toy().stream(ask("你好, 😀!")))
    assert text_of(pieces) == "你好, 😀!" and "�" not in text_of(pieces)
    assert pieces[-1].done == "eos" and all(piece.done is None for piece in pieces[:-1])
    assert pieces[-1].stats["generated_tokens"] == len(" 你好, 😀!".encode())
    assert pieces[-1].stats["first_token_s"] >= 0


def test_max_tokens_and_stop_strings_end_an_answer(open_toy):
    engine = open_toy()
    short = list(engine.stream(ask("abcdef"), Sampling(max_tokens=4)))
    assert (text_of(short), short[-1].done) == ("abc", "length")
    cut = list(engine.stream(ask("one STOP two"), Sampling(stop=("STOP", "never"))))
    assert (text_of(cut), cut[-1].done) == ("one ", "stop")
    almost = list(engine.stream(ask("one STO"), Sampling(stop=("STOP",))))
    assert (text_of(almost), almost[-1].done) == ("one STO", "eos")


def test_closing_the_stream_stops_the_answer_and_keeps_the_model(open_toy):
    engine = open_toy(delay_s=0.01)
    pid = engine.pid
    stream = engine.stream(ask("forever"), Sampling(max_tokens=100_000))
    for _ in range(3):
        next(stream)
    stream.close()
    assert text_of(engine.stream(ask("next"))) == "next" and engine.pid == pid


def test_stop_from_another_place_ends_the_answer_in_good_order(open_toy):
    engine = open_toy(delay_s=0.01)
    pieces = []
    for piece in engine.stream(ask("forever"), Sampling(max_tokens=100_000)):
        pieces.append(piece)
        if len(pieces) == 3:
            engine.stop()
    assert pieces[-1].done == "stopped" and pieces[-1].stats["generated_tokens"] < 1000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_model_is_a_readable_error_and_the_next_question_loads_it_anew(open_toy, number):
    engine = open_toy(delay_s=0.01)
    stream = engine.stream(ask("forever"), Sampling(max_tokens=100_000))
    next(stream)
    os.kill(engine.pid, number)
    with pytest.raises(UserError, match="The model stopped") as crash:
        list(stream)
    assert crash.value.code == "CRASH" and signal.Signals(number).name in crash.value.problem
    assert text_of(engine.stream(ask("again"))) == "again"


def test_a_model_that_aborts_by_itself_is_the_same_error(open_toy):
    engine = open_toy()
    with pytest.raises(UserError, match="SIGABRT"):
        list(engine.stream(ask("die")))
    assert text_of(engine.stream(ask("fine"))) == "fine"


def test_a_model_killed_between_questions_is_loaded_anew(open_toy):
    engine = open_toy().ready()
    os.kill(engine.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(engine.pid)], timeout=60)
    assert text_of(engine.stream(ask("back"))) == "back"


def test_a_model_that_cannot_be_loaded_says_why_each_time(open_toy):
    refusing, crashing = open_toy(refuse=True), open_toy(crash=True)
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be loaded") as refusal:
            refusing.ready()
        assert refusal.value.code == "LOAD"
        with pytest.raises(UserError, match="SIGABRT"):
            crashing.ready()


def test_memory_that_runs_out_is_said_with_a_shorter_context_and_is_free_again(open_toy):
    engine, huge = open_toy().ready(), open_toy(huge=True, context_length=512)
    process = psutil.Process(engine.pid)
    with pytest.raises(UserError, match="Memory ran out, and the model was unloaded") as refusal:
        list(engine.stream(ask("too much")))
    assert refusal.value.code == "OOM" and "a context length of 2,000 tokens" in refusal.value.remedy
    assert not process.is_running()
    assert text_of(engine.stream(ask("less"))) == "less"
    with pytest.raises(UserError, match="Memory ran out") as refusal:
        huge.ready()
    assert refusal.value.code == "OOM" and "256 tokens" in refusal.value.remedy


@pytest.mark.parametrize(
    "template",
    [None, "{{ broken", "{{ raise_exception('no') }}", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
     "{{ 'x' * 10**10 }}", "{{ messages.__class__.__mro__[1].__subclasses__() }}", "{{ lipsum.__globals__['os'].popen('id').read() }}",
     "{{ cycler.__init__.__globals__.os.system('true') }}"],
)  # fmt: skip
def test_a_template_that_does_not_work_falls_back_to_vicuna_and_says_so(open_toy, template):
    pieces = list(open_toy(template=template).stream(ask("hi")))
    assert text_of(pieces) == "hi"
    assert next(piece.notice for piece in pieces if piece.notice).endswith("Vicuna form instead, which it may not know.")


def test_a_conversation_that_does_not_fit_is_refused_and_the_model_stays(open_toy):
    engine = open_toy()
    with pytest.raises(UserError, match="context length is 4000") as refusal:
        list(engine.stream(ask("x" * 5000)))
    assert refusal.value.code == "CONTEXT"
    assert text_of(engine.stream(ask("short"))) == "short"


def test_many_prompts_are_answered_in_order(open_toy):
    assert open_toy().answers([ask(word) for word in "one two three".split()], 20) == ["one", "two", "three"]


def test_several_models_answer_together_and_one_that_dies_leaves_the_others(open_toy):
    engines = [open_toy(), open_toy(crash=True), open_toy()]
    found = list(side_by_side([Question(engine, ask("hello")) for engine in engines], Sampling()))
    assert [text_of(piece for index, piece in found if index == wanted) for wanted in (0, 2)] == ["hello", "hello"]
    assert [type(piece) for index, piece in found if index == 1] == [UserError]


def test_leaving_a_comparison_stops_every_model(open_toy):
    engines = [open_toy(delay_s=0.01), open_toy(delay_s=0.01)]
    together = side_by_side([Question(engine, ask("forever")) for engine in engines], Sampling(max_tokens=100_000))
    next(together)
    together.close()
    assert all(text_of(engine.stream(ask("free"))) == "free" for engine in engines)


def test_a_comparison_that_is_left_while_a_model_loads_asks_it_for_no_whole_answer(open_toy):
    quick, slow, pieces = open_toy(), open_toy(load_s=1, delay_s=0.01), []
    slow.stream = lambda *asked, _stream=slow.stream, **named: (pieces.append(piece) or piece for piece in _stream(*asked, **named))
    together = side_by_side([Question(quick, ask("hi")), Question(slow, ask("forever"))], Sampling(max_tokens=100_000))
    next(together)
    together.close()
    assert pieces[-1].done == "stopped" and len(pieces) < 1000
    assert text_of(slow.stream(ask("free"))) == "free"


def test_the_child_ends_when_its_parent_is_killed():
    script = (
        "from tests.unit.chat.test_engine import ARTIFACT, TOY, Engine, Sampling, VICUNA_TEMPLATE, ask\n"
        "engine = Engine(ARTIFACT, TOY, {'template': VICUNA_TEMPLATE, 'delay_s': 0.01})\n"
        "stream = engine.stream(ask('forever'), Sampling(max_tokens=100000))\n"
        "next(stream); print(engine.pid, flush=True)\n"
        "for _ in stream: pass\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    began = time.monotonic()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() - began < 30:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_text_is_gone_on_with_as_it_is(open_toy):
    pieces = list(open_toy().stream("no template USER: hi ASSISTANT:"))
    assert text_of(pieces) == " hi", "white space at the beginning belongs to a raw text"
    with pytest.raises(UserError, match="nothing to go on from"):
        list(open_toy().stream(""))


def test_a_conversation_is_shown_as_the_model_reads_it(open_toy):
    engine = open_toy()
    rendered = engine.rendered(ask("hi"))
    assert rendered.text.endswith("USER: hi ASSISTANT:") and rendered.notice is None
    assert (rendered.tokens, rendered.context_length) == (len(rendered.text), 4000)
    assert "Vicuna form" in open_toy(template=None).rendered(ask("hi")).notice
    assert engine.rendered("as it is").text == "as it is"


def test_figures_of_an_answer_say_how_full_the_context_is_and_what_it_takes(open_toy):
    stats = list(open_toy().stream(ask("hi")))[-1].stats
    assert stats["context_length"] == 4000 and stats["resident_bytes"] > 10**6
    assert stats["prompt_tokens"] > stats["generated_tokens"] == 3 and stats["cached_tokens"] == 0


def test_every_part_of_a_split_file_is_checked_before_the_model_is_loaded(tmp_path):
    parts = split_gguf(a_file(tmp_path / "m.gguf"), 600)
    assert len(parts) > 2
    model = artifacts.resolve(str(parts[0]))
    assert child_payload(model, 64)["path"] == str(parts[0])
    for part in parts:
        whole = part.read_bytes()
        part.write_bytes(whole[:-40])
        with pytest.raises(UserError) as refusal:
            child_payload(model, 64)
        assert refusal.value.code == "GGUF" and part.name in str(refusal.value)
        part.write_bytes(whole)
    parts[-1].unlink()
    with pytest.raises(UserError, match="is missing"):
        open_engine(model)
