"""The Runs and Models tabs say what the disk says, and send again only what changed."""

import zipfile

import gradio as gr
import pytest

from core import events, paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.levels import LEVELS
from core.locks import FileLock
from core.running import compare, live, queue
from core.training.presets import demo
from core.training.recipe import Recipe
from ui import models_tab, picks, publish_tab, run_details, run_kept, run_sync, runs_tab


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


def words(shown):
    return " ".join(value for value in shown.values() if isinstance(value, str))


def test_an_empty_workspace_says_what_to_do(workspace):
    shown = look()
    assert "No run yet" in shown["lead"] and shown["to_train"].visible and not shown["body"].visible


def test_a_second_look_sends_only_the_hardware_until_something_happens(run_dir):
    first = look()
    again = look(seen=first["seen"])
    assert set(again) == {"hardware", "seen"} and again["seen"] == first["seen"]
    events.append(run_dir, "note", text="something new")
    assert "something new" in words(look(seen=again["seen"]))


def test_the_newest_run_is_shown_when_the_chosen_one_is_gone(run_dir):
    make_run("r-2", "failed", {"problem": "The disk is full.", "where": "train", "remedy": "Free some space.", "code": "DISK"})
    shown = look("nobody")
    assert "The disk is full." in shown["status"]
    assert shown["chosen"].value == "r-2" and len(shown["chosen"].choices) == 2


def test_a_log_line_is_shown_without_secrets_and_folders(run_dir):
    (run_dir / "worker.log").write_text("token hf_abcdefghijklmnopqrstuvwxyz in /srv/somewhere/model.bin\n")
    said = words(look())
    assert "[secret]" in said and "hf_abc" not in said and "/srv/somewhere" not in said


def test_what_is_being_typed_stays_when_the_run_goes_on_and_changes_with_the_run(run_dir):
    make_run("r-2", "done")
    first = look("r-1")
    assert first["remark"] == "" and first["asked"] == ""
    events.append(run_dir, "note", text="something new")
    second = look("r-1", first["seen"])
    assert "status" in second and not {"remark", "confirm", "asked", "others", "stop", "resume"} & set(second)
    third = look("r-2", second["seen"])
    assert third["remark"] == "" and not third["confirm"].visible, "the question was about another run"


def test_a_run_that_waits_tells_its_place_and_can_be_moved(workspace):
    locks = []
    for run_id in ("r-1", "r-2", "r-3"):
        folder = paths.runs_dir() / run_id
        folder.mkdir(parents=True)
        paths.write_json(folder / "launch.json", {"device": "test"})
        events.append(folder, "created", run_id=run_id, name=f"N{run_id}", method="lora", steps=["train"])
        locks.append(FileLock(folder / queue.RUN_LOCK))
        assert locks[-1].acquire()
        queue.join("test", run_id, f"N{run_id}", "me")
        events.append(folder, "queued", waiting_for="supervisor", device="test")
    third = look("r-3")
    assert "second in the queue, behind Nr-2" in third["status"] and third["move"].visible and third["stop"].value == "Leave the queue"
    assert "second in the queue" in third["chosen"].choices[0][0]
    assert not look("r-2")["move"].visible
    runs_tab.move_up(None, None, "r-3")
    assert "first in the queue, behind Nr-1" in look("r-3", third["seen"])["status"]
    for lock in locks:
        lock.release()
    assert look("r-3")["resume"].visible


def test_a_training_without_a_word_is_flagged_again_every_minute(run_dir, monkeypatch):
    folder = paths.runs_dir() / "r-9"
    folder.mkdir()
    lock = FileLock(folder / queue.RUN_LOCK)
    assert lock.acquire()
    for kind, fields in (("created", {"run_id": "r-9", "name": "S", "method": "lora", "steps": ["train"]}), ("started", {}),
                         ("step_started", {"step": "train"}), ("train_began", {"step": 0, "max_steps": 9})):  # fmt: skip
        events.append(folder, kind, **fields)
    first = look("r-9")
    assert "said nothing" not in first["status"]
    last_word = max(event["t"] for event in events.read(folder))
    monkeypatch.setattr(live.time, "time", lambda: last_word + 420.1)
    second = look("r-9", first["seen"])
    assert "said nothing for 7 min 00 s" in second["status"] and "no word for a while" in second["chosen"].choices[0][0]
    monkeypatch.setattr(live.time, "time", lambda: last_word + 430.1)
    assert "status" not in look("r-9", second["seen"])
    assert runs_tab.run_status(None, None, "r-9")["stalled_s"] > 400
    lock.release()


