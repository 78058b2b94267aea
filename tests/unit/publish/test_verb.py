"""The verb `publish` sends: private unless told otherwise, and by pull request when asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.unit.publish.test_preflight import make

pytestmark = [pytest.mark.usefixtures("login"), pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]
REPO = "someone/by-hand"


def published(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What `publish` says in JSON, and for people."""
    result = CliRunner().invoke(app, ["publish", str(folder), "--repo", REPO, *options, "--json"])
    assert result.exit_code == 0, result.output
    assert GOOD_TOKEN not in result.output
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


@pytest.mark.parametrize(("options", "access"), [((), "private"), (("--private",), "private"), (("--public",), "open")])
def test_a_new_repository_is_private_unless_told_otherwise(options: tuple[str, ...], access: str, hub: Hub, tmp_path: Path) -> None:
    model = make(tmp_path, "merged", {"model.safetensors": "w", "config.json": "{}"})
    pushed, said = published(model.folder, *options)
    repo = hub.repos[("models", REPO)]
    assert repo.access == access and repo.files["model.safetensors"] == b"w"
    assert set(pushed["sent"]) == set(repo.files) == {"README.md", "config.json", "model.safetensors", "transmute.json"}
    assert pushed["commit"] == repo.commit(repo.files) and pushed["url"] == f"{hub.url}/{REPO}" and not pushed["pull_request"]
    assert f"{REPO} does not exist yet and will be made" in said and "Published 4 files" in said


def test_a_pull_request_leaves_an_existing_repository_as_it_is(hub: Hub, tmp_path: Path) -> None:
    model = make(tmp_path, "merged", {"model.safetensors": "w", "config.json": "{}"})
    published(model.folder)
    repo = hub.repos[("models", REPO)]
    before = dict(repo.files)
    assert "Everything is there already" in published(model.folder, "--pr")[1] and repo.branches == {}
    (model.folder / "config.json").write_text("[]", encoding="utf-8")
    pushed, said = published(model.folder, "--pr")
    assert pushed["pull_request"] == f"{hub.url}/{REPO}/discussions/1" and "A pull request waits for the owner" in said
    assert "changed" in said and "config.json" in pushed["sent"]
    assert repo.files == before and repo.branches["refs/pr/1"]["config.json"] == b"[]"
