"""Conversations with several models: what each remembers, what an edit changes, and what is written out."""

from core.chat import turns as t
from core.conversation import Turn


def turn(prompt, **answers):
    return {
        "prompt": prompt,
        "answers": [
            {"id": name, "name": "M", "label": f"{name} · 2 MB", "text": text, "mark": [1, 0, 2]} for name, text in answers.items()
        ],
    }


TURNS = [turn("p1", a="a1", b="b1"), turn("p2", a="a2", b=""), turn("p3", b="b3")]


def test_a_model_remembers_only_the_turns_it_answered():
    assert [m["content"] for m in t.messages_for("b", "new", TURNS, " be kind ")] == ["be kind", "p1", "b1", "p3", "b3", "new"]
    assert [m["role"] for m in t.messages_for("a", "new", TURNS)] == ["user", "assistant", "user", "assistant", "user"]


def test_deleting_and_editing_leave_the_original_as_it_was():
    assert [one["prompt"] for one in t.without(TURNS, 1)] == ["p1", "p3"]
    edited = t.with_answer(TURNS, 0, "b", "mended")
    assert (
        t.answer_of(edited[0], "b") == "mended" and edited[0]["answers"][1]["mark"] is None and edited[0]["answers"][1]["stop"] == "edited"
    )
    assert t.answer_of(edited[0], "a") == "a1" and t.answer_of(TURNS[0], "b") == "b1"


def test_one_conversation_per_model_is_written_out():
    found = t.conversations(TURNS, "be kind")
    assert [one.id for one in found] == ["chat_0_M_a", "chat_1_M_b"]
    assert found[1].turns == (
        Turn("system", "be kind"),
        Turn("user", "p1"),
        Turn("assistant", "b1"),
        Turn("user", "p3"),
        Turn("assistant", "b3"),
    )
    assert t.conversations([turn("p", a="")]) == [] == t.conversations([])
