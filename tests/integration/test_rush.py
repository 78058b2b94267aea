"""A hundred submit at once: one trains, some wait, and the rest are told why not (rule R22)."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest

from core import events
from core.errors import UserError
from core.running import runs
from core.running.queue import MAX_PER_OWNER
from tests.faults import fleet, trainer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
CLIENTS = 100


def test_of_a_hundred_at_once_one_trains_and_the_rest_wait_or_are_told_why_not(workspace: Path) -> None:
    ids = [fleet.make_run(f"rush-{number}", steps=20) for number in range(CLIENTS)]
    (workspace / trainer.HOLD).touch()  # none ends before all were looked at
    together = Barrier(CLIENTS)

    def submit(run_id: str) -> str:
        together.wait()
        try:
            runs.start(run_id)
        except UserError as refused:
            return f"{refused.problem} {refused.remedy}"
        return ""

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = dict(zip(ids, pool.map(submit, ids), strict=True))
    accepted = [run_id for run_id, answer in answers.items() if not answer]
    assert len(accepted) == MAX_PER_OWNER
    fleet.until(lambda: states(accepted)["running"], "none begins", patience_s=300)
    assert states(accepted) == {"running": 1, "queued": MAX_PER_OWNER - 1}
    assert {answer for answer in answers.values() if answer} == {
        f"{MAX_PER_OWNER} of your runs wait or go on. Let one end, or stop one, then start this one."
    }
    (workspace / trainer.HOLD).unlink()
    for run_id in accepted:
        assert fleet.ended(run_id, patience_s=300).state == "done"
    turns = sorted(trained(run_id) for run_id in accepted)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(turns)), "two trained at the same time"
    for run_id in set(ids) - set(accepted):
        assert not runs.load(run_id).losses and runs.pids(run_id) == []


def states(ids: list[str]) -> Counter[str]:
    return Counter(runs.load(run_id).state for run_id in ids)


def trained(run_id: str) -> tuple[float, float]:
    """From when to when."""
    steps = [event["t"] for event in events.read(runs.folder(run_id)) if event["kind"] in ("train_began", "train_log")]
    return steps[0], steps[-1]
