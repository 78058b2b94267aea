"""A small training worker for the tests of the supervisor: real process, real locks, real events, no torch.

It steps every 0.02 s until it is told to stop, and then behaves as its last argument says.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from core import events, paths, process
from core.worker import devices, hold_device

STEPS = 10_000  # minutes, so that it trains as long as a test goes on, however slow the machine is


def main(run_dir: Path, behaviour: str) -> int:
    if behaviour == "launcher":  # starts two ranks, and like accelerate's takes no precaution against its own death
        ranks = [subprocess.Popen([sys.executable, "-m", "tests.unit.running.a_worker", str(run_dir), "rank"]) for _ in range(2)]
        return max(rank.wait() for rank in ranks)
    process.die_with_parent(signal.SIGKILL if behaviour in ("deaf", "rank") else signal.SIGTERM)
    locks = [hold_device(name) for name in devices(str(paths.read_json(run_dir / "launch.json")["device"]))]
    events.append(run_dir, "facts", facts={"visible": os.environ.get("CUDA_VISIBLE_DEVICES")})
    events.append(run_dir, "train_began", step=0, max_steps=STEPS)
    if behaviour == "family":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    for step in range(1, STEPS):
        time.sleep(0.02)
        events.append(run_dir, "train_log", step=step, loss=1.0 / step)
        if behaviour == "refuse":
            events.append(run_dir, "worker_error", error={"problem": "p", "where": "w", "remedy": "r", "code": "OOM"})
            return 1
        if behaviour == "brief" and step == 10:
            events.append(run_dir, "worker_ended")
            return 1
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour != "deaf" and (run_dir / "stop").exists():
            events.append(run_dir, "checkpoint", step=step)
            break
    for lock in locks:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
