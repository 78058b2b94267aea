"""Rules of the house that a reader can check by looking, checked by looking."""

from __future__ import annotations

import ast
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.paths import PROJECT

ROOMS = ("core", "ui", "examples", "benchmarks")
SOURCES = [PROJECT / "app.py", *(path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py")))]
FORBIDDEN_CALLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "huggingface_hub.login",
    "login",
}
FORBIDDEN_KEYWORDS = {"shell": True, "trust_remote_code": True, "use_safetensors": False, "weights_only": False, "push_to_hub": True}
# A token there is written into training_args.bin in clear (R5).
TOKENS_OF_TRANSFORMERS = {"hub_token", "push_to_hub_token"}
STARTS = ("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.check_call", "subprocess.call")


def calls(file: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_no_shell_no_pickle_no_foreign_code(file: Path) -> None:
    for call in calls(file):
        assert ast.unparse(call.func) not in FORBIDDEN_CALLS, f"line {call.lineno}"
        for keyword in call.keywords:
            if keyword.arg in FORBIDDEN_KEYWORDS and isinstance(keyword.value, ast.Constant):
                assert keyword.value.value is not FORBIDDEN_KEYWORDS[keyword.arg], f"line {call.lineno}: {keyword.arg}"
            assert keyword.arg not in TOKENS_OF_TRANSFORMERS, f"line {call.lineno}: {keyword.arg}"


def test_a_command_is_a_list_and_never_a_text() -> None:
    """No shell would be asked, and no name can become two arguments (R9)."""
    commands = [(file, call) for file in SOURCES for call in calls(file) if ast.unparse(call.func) in STARTS]
    assert len(commands) > 10
    for file, call in commands:
        text = isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp) and not isinstance(
            getattr(call.args[0], "left", None), ast.List
        )
        assert not text, f"{file.relative_to(PROJECT)}:{call.lineno}"


def test_what_loads_a_model_says_that_it_takes_neither_code_nor_pickles() -> None:
    """Not by the library's default, which another version may change (R15, R16)."""
    loads = [
        (file, call) for file in SOURCES for call in calls(file) if re.match(r"Auto\w+\.from_(pretrained|config)$", ast.unparse(call.func))
    ]
    ours = [(file, call) for file, call in loads if file.is_relative_to(PROJECT / "core")]
    assert len(ours) >= 6
    for file, call in ours:
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        where = f"{file.relative_to(PROJECT)}:{call.lineno}"
        assert said.get("trust_remote_code") == "False", where
        if ast.unparse(call.func).startswith("AutoModel") and call.func.attr == "from_pretrained":  # type: ignore[attr-defined]
            assert said.get("use_safetensors") == "True", where


def test_child_processes_never_inherit_the_whole_environment() -> None:
    """Every start of a process in the engine passes `env=`, built from the allow-list (R7); those that ask nvidia-smi need none."""
    engine = [file for file in SOURCES if file.is_relative_to(PROJECT / "core") and file.name not in ("hardware.py", "usage.py")]
    commands = [(file, call) for file in engine for call in calls(file) if ast.unparse(call.func) in STARTS]
    assert len(commands) > 5
    for file, call in commands:
        named = {keyword.arg for keyword in call.keywords}
        assert "env" in named, f"{file.relative_to(PROJECT)}:{call.lineno} starts a process without env="


def test_every_requirement_is_pinned_except_torch() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-gpu.txt"):
        for line in (PROJECT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert re.match(r"[\w.\[\]-]+==[\w.]+(\s--config-settings=\S+)*$|torch>=", line), line
    torch = [line for line in (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch")]
    assert torch == ['torch>=2.11,<2.12; python_version >= "3.12"', 'torch>=2.11,<2.14; python_version < "3.12"']


def test_versions_agree() -> None:
    import core
    from core.export import converter

    pins = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == core.__version__
    assert f"llama-cpp-python=={converter.VERSION} " in pins
    assert f"## {core.__version__}" in (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_ci_script_can_be_run() -> None:
    assert (PROJECT / ".ci/run").stat().st_mode & stat.S_IXUSR
