"""Runs of the small worker, in a workspace of their own."""

import sys

import pytest

from core import events, paths
from core.running import runs
from core.training.recipe import Recipe


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path))
    made = []

    def make(behaviour, owner="me", **launch):
        run_id = f"run-{len(made)}"
        run_dir = paths.runs_dir() / run_id
        run_dir.mkdir(parents=True)
        recipe = Recipe(method="sft", dataset="x")
        paths.write_text(run_dir / "recipe.yaml", recipe.to_yaml())
        argv = [sys.executable, "-m", "tests.unit.running.a_worker", str(run_dir), behaviour]
        paths.write_json(run_dir / "launch.json", {"argv": argv, "env": {}, "device": "test"} | launch)
        events.append(run_dir, "created", run_id=run_id, name="m", method="sft", steps=runs.plan(recipe), owner=owner)
        made.append(run_id)
        return run_id

    yield make
    for run_id in made:
        if (paths.runs_dir() / run_id).exists() and not runs.load(run_id).is_terminal:
            runs.stop(run_id, wait_s=1)
