"""Several rented machines for one run: in one network, started once each, and none of them left when the first has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.errors import UserError
from core.jobs import client, dispatch, follower, target
from core.running import runs
from core.training.launch import Node
from core.training.presets import preset
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.unit.jobs.conftest import DONE, RUN_ID
from tests.unit.jobs.test_follower import attend, when_submitted

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def pair(run_dir: Path) -> Path:
    """The run, to happen on two machines."""
    paths.write_json(run_dir / runs.JOB, paths.read_json(run_dir / runs.JOB) | {"nodes": 2, "usd_per_h": 3.0})
    return run_dir


def play(hub: Hub, say: Callable[..., None], send: Callable[[], dict[str, Any]]) -> None:
    def wait_and_finish() -> None:
        while len(hub.jobs) < 2:
            continue
        say(hub.jobs[0], [*DONE, send()])
        hub.jobs[0].stage = "COMPLETED"

    when_submitted(hub, wait_and_finish)


def test_two_machines_share_a_network_and_know_their_places(hub: Hub, pair: Path, say: Any, send_adapter: Any) -> None:
    play(hub, say, send_adapter)
    assert attend(pair).state == "done"
    first, second = (job.spec for job in hub.jobs)
    assert first["network"] == {"group": f"transmute-{RUN_ID}-1", "aliases": ["node-0"]}
    assert second["network"] == {"group": f"transmute-{RUN_ID}-1", "aliases": ["node-1"]}
    assert first["command"] == second["command"]
    placed = [client.node(job.spec["environment"] | {"HF_NETWORK_GROUP_PREFIX": "grp-"}) for job in hub.jobs]
    assert placed == [Node(2, 0, "grp-node-0"), Node(2, 1, "grp-node-0")]
    assert hub.jobs[1].stage == "CANCELED"  # the first one has ended: the second has nothing to wait for
    assert target.of_run(pair).most_usd == pytest.approx(2 * 3.0 * 600 / 3600)


def test_one_machine_is_in_no_network(hub: Hub, run_dir: Path) -> None:
    job = target.of_run(run_dir)
    client.submit(job, RUN_ID, 1, {"commit": "a" * 40, "sha256": "b" * 64}, GOOD_TOKEN)
    assert "network" not in hub.jobs[0].spec and client.node(hub.jobs[0].spec["environment"]) is None


def begun(run_dir: Path) -> target.Job:
    """The first machine was started, and its follower died before the second was."""
    job = target.of_run(run_dir)
    sent = follower._send_bundle(run_dir, job, GOOD_TOKEN)
    job_id, url = client.submit(job, RUN_ID, 1, sent, GOOD_TOKEN)
    events.append(run_dir, "job_submitted", job_id=job_id, url=url, flavour=job.flavour, image=job.image, timeout_s=job.timeout_s)
    return job


def test_a_second_machine_that_is_refused_takes_the_first_one_with_it(hub: Hub, pair: Path) -> None:
    begun(pair)
    hub.faults.append(Fault("POST /api/jobs/someone", "status", 403))
    run = attend(pair)
    assert run.state == "failed" and run.error and run.error["code"] == "ACCESS"
    (first,) = hub.jobs
    while first.stage != "CANCELED":
        continue


def test_a_follower_that_died_between_the_two_starts_the_second_and_no_third(hub: Hub, pair: Path, say: Any, send_adapter: Any) -> None:
    begun(pair)
    play(hub, say, send_adapter)
    assert attend(pair).state == "done" and len(hub.jobs) == 2


def test_a_stop_ends_both(hub: Hub, pair: Path) -> None:
    job = begun(pair)
    current = follower.submitted(list(events.read(pair)))
    assert current
    current = follower._join(pair, job, current, list(events.read(pair)), GOOD_TOKEN)
    assert len(current.all_ids) == 2
    follower.end(pair, GOOD_TOKEN)
    for running in hub.jobs:
        while running.stage != "CANCELED":
            continue
    assert events.fold(events.read(pair)).state == "cancelled"


@pytest.mark.parametrize(("nodes", "config"), [(0, "auto"), (65, "auto"), (2, "fsdp2")])
def test_what_several_machines_cannot_do_is_refused_before_anything_is_sent(hub: Hub, workspace: Path, nodes: int, config: str) -> None:
    recipe = preset("demo").model_copy(update={"accelerate_config": config, "method": "lora"})
    with pytest.raises(UserError):
        dispatch.create(recipe, target.Target("l4x4", nodes=nodes), GOOD_TOKEN)
    assert hub.jobs == [] and not paths.runs_dir().exists()
