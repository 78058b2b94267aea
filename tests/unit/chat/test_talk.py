"""A conversation on the terminal: asked, asked again, taken back, ended."""

import io
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from core.chat.engine import Engine, Sampling
from core.chat.sources import Source
from core.cli.talk import Talk, loop
from core.data.tokenizer import VICUNA_TEMPLATE
from core.export.artifacts import Artifact
from core.paths import PROJECT
from core.process import child_environment
from tests.unit.chat.test_engine import TOY


@pytest.fixture
def talk():
    engines = [Engine(Artifact(id=name, kind="gguf", name=name), TOY, {"template": VICUNA_TEMPLATE}) for name in "ab"]
    sources = [Source(name, name, "q4_0") for name in "ab"]
    yield Talk(Console(file=io.StringIO(), width=100), sources, engines, Sampling())
    for engine in engines:
        engine.close()


def shown(talk):
    return talk.out.file.getvalue()


def test_models_remember_what_was_said(talk):
    assert talk.say("first") and talk.say("second")
    assert [(prompt, [pane.text for pane in panes]) for prompt, panes in talk.turns] == [
        ("first", ["first"] * 2),
        ("second", ["second"] * 2),
    ]
    assert [message["content"] for message in talk.messages(0, "third")] == ["first", "first", "second", "second", "third"]
    assert shown(talk).count("second") == 2


def test_commands(talk):
    assert talk.say("/undo") and talk.say("/retry") and "nothing to take back" in shown(talk) and "nothing to ask again" in shown(talk)
    talk.say("one")
    talk.say("/retry")
    assert talk.sampling.seed == 1 and len(talk.turns) == 1
    talk.say("/system be brief")
    assert talk.messages(1, "x")[0] == {"role": "system", "content": "be brief"}
    talk.say("/system")
    talk.say("/undo")
    assert talk.messages(1, "x") == [{"role": "user", "content": "x"}]
    assert talk.say("/what") and "/undo takes" in shown(talk)
    assert talk.say("   ") and talk.turns == []
    assert not talk.say("/exit")


def test_the_end_of_the_input_ends_the_conversation(talk, monkeypatch):
    lines = iter(["hello"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines, None) or (_ for _ in ()).throw(EOFError))
    loop(talk)
    assert [prompt for prompt, _ in talk.turns] == ["hello"]


def test_without_a_terminal_a_prompt_is_needed():
    done = subprocess.run([sys.executable, "-m", "core", "chat", "starter"], cwd=PROJECT, env=child_environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "--prompt" in done.stderr and signal.SIGSEGV.name not in done.stderr
