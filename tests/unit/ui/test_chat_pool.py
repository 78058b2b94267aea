"""Visitors share loaded models: each in turn, everybody stoppable, nobody's crash anybody else's."""

import threading
import time
from pathlib import Path

import pytest

from core.chat import memory
from core.chat.engine import Piece
from core.chat.memory import Need, Room
from core.chat.sampling import Sampling
from core.chat.sources import Source, of_artifact
from core.errors import UserError
from core.export.artifacts import Artifact
from tests.page import free_port
from ui import chat_ask, chat_pool, chat_view

GB = 10**9


class WordEngine:
    """A model that says the words it is asked to, one every few milliseconds; ``crash`` makes it fail."""

    def __init__(self, artifact, **_):
        self.artifact, self.said, self.is_closed = artifact, [], False
        self._stop, self._closed = threading.Event(), threading.Event()

    def ready(self):
        return self

    def stream(self, messages, sampling, *, with_adapter=True):
        self._stop.clear()
        self.said.append(messages[-1]["content"])
        for word in messages[-1]["content"].split():
            time.sleep(0.01)
            if word == "hang":
                self._closed.wait(60)
                raise UserError("The model stopped (SIGKILL).", self.artifact.name, "Ask again.", code="CRASH")
            if word == "crash":
                raise UserError("The model stopped (SIGSEGV).", self.artifact.name, "Ask again: it is loaded anew.", code="CRASH")
            if self._stop.is_set():
                yield Piece("", done="stopped", stats={})
                return
            yield Piece(word + " ", token_id=1)
        yield Piece("", done="eos", stats={"generated_tokens": 3})

    def stop(self):
        self._stop.set()

    def close(self):
        self.is_closed = True
        self._closed.set()


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(chat_pool, "open_source", lambda source, _: WordEngine(source.artifact))
    return chat_pool.Pool(max_loaded=3, idle_s=1000)


def model(name):
    return of_artifact(Artifact(id=name, kind="merged", level=name, name="m", folder=Path("/nowhere")))


def ask(pool, names, prompt):
    asked = [(model(name), [{"role": "user", "content": f"{name} {prompt}"}]) for name in names]
    return chat_ask.Ask(pool, asked, Sampling())


def whole(question):
    *_, columns = question.watch()
    return columns


def test_every_model_answers_and_says_how_it_ended(pool):
    columns = whole(ask(pool, ["a", "b"], "one two"))
    assert [column.text for column in columns] == ["a one two ", "b one two "]
    assert [column.stop for column in columns] == ["eos", "eos"]


def test_a_model_that_fails_leaves_the_others_their_answer(pool):
    asked = [(model("a"), [{"role": "user", "content": "crash"}]), (model("b"), [{"role": "user", "content": "fine"}])]
    failed, fine = whole(chat_ask.Ask(pool, asked, Sampling()))
    assert failed.error.code == "CRASH" and failed.state == "done"
    assert fine.text == "fine " and fine.error is None


def test_a_stopped_question_keeps_what_was_written(pool):
    question = ask(pool, ["a"], "word " * 500)
    for (column,) in question.watch():
        if column.pieces:
            question.stop()
    assert column.stop == "stopped" and 0 < len(column.pieces) < 500


def test_a_model_that_does_not_listen_is_ended_when_the_person_stops_it(pool, monkeypatch):
    monkeypatch.setattr(chat_ask, "PATIENCE_S", 0.2)
    question = ask(pool, ["a"], "hang")
    for (column,) in question.watch():
        if column.text == "a ":
            question.stop()
    assert column.stop == "stopped" and column.error is None and column.text == "a "


def test_a_model_that_is_stopped_while_it_loads_is_asked_nothing(pool):
    question = ask(pool, ["a"], "one two")
    loading, is_loaded = threading.Event(), threading.Event()
    (place,) = question._places
    place.engine.ready = lambda: (loading.set(), is_loaded.wait(30))
    watching = question.watch()
    next(watching)
    assert loading.wait(30)
    question.stop()
    is_loaded.set()
    *_, (column,) = watching
    assert column.stop == "stopped" and place.engine.said == []


def test_a_corrected_key_is_used_at_once(pool, monkeypatch):
    monkeypatch.setattr(chat_pool, "keys", {"a": "wrong"})
    (old,) = pool.take([model("a")])
    pool.give_back([old])
    chat_pool.keys["a"] = "right"
    (new,) = pool.take([model("a")])
    assert new is not old and old.engine.is_closed and pool.loaded() == ["a"]


