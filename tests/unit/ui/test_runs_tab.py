"""The Runs and Models tabs say what the disk says, and send again only what changed."""

import gradio as gr
import pytest

from core import events, paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from ui import models_tab, picks, runs_tab


@pytest.fixture
def run_dir(workspace):
    return make_run("r-1", "done")


def make_run(run_id, state, error=None):
    folder = paths.runs_dir() / run_id
    folder.mkdir(parents=True)
    events.append(folder, "created", run_id=run_id, name="Argo", method="lora", steps=["train", "merge"])
    events.append(folder, "train_began", step=0, max_steps=2)
    events.append(folder, "train_log", step=1, loss=2.0, learning_rate=1e-4)
    events.append(folder, "finished", state=state, error=error)
    return folder


def make_level(run_dir, level, kl):
    with paths.building(run_dir / "artifacts" / f"gguf-{level}") as folder:
        (folder / f"Argo-{level}.gguf").write_bytes(b"GGUF" * (100 if level == "f16" else 50))
        made = Artifact(id=f"{run_dir.name}-{level}", kind="gguf", level=level, name="Argo", run_id=run_dir.name, measured={"kl_mean": kl})
        artifacts.write(made, folder)
    events.append(run_dir, "artifact", id=made.id, kind_of="gguf", path=f"artifacts/gguf-{level}")


def look(run_id="", seen=""):
    return runs_tab.look(None, None, run_id, seen)


def is_skipped(value):
    return value == gr.skip()


def test_an_empty_workspace_says_what_to_do(workspace):
    lead, to_train, *_ = look()
    assert "No run yet" in lead and to_train.visible


def test_a_second_look_sends_only_the_hardware_until_something_happens(run_dir):
    first = look()
    again = look(seen=first[-1])
    assert all(is_skipped(value) for value in again[:-2]) and again[-1] == first[-1]
    events.append(run_dir, "note", text="something new")
    third = look(seen=again[-1])
    assert any("something new" in value for value in third if isinstance(value, str))


def test_the_newest_run_is_shown_when_the_chosen_one_is_gone(run_dir):
    make_run("r-2", "failed", {"problem": "The disk is full.", "where": "train", "remedy": "Free some space.", "code": "DISK"})
    shown = look("nobody")
    assert any("The disk is full." in value for value in shown if isinstance(value, str))
    chosen = next(value for value in shown if isinstance(value, gr.Radio))
    assert chosen.value == "r-2" and len(chosen.choices) == 2


def test_a_log_line_is_shown_without_secrets_and_folders(run_dir):
    (run_dir / "worker.log").write_text("token hf_abcdefghijklmnopqrstuvwxyz in /srv/somewhere/model.bin\n")
    text = " ".join(value for value in look() if isinstance(value, str))
    assert "[secret]" in text and "hf_abc" not in text and "/srv/somewhere" not in text


def test_only_the_owner_may_stop_or_quantise(run_dir, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert "r-1" in str(look())
    for handler, values in (
        (runs_tab.stop_run, ("r-1",)),
        (runs_tab.resume_chosen, ("r-1",)),
        (models_tab.quantise_more, ("r-1", ["q4_0"])),
    ):
        with pytest.raises(UserError, match="only its owner"):
            handler(None, None, *values)


def test_models_are_offered_four_at_once_and_a_choice_of_ones_own_stays(run_dir):
    for level, kl in (("f16", 0.0), ("q8_0", 0.001), ("q5_0", 0.02), ("q4_0", 0.09), ("q4_1", 0.2)):
        make_level(run_dir, level, kl)
    shown = models_tab.look(None, None, "", [], [], "")
    offered = next(value for value in shown if isinstance(value, gr.CheckboxGroup)).value
    assert offered == ["r-1-f16", "r-1-q8_0", "r-1-q5_0", "r-1-q4_0"] or len(offered) == 4
    make_level(run_dir, "q5_1", 0.01)
    own = models_tab.look(None, None, "", ["r-1-f16"], [], shown[-1])
    assert next(value for value in own if isinstance(value, gr.CheckboxGroup)).value == ["r-1-f16"]


def test_ids_travel_as_one_text_and_come_back():
    assert picks.split(picks.join(["a", "b"])) == ["a", "b"] and picks.split("") == []
    assert picks.known(["a", "x"], [("A", "a")]) == ["a"]
