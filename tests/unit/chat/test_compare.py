"""Prompts are read whatever form they have, and agreement counts what it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from core.chat.compare import agreement, answers, read_prompts, shared_words
from core.chat.engine import Engine
from core.chat.sampling import Sampling
from core.chat.sources import Source
from core.cli.app import app
from core.data.tokenizer import VICUNA_TEMPLATE
from core.errors import UserError
from core.export.artifacts import Artifact
from tests.unit.chat.test_engine import TOY


class Toy(Source):
    """A source whose model runs in the toy child."""

    def open(self, **_):
        if self.name == "homeless":
            raise UserError("The base model of homeless is not on this machine.", "org/base", "Fetch it.")
        payload = {"template": VICUNA_TEMPLATE} | ({"crash": True} if self.name == "broken" else {})
        return Engine(Artifact(id=self.id, kind="gguf", name=self.name), TOY, payload)


def write(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_every_form_of_prompt_is_read(tmp_path):
    vicuna = {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "hi"}]}
    chat = {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "b"}]}
    path = write(tmp_path, '{"prompt": "a"}', "", json.dumps(chat), json.dumps(vicuna), '"plain"', '{"question": "q"}')
    prompts = read_prompts(path)
    assert [messages[-1]["content"] for messages in prompts] == ["a", "b", "你好", "plain", "q"]
    assert prompts[1][0] == {"role": "system", "content": "be kind"}
    assert all(messages[-1]["role"] == "user" for messages in prompts)


@pytest.mark.parametrize(
    "line", ["{", "{}", "[]", "7", '{"prompt": " "}', '{"prompt": 5}', '{"messages": [{"role": "wizard", "content": "x"}]}', "[" * 5000,
             '{"messages": [{"role": "assistant", "content": "x"}]}', '{"messages": "x"}', '{"messages": [7]}'],
)  # fmt: skip
def test_a_line_without_a_prompt_is_named(tmp_path, line):
    with pytest.raises(UserError, match="no prompt") as refusal:
        read_prompts(write(tmp_path, '{"prompt": "a"}', line))
    assert refusal.value.where == "prompts.jsonl, line 2"


def test_a_file_without_prompts_is_refused(tmp_path):
    for path in (write(tmp_path, "", " "), tmp_path / "gone.jsonl"):
        with pytest.raises(UserError):
            read_prompts(path)


def test_answers_and_agreement_of_models_one_of_which_fails():
    sources = [Toy("a", "A", "q8_0"), Toy("b", "B", "q4_0"), Toy("c", "broken", "q2")]
    prompts = [[{"role": "user", "content": word}] for word in ("one", "two")]
    done = []
    records = list(answers(sources, prompts, Sampling(), on_progress=lambda count, total: done.append((count, total))))
    assert [(record["artifact"], record["index"], record["answer"]) for record in records[:4]] == [
        ("a", 0, "one"), ("a", 1, "two"), ("b", 0, "one"), ("b", 1, "two"),
    ]  # fmt: skip
    assert [record["error"]["code"] for record in records[4:]] == ["CRASH", "CRASH"] and done[-1] == (6, 6)
    lines = agreement(sources, records)
    assert [(line.same, line.answers, line.errors) for line in lines] == [(2, 2, 0), (2, 2, 0), (0, 0, 2)]


def test_a_model_that_cannot_be_opened_fails_alone():
    sources = [Toy("a", "A", "q8_0"), Toy("b", "homeless", "adapter"), Toy("c", "C", "q4_0")]
    records = list(answers(sources, [[{"role": "user", "content": "one"}]], Sampling()))
    assert [record["answer"] for record in records] == ["one", "", "one"]
    assert "not on this machine" in records[1]["error"]["problem"]
    assert [line.errors for line in agreement(sources, records)] == [0, 1, 0]


def test_an_adapter_and_its_bare_base_are_loaded_once(monkeypatch):
    opened, adapter = [], Artifact(id="a", kind="adapter", name="A")
    monkeypatch.setattr(Toy, "open", lambda self, _open=Toy.open, **_: opened.append(self.id) or _open(self))
    sources = [Toy("a", "A", "adapter", adapter), Toy("a@base", "A", "adapter off", adapter, with_adapter=False), Toy("b", "B", "q4_0")]
    prompts = [[{"role": "user", "content": word}] for word in ("one", "two")]
    records = list(answers(sources, prompts, Sampling()))
    assert [(record["artifact"], record["answer"]) for record in records[:4]] == [
        ("a", "one"), ("a", "two"), ("a@base", "one"), ("a@base", "two"),
    ]  # fmt: skip
    assert opened == ["a", "b"] and len(records) == 6


def test_answers_are_kept_when_the_comparison_is_interrupted(tmp_path, monkeypatch):
    def interrupted(found, questions, *_, **__):
        yield {"artifact": "a", "level": "q8_0", "index": 0, "prompt": "one", "answer": "one"}
        raise KeyboardInterrupt

    monkeypatch.setattr("core.chat.compare.answers", interrupted)
    monkeypatch.setattr("core.cli.chat._resolve", lambda references: [Toy("a", "A", "q8_0"), Toy("b", "B", "q4_0")])
    out = tmp_path / "answers.jsonl"
    ran = CliRunner().invoke(app, ["compare", str(write(tmp_path, '"one"')), "a", "b", "-o", str(out)])
    assert ran.exit_code == 1 and json.loads(out.read_text(encoding="utf-8"))["answer"] == "one"
    assert "Ended after 1 of 2 answers" in ran.output


def test_the_share_of_a_common_beginning():
    assert shared_words("a b c d", "a b x d") == 0.5
    assert shared_words("", "") == 1 and shared_words("", "x") == 0 and shared_words("a", "") == 0


@given(st.text(), st.text())
def test_the_share_is_one_for_the_same_words_and_never_beyond(first, other):
    assert shared_words(first, first) == 1
    assert 0 <= shared_words(first, other) <= 1