def test_closing_the_page_stops_the_models_within_two_seconds(pool):
    watching = ask(pool, ["a"], "word " * 2000).watch()
    (left,) = next(watching)
    watching.close()
    assert whole(ask(pool, ["a"], "next"))[0].text == "a next "
    assert left.stop == "stopped" and len(left.pieces) < 200, "each word takes at least 10 ms"


def test_visitors_are_served_in_the_order_they_came(pool):
    (place,) = pool.take([model("a")])
    assert place.enter(threading.Event(), lambda _: None)  # somebody is being answered
    asking = []
    for name in ("first", "second", "third"):
        asking.append(threading.Thread(target=whole, args=(ask(pool, ["a"], name),)))
        asking[-1].start()
        while len(place._line) <= len(asking):
            time.sleep(0.01)
    place.leave()
    for thread in asking:
        thread.join()
    assert [said.split()[1] for said in place.engine.said] == ["first", "second", "third"]


def test_one_who_waits_and_gives_up_stops_nobody_else(pool):
    first, second = ask(pool, ["a"], "word " * 40), ask(pool, ["a"], "never")
    answers = []
    running = threading.Thread(target=lambda: answers.append(whole(first)))
    running.start()
    while not first.columns[0].pieces:
        time.sleep(0.01)
    waiting = second.watch()
    next(waiting)
    waiting.close()
    running.join()
    assert answers[0][0].stop == "eos" and len(answers[0][0].pieces) == 41


def test_an_idle_model_is_unloaded_and_a_busy_one_is_not(pool):
    busy, idle = pool.take([model("a"), model("b")])
    pool.give_back([idle])
    pool.unload_idle(0)
    assert idle.engine.is_closed and not busy.engine.is_closed and pool.loaded() == ["a"]


def test_room_is_made_by_unloading_the_one_used_longest_ago(pool):
    for name in ("a", "b", "c"):
        pool.give_back(pool.take([model(name)]))
    pool.take([model("d")])
    assert pool.loaded() == ["b", "c", "d"]


def test_when_every_place_is_in_use_the_person_is_told(pool):
    pool.take([model("a"), model("b"), model("c")])
    with pytest.raises(UserError, match="3 models are in use"):
        pool.take([model("d")])


def column(pieces, state="done", stop="eos"):
    return chat_ask.Column(model("x"), state=state, pieces=pieces, stop=stop)


@pytest.mark.parametrize(
    ("first", "other", "mark"),
    [
        (column(["Par", "is"]), column(["Par", "is"]), None),
        (column(["Paris", " is"]), column(["Pa", "ris", " is"]), None),  # another vocabulary, the same text
        (column(["Par", "is"]), column(["Par", "ty"]), [2, 3, 5]),
        (column(["Par", "is"]), column(["Par"]), [2, 3, 3]),
        (column(["Par"]), column(["Par", "is"]), [2, 3, 5]),
        (column(["Par"], "writing", ""), column(["Par", "is"]), None),  # the first may still say it
        (column(["Par", "is"]), column(["Par"], "writing", ""), None),
        (column(["Par", "is"]), column(["Par"], "done", "stopped"), None),
    ],
)
def test_the_first_difference_is_found_by_text(first, other, mark):
    assert chat_view.first_difference(first, other) == mark


def test_what_models_and_people_write_stays_text():
    evil = "<script>alert(1)</script>"
    answers = chat_view.answers_of([column([evil]), column(["x", evil])])
    html = chat_view.transcript([{"prompt": evil, "answers": answers}])
    assert "<script" not in html and html.count("&lt;script&gt;") == 3


def test_who_waits_is_told_how_many_are_before(pool):
    (place,) = pool.take([model("a")])
    assert place.enter(threading.Event(), lambda _: None)  # somebody is being answered
    watching = ask(pool, ["a"], "next").watch()
    while (column := next(watching)[0]).ahead == 0:
        continue
    assert (column.ahead, column.state) == (1, "waiting")
    place.leave()
    *_, (column,) = watching
    assert column.text == "a next "
    waiting = chat_view.answers_of([chat_ask.Column(model("x"), ahead=2)])
    assert "waits behind 2" in chat_view.transcript([{"prompt": "p", "answers": waiting}])


