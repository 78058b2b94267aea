"""Which level to take, said in a sentence."""

import dataclasses
import queue
from types import SimpleNamespace

import gradio as gr
import pytest

from core import events, paths
from core.errors import UserError
from core.events import Run, Step
from core.export import artifacts, measure, sizes
from core.export.artifacts import Artifact
from core.export.levels import parse_levels
from core.running import steps
from tests.unit.data.files import record
from tests.unit.training.test_samples import imported, run_of
from tests.unit.ui.test_chat_talk import call
from ui import models_ladder, models_tab, models_view, picks


def made(level, size_bytes, kl, top1):
    measured = {
        "kl_mean": kl,
        "kl_p99": (kl or 0) * 9,
        "top1_agreement": top1,
        "resident_bytes": size_bytes + 10,
        "measured_on": "text",
        "num_tokens": 5,
    }
    files = [{"name": "m.gguf", "size_bytes": size_bytes, "sha256": ""}]
    return Artifact(id=level, kind="gguf", level=level, name="m", measured=measured if kl is not None else {}, files=files)


LEVELS = [made("f16", 4 * 10**9, 0.0, 1.0), made("q8_0", 2 * 10**9, 0.001, 0.99), made("q4_0", 10**9, 0.05, 0.9)]


@pytest.mark.parametrize(
    ("how", "gigabytes", "share", "said"),
    [
        (models_ladder.BY_SIZE, 2.5, 0, "Take q8_0."), (models_ladder.BY_SIZE, 0.5, 0, "No measured level fits"),
        (models_ladder.BY_SIZE, None, 0, "No measured level fits"), (models_ladder.BY_QUALITY, 0, 85, "Take q4_0."),
        (models_ladder.BY_QUALITY, 0, 99.5, "Take f16."), (models_ladder.BY_MACHINE, 0, 0, "Take q8_0."),
    ],
)  # fmt: skip
def test_the_best_level_for_a_size_a_quality_and_this_machine(monkeypatch, how, gigabytes, share, said):
    monkeypatch.setattr(picks, "of_run", lambda run_id: LEVELS)
    monkeypatch.setattr(models_ladder, "free_bytes", lambda: 5 * 10**9)
    assert said in call(models_ladder.advise, "r", how, gigabytes, share)


@pytest.fixture
def run_dir(workspace):
    """A run with levels, of which nothing was measured."""
    (workspace / "runs").mkdir(parents=True)
    run_dir = run_of(workspace / "runs", imported(workspace, "talks.json", [record(number) for number in range(9)]), eval_fraction=0.4)
    run_dir = run_dir.rename(run_dir.with_name("261123-000000-abcd"))
    events.append(run_dir, "created", run_id=run_dir.name, name="Talks", method="qlora", steps=["gguf"])
    for level in ("f32", "f16", "q4_0"):
        with paths.building(run_dir / "artifacts" / f"gguf-{level.replace('_', '-')}") as folder:
            (folder / "m.gguf").write_bytes(b"GGUF" * (9 if level == "f32" else 2))
            artifacts.write(Artifact(id=f"{run_dir.name}-{level}", kind="gguf", level=level, name="m", run_id=run_dir.name), folder)
        events.append(run_dir, "artifact", id=f"{run_dir.name}-{level}", kind_of="gguf", path=f"artifacts/{folder.name}")
    events.append(run_dir, "finished", state="done")
    yield run_dir
    models_ladder._measured.pop(run_dir.name, None)


def measured_to_the_end(run_id, passage):
    call(models_ladder.measure_run, run_id, passage)
    models_ladder._measured[run_id].wait(60)
    assert models_ladder._measured[run_id].is_over and models_ladder._measured[run_id].failure is None


def test_an_empty_text_measures_what_the_run_itself_measured_against_the_same_file(run_dir, monkeypatch):
    """So the page finds the run's own figures again, also where a larger float file than f16 is there."""
    asked = []

    def note(levels, reference, conversations, *, text=None, max_length=None, **_how):
        kept = measure.fingerprint(conversations, measure.MAX_TOKENS, max_length, text)
        asked.append((sorted(level.id for level in levels), reference.level, max_length, kept))

    monkeypatch.setattr(measure, "measure", note)
    steps.measure(run_dir)
    measured_to_the_end(run_dir.name, " ")
    assert asked[0] == asked[1] and asked[0][1:3] == ("f16", 64)
    measured_to_the_end(run_dir.name, "my own words")
    assert asked[2][1:3] == ("f16", None), "a text is cut into windows, whatever the recipe says"