def ran_out(run_id, knobs):
    """A run whose memory ran out, and that was offered these knobs."""
    folder = make_run(run_id, "failed")
    paths.write_text(folder / "recipe.yaml", demo().to_yaml())
    paths.write_json(folder / "launch.json", {"device": "test"})
    events.append(folder, "finished", state="failed", error=None, change={"knobs": knobs, "said": "A little slower."})
    return folder


def test_where_memory_ran_out_the_change_that_fits_is_the_first_button(workspace):
    ran_out("r-1", {"micro_batch_size": 2, "gradient_accumulation_steps": 8})
    shown = look("r-1")
    assert shown["fit"].visible and shown["fit"].value == "Resume with micro batch size 2, gradient accumulation 8"
    assert shown["resume"].visible and shown["resume"].variant == "secondary"
    make_run("r-2", "failed")
    assert not look("r-2")["fit"].visible and look("r-2")["resume"].variant == "primary"


def test_a_change_that_a_run_cannot_go_on_with_is_set_up_in_the_form(workspace):
    ran_out("r-1", {"method": "lora", "learning_rate": 0.002})
    assert look("r-1")["fit"].value.startswith("Set up a run with method lora")
    kept, _ = runs_tab.resume_fitting(None, None, "r-1", "")
    assert (kept["values"]["method"], kept["values"]["learning_rate"]) == ("lora", 0.002)
    assert live.watch("r-1").run.state == "failed", "nothing was started"


def test_answers_are_shown_by_step_as_text(run_dir):
    for step in range(1, 21):
        events.append(run_dir, "samples", step=step, samples=[{"prompt": "Who <b>are</b> you?", "answer": f"<img src=x> {step}"}])
    shown = look()
    assert shown["answers"].visible and "&lt;img src=x&gt; 20" in shown["samples"] and "<img" not in shown["samples"]
    assert shown["samples"].count("<tr>") == 1 + 8 and "&gt; 1<" in shown["samples"], "the newest, and the first to compare with"


@pytest.fixture
def two_runs(run_dir):
    make_run("r-2", "done")
    for run_id, rate in (("r-1", 1e-4), ("r-2", 2e-4)):
        recipe = Recipe(method="lora", dataset="/srv/private/data.json", learning_rate=rate, name="Argo")
        paths.write_text(paths.runs_dir() / run_id / "recipe.yaml", recipe.to_yaml())
    return run_dir


def test_runs_are_compared_by_their_losses_and_what_differs_in_their_recipes(two_runs):
    assert run_details.compare_with(None, None, "r-1", []) == ""
    shown = run_details.compare_with(None, None, "r-1", ["r-2"])
    assert shown.count("<polyline") == 2 and "0.0002" in shown and "Learning rate" in shown
    assert "Maximum" not in shown and "/srv/private" not in shown
    assert [one.name for one in compare.differences(["r-1", "r-2"])] == ["learning_rate"]
    assert compare.differences(["r-1", "r-1"]) == []
    assert "are the same" in run_details.compare_with(None, None, "r-1", ["r-1"])
    assert "Only the first 3" in run_details.compare_with(None, None, "r-1", ["r-2", "r-2", "r-2", "r-2"])


def test_a_note_is_kept_and_names_its_section(two_runs):
    assert run_details.save_remark(None, None, "r-1", "higher rate, <b>\nmore").label == "Note: higher rate, <b>"
    assert look("r-1")["remark"] == "higher rate, <b>\nmore"
    assert run_details.note_title("x" * 100) == "Note: " + "x" * 60 + "…" and run_details.note_title(" ") == "Note"


def test_a_run_fills_the_form_of_another(two_runs):
    kept, tabs = run_details.clone(None, None, "r-2", "ds-carried")
    assert kept["values"]["learning_rate"] == 2e-4 and kept["carried"] == "ds-carried" and tabs.selected == "train"


