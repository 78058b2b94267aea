"""The Jobs side: a command that is received is really run, in an empty directory, with the declared environment and secrets and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.hub.repos import GOOD_TOKEN

if TYPE_CHECKING:
    from tests.hub.server import Hub

Answer = tuple[int, dict[str, str], bytes]
JOB_ROUTES = (
    (r"/api/jobs/hardware", "jobs_hardware"),
    (r"/api/jobs/(?P<namespace>[\w.-]+)", "jobs"),
    (r"/api/jobs/(?P<namespace>[\w.-]+)/(?P<job_id>[0-9a-f]+)", "job"),
    (r"/api/jobs/(?P<namespace>[\w.-]+)/(?P<job_id>[0-9a-f]+)/logs", "job_logs"),
    (r"/api/jobs/(?P<namespace>[\w.-]+)/(?P<job_id>[0-9a-f]+)/cancel", "job_cancel"),
)
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
GRACE_S = 10.0
# A machine of a network knows the others by name: a file of hosts that is only its own, as a container has.
IN_NETWORK = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')


@dataclass
class Job:
    """One job with its process, if it has one: a test may also write the lines and the stage itself."""

    job_id: str
    namespace: str
    spec: dict[str, Any]
    stage: str = "SCHEDULING"
    message: str | None = None
    lines: list[str] = field(default_factory=list[str])
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def has_ended(self) -> bool:
        return self.stage in ENDED

    def run(self, outside: dict[str, str], networks: Path) -> None:
        """Run the command; `outside` stands for what the image has set, `networks` keeps the names of each group's machines."""
        self.folder = Path(tempfile.mkdtemp(prefix="job-"))
        image = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8"}
        given, joined = self._join(networks)
        env = image | outside | given | self.spec["environment"] | self.spec.get("secrets", {})
        argv = [*joined, *self.spec["command"]]
        self.process = subprocess.Popen(
            argv, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.stage = "RUNNING"
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._limit, daemon=True).start()

    def _join(self, networks: Path) -> tuple[dict[str, str], list[str]]:
        """What the platform sets for a machine of a network, and what makes its hosts known there: all of them are this one."""
        network = self.spec.get("network")
        if not network:
            return {}, []
        prefix, hosts = f"{network['group']}-", networks / network["group"]
        if not hosts.exists():
            hosts.write_bytes(Path("/etc/hosts").read_bytes() + b"\n")
        with hosts.open("a") as file:
            file.writelines(f"127.0.0.1 {prefix}{alias}\n" for alias in network["aliases"])
        return {"HF_NETWORK_GROUP_PREFIX": prefix, "HF_NETWORK_GROUP_HOSTNAME": network["group"]}, [*IN_NETWORK, str(hosts)]

    def end(self, stage: str, message: str | None = None, *, at_once: bool = False) -> None:
        """End it from outside, as the platform does: asked first, unless `at_once`."""
        self.stage, self.message = stage, message
        if self.process and self.process.poll() is None:
            if not at_once:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(GRACE_S)
                    return
                except subprocess.TimeoutExpired:
                    pass
            kill_all(self.process.pid)

    def _listen(self) -> None:
        assert self.process and self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
        code = self.process.wait()
        if not self.has_ended:
            self.stage = "COMPLETED" if code == 0 else "ERROR"

    def _limit(self) -> None:
        assert self.process
        try:
            self.process.wait(self.spec["timeoutSeconds"])
        except subprocess.TimeoutExpired:
            self.end("ERROR", "Job timeout", at_once=True)

    def info(self) -> dict[str, Any]:
        running = int(time.monotonic() - self.began)
        return {
            "id": self.job_id,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "command": self.spec["command"],
            "dockerImage": self.spec.get("dockerImage"),
            "environment": self.spec["environment"],
            "flavor": self.spec["flavor"],
            "labels": self.spec.get("labels"),
            "status": {"stage": self.stage, "message": self.message},
            "durations": {"schedulingSecs": 0, "runningSecs": running, "totalSecs": running},
            "owner": {"id": "1", "name": self.namespace, "type": "user"},
        }