def test_another_context_length_is_another_place_and_the_idle_one_gives_way(pool):
    (short,) = pool.take([model("a")], 512)
    (long,) = pool.take([model("a")], 1024)
    assert short is not long and pool.loaded() == ["a", "a"]
    pool.give_back([short])
    pool.take([model("a")], 2048)
    assert short.engine.is_closed and not long.engine.is_closed


def test_an_adapter_switched_on_and_off_is_loaded_once(pool):
    adapter = Artifact(id="a", kind="adapter", name="m", folder=Path("/nowhere"))
    on, off = pool.take([of_artifact(adapter), of_artifact(adapter, with_adapter=False)])
    assert on is off and pool.loaded() == ["a"]


def test_what_does_not_fit_into_memory_is_refused_before_it_is_loaded(pool, monkeypatch):
    (idle,) = places = pool.take([model("a")])
    pool.give_back(places)
    monkeypatch.setattr(memory, "room", lambda: Room(10**6))
    monkeypatch.setattr(memory, "needed", lambda *_: Need(10**10))
    with pytest.raises(UserError, match="Loading these models needs about") as refusal:
        pool.take([model("b")])
    assert refusal.value.code == "MEMORY" and pool.loaded() == ["a"] and not idle.engine.is_closed, "nothing is unloaded in vain"


def test_gpu_memory_of_models_side_by_side_is_added_up_before_they_are_loaded(pool, monkeypatch):
    monkeypatch.setattr(memory, "room", lambda: Room(10**12, (20 * GB,), has_torch_gpu=True))
    monkeypatch.setattr(memory, "needed", lambda sources, *_: Need(0, first_gpu=12 * GB * len(list(sources))))
    pool.take([model("a")])
    with pytest.raises(UserError, match=r"24\.0 GB of GPU memory and 20\.0 GB are free"):
        pool.take([model("b"), model("c")])


def test_idle_models_make_way_for_one_that_would_not_fit_beside_them(pool, monkeypatch):
    monkeypatch.setattr(memory, "room", lambda: Room(10 * GB - 4 * GB * len(pool._places)))
    monkeypatch.setattr(memory, "needed", lambda sources, *_: Need(4 * GB * len(list(sources))))
    for name in ("a", "b"):
        pool.give_back(pool.take([model(name)]))
    assert pool.room_for([model("c")]).main == 10 * GB and pool.room_for([model("a")]).main == 6 * GB
    (busy,) = pool.take([model("c")])
    assert pool.loaded() == ["b", "c"], "the one used longest ago goes, and no more than has to"
    pool.take([model("d")])
    with pytest.raises(UserError, match=r"needs about 4\.0 GB"):
        pool.take([model("e")])
    assert pool.loaded() == ["c", "d"] and not busy.engine.is_closed


def test_an_error_that_nobody_foresaw_is_said_and_holds_nobody_up(pool):
    question = ask(pool, ["a"], "one")
    question._places[0].engine.stream = lambda *_, **__: iter([object()])
    (column,) = whole(question)
    assert column.error.code == "BUG" and column.state == "done"
    del question._places[0].engine.stream
    assert whole(ask(pool, ["a"], "next"))[0].text == "a next "


def test_a_page_that_reads_slowly_holds_up_nobody_and_loses_nothing(pool):
    slow = ask(pool, ["a"], "word " * 50).watch()
    next(slow)
    assert whole(ask(pool, ["a"], "next"))[0].text == "a next ", "its answer was written while it did not look"
    *_, (column,) = slow
    assert column.stop == "eos" and len(column.pieces) == 51


def test_six_models_of_which_one_is_a_dead_endpoint(monkeypatch):
    port = free_port()
    monkeypatch.setattr(chat_pool, "open_source", lambda source, _: source.open() if source.url else WordEngine(source.artifact))
    dead = Source("dead", "dead", "endpoint", url=f"http://127.0.0.1:{port}/v1", model="m")
    asked = [(source, [{"role": "user", "content": "one two"}]) for source in (*(model(name) for name in "abcde"), dead)]
    *fine, failed = whole(chat_ask.Ask(chat_pool.Pool(), asked, Sampling()))
    assert [column.text for column in fine] == ["one two "] * 5
    assert failed.error.code == "NET" and "does not answer" in failed.error.problem