def test_the_logs_are_packed_without_secrets(two_runs):
    (two_runs / "worker.log").write_text("token hf_abcdefghijklmnopqrstuvwxyz\n")
    (two_runs / "tensorboard").mkdir()
    (two_runs / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"points")
    with zipfile.ZipFile(run_details.pack_logs(None, None, "r-1")) as packed:
        assert set(packed.namelist()) == {f"r-1/{name}" for name in ("events.jsonl", "worker.log", "recipe.yaml",
                                                                     "tensorboard/events.out.tfevents.1.host")}  # fmt: skip
        assert packed.read("r-1/worker.log") == b"token [secret]\n"


def test_what_trackio_wrote_is_packed_and_its_commands_are_shown(two_runs):
    assert "trackio show" not in look("r-1")["facts"]
    (two_runs / "trackio").mkdir()
    (two_runs / "trackio" / "transmute.db").write_bytes(b"curves")
    with zipfile.ZipFile(run_details.pack_logs(None, None, "r-1")) as packed:
        assert packed.read("r-1/trackio/transmute.db") == b"curves"
    shown = look("r-1")
    assert f"TRACKIO_DIR={two_runs}/trackio trackio show --project transmute" in shown["facts"]
    assert shown["spacing"].visible and shown["space"] == "" and not shown["syncing"].visible
    assert not look("r-2")["spacing"].visible
    (two_runs / "trackio_space.json").write_text('{"space": "me/curves"}')
    assert look("r-1")["space"] == "me/curves", "sent again, it goes to the same Space"


def test_a_run_is_deleted_only_after_the_question_about_it(two_runs):
    asked, question, confirm = run_details.ask_to_delete(None, None, "r-1")
    assert asked == "r-1" and "Argo" in question and "kB" in question and confirm.visible and two_runs.exists()
    assert run_details.keep_run(None, None)[0] == ""
    run_details.delete_run(None, None, asked)
    assert not two_runs.exists() and look("r-1")["chosen"].value == "r-2"
    with pytest.raises(UserError, match="There is no run"):
        run_details.delete_run(None, None, "")


def test_only_the_owner_may_stop_or_quantise(run_dir, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert "r-1" in str(look())
    for handler, values in (
        (runs_tab.stop_run, ("r-1",)),
        (runs_tab.resume_chosen, ("r-1",)),
        (runs_tab.resume_fitting, ("r-1", "")),
        (runs_tab.move_up, ("r-1",)),
        (run_details.save_remark, ("r-1", "mine")),
        (run_details.clone, ("r-1", "")),
        (run_details.pack_logs, ("r-1",)),
        (run_details.ask_to_delete, ("r-1",)),
        (run_details.delete_run, ("r-1",)),
        (models_tab.quantise_more, ("r-1", "")),
    ):
        with pytest.raises(UserError, match="only its owner"):
            handler(None, None, *values)


def test_models_are_offered_four_at_once_and_a_choice_of_ones_own_stays(run_dir):
    for level, kl in (("f16", 0.0), ("q8_0", 0.001), ("q5_0", 0.02), ("q4_0", 0.09), ("q4_1", 0.2)):
        make_level(run_dir, level, kl)
    shown = models_tab.look(None, None, "", [], False, "")
    offered = next(value for value in shown if isinstance(value, gr.CheckboxGroup)).value
    assert offered == ["r-1-f16", "r-1-q8_0", "r-1-q5_0", "r-1-q4_0"] or len(offered) == 4
    make_level(run_dir, "q5_1", 0.01)
    own = models_tab.look(None, None, "", ["r-1-f16"], False, shown[-1])
    assert next(value for value in own if isinstance(value, gr.CheckboxGroup)).value == ["r-1-f16"]


def test_ticking_the_importance_matrix_offers_the_same_levels_with_it(run_dir):
    make_level(run_dir, "f16", 0.0)
    make_level(run_dir, "q4_0", 0.09)

    def offered(is_guided, **ticked):
        *boxes, _ = models_tab.offer_levels(None, None, "r-1", is_guided, **ticked)
        return dict(zip(models_tab.GROUPS, boxes, strict=True))

    guided = offered(True, k=["Q4_K_M"], article=["q8_0"])
    assert {group: box.value for group, box in guided.items() if box.value} == {"k": ["Q4_K_M+imatrix"]}
    assert "q4_0+imatrix" in names(guided["article"]) and "IQ2_XXS" in names(guided["iq"]) and not guided["other"].visible
    plain = offered(False, k=["Q4_K_M+imatrix"])
    assert plain["k"].value == ["Q4_K_M"] and not {"q4_0", "f16"} & set(names(*plain.values())), "both are there already"
    assert "IQ2_XXS" not in names(plain["iq"])


def names(*boxes):
    return [name for box in boxes for _, name in box.choices]


def test_every_level_of_llama_cpp_is_offered_in_its_group(run_dir):
    make_level(run_dir, "f16", 0.0)
    offered = [models_tab.offer_levels(None, None, "r-1", is_guided)[:-1] for is_guided in (False, True)]
    found = {name.removesuffix("+imatrix") for boxes in offered for name in names(*boxes)}
    assert found == {known.name for known in LEVELS} - {"f16"}
    grouped = dict(zip(models_tab.GROUPS, map(names, offered[0]), strict=True))
    assert grouped["article"] == ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] and grouped["float"] == ["f32", "bf16"]
    assert {"Q4_K_M", "Q2_K"} <= set(grouped["k"]) and "IQ4_XS" in grouped["iq"] and {"MXFP4_MOE", "TQ1_0"} <= set(grouped["other"])