def can_network() -> bool:
    """Whether this machine lets a process have a file of hosts of its own."""
    argv = [*IN_NETWORK[:-1], "mount --bind /dev/null /etc/hosts"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def kill_all(pid: int) -> None:
    """The whole machine goes away."""
    import psutil

    try:
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            process.kill()
    except psutil.NoSuchProcess:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Jobs:
    """Mixed into the server's answers."""

    hub: Hub
    headers: Any
    body: bytes
    path: str
    command: str

    def _token(self) -> str:
        raise NotImplementedError

    def _require_user(self) -> None:
        from tests.hub.server import RefusedError

        if self._token() != GOOD_TOKEN:
            raise RefusedError(401, message="Invalid credentials in Authorization header")

    def _job(self, job_id: str) -> Job:
        from tests.hub.server import RefusedError

        self._require_user()
        found = next((job for job in self.hub.jobs if job.job_id == job_id), None)
        if found is None:
            raise RefusedError(404, message="Job not found")
        return found

    def jobs_hardware(self) -> Answer:
        gpu = {"type": "gpu", "model": "L4", "quantity": "1", "vram": "24 GB", "manufacturer": "Nvidia"}
        each = {"cpu": "2 vCPU", "ram": "16 GB", "ephemeralStorage": "20 GB", "unitLabel": "minute"}
        cpu = each | {"name": "cpu-basic", "prettyName": "CPU Basic", "unitCostMicroUSD": 200, "unitCostUSD": 0.0002}
        l4 = each | {"name": "l4x1", "prettyName": "1x L4", "accelerator": gpu, "unitCostMicroUSD": 13333, "unitCostUSD": 0.013333}
        return 200, {"Content-Type": "application/json"}, json.dumps([cpu, l4]).encode()

    def jobs(self, namespace: str) -> Answer:
        from tests.hub.server import RefusedError

        self._require_user()
        if self.command == "GET":
            wanted = dict(label.split("=", 1) for label in parse_qs(urlsplit(self.path).query).get("label", []))
            named = [job for job in self.hub.jobs if wanted.items() <= (job.spec.get("labels") or {}).items()]
            return 200, {"Content-Type": "application/json"}, json.dumps([job.info() for job in named]).encode()
        spec = json.loads(self.body)
        if spec.get("volumes"):
            raise RefusedError(400, message="Volumes are not mounted here")
        job = Job(f"{len(self.hub.jobs) + 1:024x}", namespace, spec)
        self.hub.jobs.append(job)
        if self.hub.runs_jobs:
            job.run(self.hub.image_env, self.hub.networks)
        return 200, {"Content-Type": "application/json"}, json.dumps(job.info()).encode()

    def job(self, namespace: str, job_id: str) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(self._job(job_id).info()).encode()

    def job_cancel(self, namespace: str, job_id: str) -> Answer:
        job = self._job(job_id)
        if not job.has_ended:
            threading.Thread(target=job.end, args=("CANCELED",), daemon=True).start()
        return 200, {"Content-Type": "application/json"}, b"{}"

    def job_logs(self, namespace: str, job_id: str) -> Answer:
        """The whole log from its first line on; the connection stays open until the job ends."""
        job = self._job(job_id)
        self.stream = self._lines_of(job)
        return 200, {"Content-Type": "text/event-stream"}, b""

    def _lines_of(self, job: Job) -> Any:
        at = 0
        while True:
            has_ended = job.has_ended and (job.process is None or job.process.poll() is not None)
            while at < len(job.lines):
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(1_700_000_000 + at))
                yield f"data: {json.dumps({'timestamp': stamp, 'data': job.lines[at]})}\n\n".encode()
                at += 1
            if has_ended and at == len(job.lines):
                return
            time.sleep(0.02)
