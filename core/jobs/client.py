"""What is asked of HF Jobs, with the caller's token: start, find again, look, listen, cancel. Errors come as UserError."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.hubclient import api, patiently, status
from core.jobs.target import Job
from core.redact import redact
from core.training.launch import Node

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
RUN_LABEL, ATTEMPT_LABEL, NODE_LABEL = "transmute-run", "transmute-attempt", "transmute-node"
TERMINAL = ("COMPLETED", "CANCELED", "ERROR", "DELETED")  # huggingface_hub 2.4, _jobs_api.TERMINAL_JOB_STAGES
WHERE = "HF Jobs"
ALIAS = "node-"  # and the rank; behind HF_NETWORK_GROUP_PREFIX it is an address


@dataclass(frozen=True)
class Stage:
    """Where a job stands. `running_s` is None until it runs."""

    name: str
    message: str = ""
    running_s: int | None = None

    @property
    def is_terminal(self) -> bool:
        return self.name in TERMINAL


def command(repo_id: str, commit: str, sha256: str, run_id: str) -> list[str]:
    """The job's command: an argument list, of which nothing passes through a shell."""
    return ["python", "-c", BOOTSTRAP.read_text(encoding="utf-8"), repo_id, commit, sha256, run_id]


def environment(job: Job, rank: int = 0) -> dict[str, str]:
    endpoint = os.environ.get("HF_ENDPOINT")
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    named = {"TRANSMUTE_JOB_REPO": job.repo_id, "PYTHONUNBUFFERED": "1"} | quiet
    placed = {"TRANSMUTE_NODES": str(job.nodes), "TRANSMUTE_NODE": str(rank)} if job.nodes > 1 else {}
    return named | placed | ({"HF_ENDPOINT": endpoint} if endpoint else {})


def network(job: Job, run_id: str, attempt: int, rank: int) -> dict[str, Any]:
    """What puts the machines of one attempt into a network of their own, where each is reached by its alias (see `node`)."""
    if job.nodes == 1:
        return {}
    return {"network_group": f"transmute-{run_id}-{attempt}", "network_aliases": [f"{ALIAS}{rank}"]}


def node(environment: Mapping[str, str]) -> Node | None:
    """On a rented machine: its place among several; None where it is alone."""
    count = int(environment.get("TRANSMUTE_NODES", "1"))
    if count == 1:
        return None
    return Node(count, int(environment["TRANSMUTE_NODE"]), f"{environment['HF_NETWORK_GROUP_PREFIX']}{ALIAS}0")


def submit(job: Job, run_id: str, attempt: int, bundle: dict[str, str], token: str | None, rank: int = 0) -> tuple[str, str]:
    """(id, page) of the job, or of machine `rank` of several.

    One that an unanswered try has started already is found by its labels and taken over, never doubled.

    Args:
        bundle: ``commit`` and ``sha256`` of what was sent to the job's repository.

    Raises:
        UserError: the login may not start jobs (LOGIN, ACCESS), the Hub refuses it, or cannot be reached (NET).
    """
    hub = api(token)
    labels = {RUN_LABEL: run_id, ATTEMPT_LABEL: str(attempt)} | ({NODE_LABEL: str(rank)} if job.nodes > 1 else {})

    def once() -> Any:
        found = hub.list_jobs(labels=labels, namespace=job.namespace)
        known = [each for each in found if labels.items() <= (each.labels or {}).items()]
        return known[0] if known else hub.run_job(
            image=job.image,
            command=command(job.repo_id, bundle["commit"], bundle["sha256"], run_id),
            env=environment(job, rank),
            secrets={"HF_TOKEN": token},
            flavor=job.flavour,
            timeout=job.timeout_s,
            name=name,
            labels=labels,
            namespace=job.namespace,
            **network(job, run_id, attempt, rank),
        )  # fmt: skip

    name = f"transmute-{run_id}" + (f"-{rank}" if rank else "")
    made = patiently(once, lambda error: explain(error, job.namespace))
    return str(made.id), str(made.url)


def stage(job: Job, job_id: str, token: str | None) -> Stage:
    """Raises UserError: as `submit`; code MISSING when there is no such job."""
    hub = api(token)
    found = patiently(lambda: hub.inspect_job(job_id=job_id, namespace=job.namespace), lambda error: explain(error, job_id))
    running_s = found.durations.running_secs if found.durations else None
    return Stage(str(getattr(found.status.stage, "value", found.status.stage)), found.status.message or "", running_s)


def lines(job: Job, job_id: str, token: str | None, follow: bool = True) -> Iterator[str]:
    """Every line of the job's log from its first on, until the job ends; without `follow`, until what is there is read.

    Raises:
        UserError: as `submit`; code NET when the stream breaks for good, and the next call begins at the first line again.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        for text in api(token).fetch_job_logs(job_id=job_id, namespace=job.namespace, follow=follow):
            yield from text.replace("\r", "").split("\n")
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
        raise explain(error, job_id) from None


def cancel(job: Job, job_id: str, token: str | None) -> None:
    hub = api(token)
    patiently(lambda: hub.cancel_job(job_id=job_id, namespace=job.namespace), lambda error: explain(error, job_id))


def end(job: Job, job_ids: Iterable[str], token: str | None) -> None:
    """Cancel those that have not ended, the first of them first: it saves what there is.

    Raises:
        UserError: as `submit`, after every one was tried.
    """
    failed: UserError | None = None
    for job_id in job_ids:
        try:
            if not stage(job, job_id, token).is_terminal:
                cancel(job, job_id, token)
        except UserError as error:
            failed = failed or error
    if failed:
        raise failed


def explain(error: BaseException, where: str) -> UserError:
    """What went wrong with a job, for a person, with what helps."""
    code = status(error)
    match code:
        case 401:
            return UserError("The Hub does not accept this login.", where, "Log in again, then resume the run.", "LOGIN")
        case 402 | 403:
            remedy = "Jobs need an account with credit and a token that may start jobs (the scope `jobs`)."
            return UserError(f"This login may not run jobs here (HTTP {code}).", where, remedy, "ACCESS")
        case 404:
            return UserError("There is no such job on the Hub for this login.", where, "Look at your jobs on the Hub.", "MISSING")
        case 409:
            return UserError("The Hub says that the job is in another state.", where, "Look again in a moment.", "CHANGED")
        case _ if code == 0 or code == 429 or code >= 500:
            said = f"answers HTTP {code}" if code else "cannot be reached"
            return UserError(f"{WHERE} {said}.", where, "Resume the run later: nothing is lost.", "NET")
        case _:
            text = redact(str(error)).replace("\n", " ")[:300]
            return UserError(f"The Hub refused it (HTTP {code}): {text}", where, "Mend what it names.", "REFUSED")