def test_the_ticked_levels_of_all_groups_are_made_from_the_chosen_format(run_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(models_tab.care, "add_levels", lambda *values: asked.append(values))
    models_tab.quantise_more(None, None, "r-1", "", k=["Q4_K_M"], article=["q4_0"])
    models_tab.quantise_more(None, None, "r-1", "f32", iq=["IQ4_XS"])
    assert asked == [("r-1", ["q4_0", "Q4_K_M"], None), ("r-1", ["IQ4_XS"], "f32")]


def test_ids_travel_as_one_text_and_come_back():
    assert picks.split(picks.join(["a", "b"])) == ["a", "b"] and picks.split("") == []
    assert picks.known(["a", "x"], [("A", "a")]) == ["a"]


def test_a_run_that_goes_on_can_be_kept_and_says_where_it_is(workspace):
    folder = paths.runs_dir() / "r-3"
    folder.mkdir(parents=True)
    events.append(folder, "created", run_id="r-3", name="Argo", method="lora", steps=["train"])
    lock = FileLock(folder / queue.RUN_LOCK)
    assert lock.acquire()
    events.append(folder, "started", pid=1)
    first = look()
    assert first["keeping"].visible and first["keep_now"].visible and "private repository" in first["kept_said"]
    events.append(folder, "keeping", repo_id="me/transmute-r-3")
    events.append(folder, "checkpoint_kept", checkpoint="checkpoint-20")
    again = look(seen=first["seen"])
    assert "Kept in me/transmute-r-3: checkpoint-20." in again["kept_said"] and "started anew" in again["kept_said"]
    events.append(folder, "checkpoint_not_kept", checkpoint="checkpoint-30", error=UserError("Login over.", "it", "Log in.").as_dict())
    assert "Login over." in look(seen=again["seen"])["kept_said"]
    lock.release()
    events.append(folder, "finished", state="done")
    assert look()["keeping"].visible and not look()["keep_now"].visible


def test_a_run_that_is_over_and_was_never_kept_offers_nothing(run_dir):
    assert not look()["keeping"].visible


def test_what_is_done_to_a_run_is_done_to_the_one_that_is_shown_when_none_was_chosen(run_dir):
    run_details.save_remark(None, None, "", "worth a look")
    assert live.watch("r-1").run.remark == "worth a look"
    with pytest.raises(UserError, match="does not go on"):
        run_kept.keep(None, None, "")
    with pytest.raises(UserError, match="written nothing"):
        list(run_sync.send(None, None, "", "key"))
    with pytest.raises(UserError, match="nothing for trackio"):
        list(run_sync.send_to_space(None, None, "", "me/curves", "token"))


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")  # of an update, whose choices the page knows
def test_a_browser_that_has_kept_nothing_yet_opens_publish(workspace):
    shown = publish_tab.offer(None, None, [], "", "", "", {}, None, None)
    assert "No model to publish yet" in shown[2]
