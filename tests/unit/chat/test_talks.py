"""Saved conversations come back, and no id leads out of their folder."""

import pytest

from core.chat import talks
from core.errors import UserError

TURNS = [{"prompt": "Who\n are you? 你好", "answers": [{"id": "a", "text": "I"}]}]


def test_a_conversation_is_saved_listed_loaded_and_deleted(workspace):
    first = talks.save(TURNS, system="be kind", models=["a", "b"])
    assert talks.listed()[0].title == "Who are you? 你好"
    loaded = talks.load(first)
    assert list(loaded.turns) == TURNS and (loaded.system, loaded.models) == ("be kind", ("a", "b"))
    assert talks.save(TURNS * 2, identifier=first) == first and len(talks.listed()) == 1 and len(talks.load(first).turns) == 2
    talks.delete(first)
    assert talks.listed() == []


def test_nothing_is_not_saved_and_a_damaged_file_can_be_deleted(workspace):
    with pytest.raises(UserError, match="nothing to save"):
        talks.save([])
    kept = talks.save(TURNS)
    (talks.folder() / f"{kept}.json").write_text("{", encoding="utf-8")
    assert [one.id for one in talks.listed()] == [kept]
    with pytest.raises(UserError, match="damaged"):
        talks.load(kept)
    talks.delete(kept)
    assert talks.listed() == []


def test_there_is_an_end_to_saving(workspace, monkeypatch):
    monkeypatch.setattr(talks, "MAX_TALKS", 1)
    kept = talks.save(TURNS)
    with pytest.raises(UserError, match="1 conversations"):
        talks.save(TURNS)
    talks.save(TURNS, identifier=kept)


@pytest.mark.parametrize("identifier", ["../votes", "..", "", "/etc/passwd", "a/b", "A", "x" * 50, "votes.jsonl"])
def test_other_ids_lead_nowhere(workspace, identifier):
    talks.folder().mkdir(parents=True)
    (talks.folder() / "votes.jsonl").write_text("")
    for act in (talks.load, talks.delete, lambda name: talks.save(TURNS, identifier=name or "..")):
        with pytest.raises(UserError, match="no such conversation"):
            act(identifier)
