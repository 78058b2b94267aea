"""Who may import whom: downwards only, and nothing heavy until it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.paths import PROJECT
from core.process import child_environment

# Bottom up. A module may import its own layer and those above it in this table (which lie below it); the longest name wins.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core", "core.errors", "core.units", "core.redact", "core.conversation", "core.starting"),
    ("core.paths",),
    ("core.process", "core.hubclient", "core.childio", "core.locks", "core.events"),
    ("core.data",),
    ("core.export.artifacts", "core.export.header", "core.export.levels", "core.export.split"),
    (
        "core.training.recipe",
        "core.training.presets",
        "core.training.hardware",
        "core.training.launch",
        "core.training.models",
        "core.training.architecture",
        "core.training.failures",
    ),
    ("core.usage",),
    ("core.export",),
    ("core.training",),
    ("core.worker",),
    ("core.running",),
    ("core.chat",),
    ("core.publish",),
    ("core.jobs",),
    ("core.doctor",),
    ("core.publish.space", "core.publish.kind"),
    ("core.cli", "core.demo", "core.docs", "core.figures", "core.__main__"),
    ("ui",),
    ("app",),
)
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "gradio", "llama_cpp", "accelerate", "bitsandbytes", "deepspeed", "pandas"}
# What runs inside the training worker imports torch at its top, and so may the modules that are a child process's main program.
WORKER_SIDE = {
    "core.training.train",
    "core.training.attention",
    "core.training.head",
    "core.training.lora",
    "core.training.trainer",
    "core.training.callbacks",
    "core.training.threads",
    "core.training.layers",
    "core.training.evaluation",
    "core.training.tracking",
    "core.training.together",
}


def modules(package: str) -> dict[str, Path]:
    """Module name to file, for a package folder or a single file of the project."""
    if (PROJECT / f"{package}.py").is_file():
        return {package: PROJECT / f"{package}.py"}
    files = sorted((PROJECT / package).rglob("*.py"))
    return {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = modules("core") | modules("ui") | modules("app")


def imports(file: Path) -> Iterator[str]:
    """Every module that `file` imports, also inside functions; ``from core import paths`` counts as core.paths."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def layer(module: str) -> int:
    known = [(len(name), index) for index, names in enumerate(LAYERS) for name in names if covers(name, module)]
    assert known, f"{module} stands in no layer: add it to the table"
    return max(known)[1]


def covers(name: str, module: str) -> bool:
    """Whether an entry of the table speaks of `module`: the module itself, or its whole package (but "core" is only core itself)."""
    return module == name or (name != "core" and module.startswith(name + "."))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    upwards = [name for name in imports(MODULES[module]) if name in MODULES and layer(name) > layer(module)]
    assert upwards == []


def test_the_engine_knows_no_page_and_the_page_no_model() -> None:
    for module, file in MODULES.items():
        roots = {name.partition(".")[0] for name in imports(file)}
        if module.startswith("core"):
            assert not roots & {"ui", "gradio", "spaces"}, module
        else:
            assert not roots & {"torch", "transformers", "peft", "trl"}, module


def loaded_by(names: list[str]) -> set[str]:
    """The heavy packages that importing these modules brings in, tried in a fresh interpreter."""
    program = "import importlib, json, sys\nfor name in json.loads(sys.argv[1]): importlib.import_module(name)\nprint(json.dumps(sorted(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", program, json.dumps(names)], env=child_environment(), cwd=PROJECT, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return {name.partition(".")[0] for name in json.loads(child.stdout.splitlines()[-1])} & HEAVY


def test_importing_the_engine_loads_nothing_heavy() -> None:
    others = WORKER_SIDE | {"core.__main__"} | {module for module in MODULES if module.endswith("_child")}
    light = [module for module in MODULES if module.startswith("core") and module not in others]
    if guilty := loaded_by(light):
        each = {module: sorted(loaded_by([module])) for module in light}
        pytest.fail(f"{sorted(guilty)} loaded by {[(module, heavy) for module, heavy in each.items() if heavy]}")


def test_importing_the_page_loads_gradio_and_no_model_library() -> None:
    page = [module for module in MODULES if module.startswith("ui")]
    assert loaded_by(page) <= {"gradio", "pandas"}
