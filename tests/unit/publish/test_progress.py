"""Bytes are heard of within a file, whichever way it is sent."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from core.hubclient import Stopped
from core.publish.preflight import Plan, PlannedFile
from core.publish.progress import Count, Reporter, heard_by
from core.publish.push import push
from tests.hub.repos import GOOD_TOKEN, digest
from tests.hub.server import Hub
from tests.unit.publish.test_push import REPO, hub  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LARGE_BYTES = 60_000_000


@pytest.fixture
def through_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client as it is outside of the tests: with Xet storage, and with bars."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setitem(are_progress_bars_disabled.__globals__, "HF_HUB_DISABLE_PROGRESS_BARS", None)


@pytest.fixture
def large(hub: Hub, tmp_path: Path) -> Plan:  # noqa: F811 - the fixture
    """Two files of which one takes Xet storage a while."""
    contents = {"a.safetensors": os.urandom(LARGE_BYTES), "b.safetensors": os.urandom(5000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        hub.objects[digest(content, "sha256")] = content
    return Plan(REPO, REPO, tuple(PlannedFile(name, len(content), tmp_path / name) for name, content in contents.items()))


def test_a_large_file_through_xet_storage_is_heard_of_as_the_storage_reports_it(
    hub: Hub,  # noqa: F811 - the fixture
    large: Plan,
    through_xet: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    heard: list[tuple[int, int]] = []
    reported: list[tuple[int, bool]] = []
    update = Reporter.update_progress

    def listened(self: Reporter, group_report: Any, item_reports: dict[Any, Any]) -> None:
        before = len(heard)
        update(self, group_report, item_reports)
        reported.append((group_report.total_bytes_completed, len(heard) > before))

    monkeypatch.setattr(Reporter, "update_progress", listened)
    push(large, GOOD_TOKEN, on_progress=lambda done, total: heard.append((done, total)))
    assert any("/xet-write-token/" in path for path in hub.paths()), "it did go through Xet"
    total = LARGE_BYTES + 5000
    assert heard == sorted(heard) and heard[-1] == (total, total)
    assert (LARGE_BYTES, True) in reported and all(told for _, told in reported)
    assert sum(path.stat().st_size for path in hub.storage.rglob("*") if path.is_file()) > LARGE_BYTES
    assert capfd.readouterr().err == "", "the client draws no bars of its own"


def test_what_the_storage_reports_in_the_middle_of_a_file_is_added_to_the_files_before() -> None:
    heard: list[tuple[int, int]] = []
    count = Count(300, lambda done, total: heard.append((done, total)))
    count.finish(PlannedFile("a.safetensors", 100))
    with heard_by(count):
        reporter = Reporter()
    for completed in (0, 80, 200):
        reporter.update_progress(SimpleNamespace(total_bytes_completed=completed), {})
    reporter.close()
    assert heard == [(100, 300), (100, 300), (180, 300), (300, 300)]


def test_who_stops_while_a_large_file_goes_through_xet_storage_has_no_commit(
    hub: Hub,  # noqa: F811 - the fixture
    large: Plan,
    through_xet: None,
) -> None:
    heard: list[int] = []
    with pytest.raises(Stopped):
        push(large, GOOD_TOKEN, on_progress=lambda done, _: heard.append(done), should_stop=lambda: bool(heard))
    assert hub.repos[("models", REPO)].files == {}
