"""The public endpoints are a contract: what they are called, what they take, and that there are no others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.paths import PROJECT
from core.process import child_environment

GOLDEN = Path(__file__).parents[2] / "golden" / "api.json"
# In a process of its own: building a page leaves event loops behind.
PROGRAM = """
import json
from ui import layout
page = layout.build()
listeners = [
    {"name": fn.name, "role": getattr(fn.fn, "allowed_role", None), "api_name": fn.api_name, "visibility": fn.api_visibility}
    for fn in page.fns.values() if fn.fn is not None
]
print(json.dumps({"endpoints": page.get_api_info()["named_endpoints"], "listeners": listeners}))
"""


@pytest.fixture(scope="module")
def page():
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=PROJECT, env=child_environment(), capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def test_the_public_api_is_the_one_that_was_agreed(page):
    found = {
        name: {
            "description": known["description"],
            "parameters": [
                {"name": one["parameter_name"], "type": one["python_type"]["type"], "default": one["parameter_default"]}
                for one in known["parameters"]
            ],
        }
        for name, known in sorted(page["endpoints"].items())
    }
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_endpoint_says_what_it_does_and_types_what_it_takes(page):
    for name, known in page["endpoints"].items():
        assert known["description"], name
        assert all(one["python_type"]["type"] != "Any" for one in known["parameters"]), name


def test_every_listener_knows_who_may_call_it_and_only_named_ones_are_shown(page):
    assert len(page["listeners"]) > 100
    assert [one["name"] for one in page["listeners"] if one["role"] is None] == []
    public = {one["api_name"] for one in page["listeners"] if one["visibility"] == "public"}
    assert public == {
        *("validate_dataset", "estimate", "start_run", "run_status", "stop_run", "list_artifacts", "quantize", "measure", "chat", "publish")
    }


def test_what_changes_anything_is_for_the_owner(page):
    owners = {one["name"] for one in page["listeners"] if one["role"] == "owner"}
    assert {"quantize", "measure", "publish", "estimate"} <= owners
    assert {"start_run", "stop_run", "stop_chosen", "resume_chosen", "quantise_more"} <= owners
    assert {"move_up", "save_remark", "clone", "pack_logs", "ask_to_delete", "delete_run"} <= owners
