"""What the fault suite counted: printed at the end, and kept under benchmarks/results when asked for."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.paths import PROJECT
from core.running import runs

RESULT = PROJECT / "benchmarks" / "results" / "faults.json"
FIGURES: dict[str, dict[str, Any]] = {}


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts of one test, kept under its name."""
    counts: Counter[str] = Counter()
    FIGURES[request.node.name] = counts
    return counts


@pytest.fixture
def fleet(workspace: Path) -> Iterator[Path]:
    """An empty workspace; whatever a failed test leaves running in it is ended."""
    workspace.mkdir()
    yield workspace
    for run in runs.list_runs():
        if not run.is_terminal:
            runs.stop(run.run_id, wait_s=2)


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of its own, of 3 MB or what the test's parameter says, with the workspace on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={getattr(request, 'param', '3m')}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    home = disk / "workspace"
    home.mkdir()
    monkeypatch.setenv("TRANSMUTE_HOME", str(home))
    yield disk
    (disk / "filler").unlink(missing_ok=True)
    for run in runs.list_runs():
        if not run.is_terminal:
            runs.stop(run.run_id, wait_s=2)
    subprocess.run(["umount", "-l", str(disk)], check=True)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int) -> None:
    if not FIGURES:
        return
    for name, counts in FIGURES.items():
        terminalreporter.write_line(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if exitstatus == 0 and os.environ.get("SAVE_FIGURES"):
        known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(known | {"machine": machine} | FIGURES, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