@pytest.fixture
def held(run_dir, monkeypatch):
    """A measuring that goes on by one step for each `go.put`: a share of the first level, or an error."""
    go, told = queue.Queue(), queue.Queue()

    def measure_so_far(levels, _reference, _conversations, *, on_event, **_how):
        for done in iter(go.get, None):
            if isinstance(done, Exception):
                raise done
            on_event({"event": "progress", "id": levels[0].id, "done": done, "total": 100})
            told.put(done)

    monkeypatch.setattr(measure, "measure", measure_so_far)
    monkeypatch.setattr(models_ladder, "PATIENCE_S", 0.0)
    yield SimpleNamespace(run_id=run_dir.name, go=go, told=told)
    go.put(None)
    models_ladder._measured[run_dir.name].wait(60)


def shown_after_a_reload(run_id, seen=""):
    """(state, go, cancel) as a page shows them that has `seen` so much, and what it has seen then."""
    *_, state, go, halt, seen = call(models_tab.look, run_id, [], False, seen)
    return state, *(button.interactive if isinstance(button, gr.Button) else None for button in (go, halt)), seen


def test_a_reload_finds_the_measuring_that_goes_on_and_can_cancel_it(held):
    state, go, halt = call(models_ladder.measure_run, held.run_id, "my own words")
    assert "of the measuring is done" in state and (go.interactive, halt.interactive) == (False, True)
    held.go.put(60)
    assert held.told.get(timeout=60) == 60
    state, can_start, can_stop, seen = shown_after_a_reload(held.run_id)
    assert "20 %" in state and (can_start, can_stop) == (False, True)
    state, *_ = shown_after_a_reload(held.run_id, seen)
    assert state == gr.skip(), "nothing has changed"
    first = models_ladder._measured[held.run_id]
    call(models_ladder.measure_run, held.run_id, "other words")
    assert models_ladder._measured[held.run_id] is first, "a second click finds the first one's work"
    state, go, halt = call(models_ladder.cancelled, held.run_id)
    assert "Cancelled" in state and (go.interactive, halt.interactive) == (True, False)
    held.go.put(70)
    first.wait(60)
    assert first.is_over and held.told.empty(), "it ended at its next progress"
    assert "Cancelled" in shown_after_a_reload(held.run_id)[0]


def test_what_became_of_the_measuring_is_said_on_return(held):
    call(models_ladder.measure_run, held.run_id, "my own words")
    held.go.put(UserError("The disk is full.", "measuring", "Free some space."))
    models_ladder._measured[held.run_id].wait(60)
    state, can_start, can_stop, _ = shown_after_a_reload(held.run_id)
    assert "The disk is full." in state and "Free some space." in state and (can_start, can_stop) == (True, False)
    call(models_ladder.measure_run, held.run_id, "my own words")
    held.go.put(None)
    models_ladder._measured[held.run_id].wait(60)
    assert "Measured." in shown_after_a_reload(held.run_id)[0]


def test_a_visitor_sees_nothing_of_the_owners_measuring(held, monkeypatch):
    call(models_ladder.measure_run, held.run_id, "my own words")
    assert "of the measuring is done" in shown_after_a_reload(held.run_id)[0]
    monkeypatch.setenv("SYSTEM", "spaces")
    overview, *_, state, go, halt, _ = call(models_tab.look, held.run_id, [], False, "")
    assert overview and state == go == halt == gr.skip()
    with pytest.raises(UserError, match="only its owner"):
        call(models_ladder.cancelled, held.run_id)


def test_what_was_not_measured_is_not_advised(monkeypatch):
    monkeypatch.setattr(picks, "of_run", lambda run_id: [made("f16", 1, None, None)])
    assert "No level has been measured" in call(models_ladder.advise, "r", models_ladder.BY_SIZE, 4, 0)
    assert call(models_ladder.advise, None, models_ladder.BY_SIZE, 4, 0) == ""


def test_the_table_says_on_what_it_was_measured():
    table = models_view.level_table(LEVELS)
    assert "5 tokens of a text of one&#x27;s own" in table or "a text of one's own" in table
    assert "KL, worst 1\N{NO-BREAK SPACE}%" in table and "2.0 GB" in table


def test_levels_that_a_cancelled_measuring_left_apart_are_marked_and_the_caption_is_that_of_the_others():
    def on(level, kind, tokens):
        return level.model_copy(update={"measured": level.measured | {"measured_on": kind, "num_tokens": tokens, "eval_sha256": kind}})

    apart = [on(LEVELS[0], "text", 700), *(on(level, "conversations", 5) for level in LEVELS[1:]), made("q4_1", 10, None, None)]
    shown = models_view.level_table(apart)
    assert "5 tokens of conversations" in shown and "700" not in shown and "Not comparable: measured on another text" in shown
    marked = [row for row in shown.split("<tr")[1:] if "not comparable" in row]
    assert len(marked) == 1 and "<b>f16</b>" in marked[0]
    assert "comparable" not in models_view.level_table(LEVELS)


def test_the_table_says_what_an_importance_matrix_buys():
    both = [
        made("Q4_K_M", 100, 0.02, 0.9),
        made("Q4_K_M+imatrix", 101, 0.015, 0.92),
        made("q5_0", 120, 0.01, 0.95),
        made("q4_0+imatrix", 90, 1, 1),
    ]
    assert "brings Q4_K_M 25 % closer to f16 (KL 0.015 instead of 0.02)." in models_view.level_table(both)
    worse = [made("Q2_K", 100, 0.02, 0.9), made("Q2_K+imatrix", 100, 0.03, 0.9)]
    assert "Q2_K 50 % farther from f16" in models_view.level_table(worse) and "importance" not in models_view.level_table(LEVELS)


def test_levels_are_offered_plain_or_guided_with_their_size(workspace):
    (workspace / "cache" / "sizes").mkdir(parents=True)
    f16 = made("f16", 4 * 10**9, 0.0, 1.0)
    f16 = f16.model_copy(update={"files": (f16.files[0].model_copy(update={"sha256": "0" * 64}),)})
    assert ("Q4_K_M · about 0 B", "Q4_K_M") in models_tab._missing([f16], is_guided=False)
    paths.write_json(sizes._kept(f16), {"Q4_K_M": 2_600_000, "Q4_K_M+imatrix": 2_700_000, "IQ2_XXS": 900_000})
    floats = [("f32 · about 0 B", "f32"), ("bf16 · about 0 B", "bf16")]  # converted, whatever a quantisation makes
    assert models_tab._missing([f16], is_guided=False) == [*floats, ("Q4_K_M · 2.6 MB", "Q4_K_M")]
    assert models_tab._missing([f16], is_guided=True) == [("Q4_K_M · 2.7 MB", "Q4_K_M+imatrix"), ("IQ2_XXS · 900.0 kB", "IQ2_XXS")]


def test_the_page_says_what_levels_are_made_from_and_why():
    assert models_view.why_made_of([]).startswith("By itself: f16 where it holds every weight")
    bf16 = made("bf16", 4 * 10**9, 0.0, 1.0).model_copy(update={"float_reason": "head.weight reaches 70,144"})
    assert models_view.why_made_of([LEVELS[1], bf16]) == "By itself: bf16, because head.weight reaches 70,144."
    assert models_view.why_made_of([LEVELS[1], bf16, LEVELS[0]]) == "By itself: f16, which is there."


def test_one_level_that_fails_its_proof_is_seen_however_good_the_others_are():
    fine = [level.model_copy(update={"proofs": {"merge_kl": 0.0, "passed": True}}) for level in LEVELS]
    assert "every proof holds" in models_view.proofs(fine)
    broken = fine[1].model_copy(update={"proofs": {"merge_kl": 0.0, "passed": False}})
    assert "do not publish" in models_view.proofs([fine[0], broken, fine[2]])


def test_every_level_that_is_still_to_be_made_has_a_bar():
    run = Run(state="running", steps=(Step("gguf", "running"),), progress={"step": "gguf", "id": "q4_0", "done": 10, "total": 40})
    wanted = parse_levels("q8_0,q5_0,q4_0,Q4_K_M")
    bars = models_view.level_bars(run, wanted, LEVELS[1:2])
    assert [name in bars for name in ("q8_0", "q5_0", "q4_0", "Q4_K_M")] == [False, True, True, True]
    assert 'aria-label="q4_0 25 %"' in bars and 'aria-label="Q4_K_M 0 %"' in bars
    assert models_view.level_bars(dataclasses.replace(run, state="done"), wanted, []) == ""
