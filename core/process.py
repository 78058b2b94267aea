"""Processes: an environment without secrets, children that may crash without taking us along, and identities that survive a reboot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.paths import PROJECT

# A child sees these and nothing else: tokens and secrets of the parent never reach it (reliability rule R7).
ALLOWED_VARIABLES = frozenset(
    "PATH HOME USER LANG LC_ALL TZ TMPDIR TERM SYSTEMROOT VIRTUAL_ENV LD_LIBRARY_PATH CC CXX "
    "HF_HOME HF_HUB_CACHE HF_ENDPOINT HF_HUB_DISABLE_XET TRANSMUTE_HOME LLAMA_CPP_DIR OMP_NUM_THREADS".split()
)
ALLOWED_PREFIXES = ("CUDA_", "NVIDIA_", "ROCR_", "HIP_", "NCCL_", "GLOO_", "DS_ACCELERATOR")
ALWAYS_SET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP threads that spin while they wait starve each other as soon as anything else runs: 500 against 1,660 tokens/s measured.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GGML_NO_BACKTRACE": "1",  # an abort of llama.cpp would start a debugger first, which takes seconds
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
}


def child_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: allow-listed variables, the Hub offline, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if name in ALLOWED_VARIABLES or name.startswith(ALLOWED_PREFIXES)}
    return kept | ALWAYS_SET | {"PYTHONPATH": str(PROJECT)} | (extra or {})


@dataclass(frozen=True)
class Identity:
    """A process told apart from every other, also after a reboot or when its pid is used again."""

    boot_id: str
    pid: int
    started: float  # seconds since the epoch, as the kernel reports it


def boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    if path.exists():
        return path.read_text().strip()
    import psutil

    return str(int(psutil.boot_time()))


def identity(pid: int) -> Identity | None:
    """The identity of the live process `pid`, or None when there is no such process."""
    import psutil

    try:
        return Identity(boot_id(), pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(known: Identity) -> bool:
    import psutil

    if known.boot_id != boot_id() or identity(known.pid) != known:
        return False
    return psutil.Process(known.pid).status() != psutil.STATUS_ZOMBIE


def describe_exit(returncode: int) -> str:
    """``exit code 3`` or ``SIGABRT``, as a person reads it."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def kill_tree(known: Identity, grace_s: float = 0.0) -> None:
    """End `known` and every descendant: SIGTERM to all, `grace_s` to finish, then SIGKILL, re-scanning until nobody is left.

    Children are collected before their parent dies, because orphans can no longer be found by walking down.
    """
    import psutil

    if not is_alive(known):
        return
    root = psutil.Process(known.pid)
    members = {root, *root.children(recursive=True)}
    if grace_s:
        _signal_all(members, signal.SIGTERM)
        _, alive = psutil.wait_procs(list(members), timeout=grace_s)
        members = set(alive)
    while members:
        for member in list(members):
            try:
                members.update(member.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        _signal_all(members, signal.SIGKILL)
        _, alive = psutil.wait_procs(list(members), timeout=5)
        members = {process for process in alive if process.status() != psutil.STATUS_ZOMBIE}


def kill_descendants() -> None:
    """End every process below this one."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        if known := identity(child.pid):
            kill_tree(known)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send us `number` when our parent dies (Linux only; elsewhere nothing happens)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, so that `kill_descendants` still finds them (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_child_subreaper = 36
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _signal_all(members: set[Any], number: int) -> None:
    import psutil

    for member in members:
        try:
            member.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def call_child(
    module: str,
    payload: dict[str, Any],
    *,
    step: str,
    log: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    timeout_s: float | None = None,
    extra_env: dict[str, str] | None = None,
) -> Any:
    """Run ``python -m module`` with `payload` as JSON on stdin and return its result; see `core.childio.serve` for the other side.

    Native code (llama.cpp, bitsandbytes) can abort its whole process, so it only ever runs behind this call.

    Args:
        step: what the child does, in words; it names the place in errors.
        log: the child's stderr is appended here (default: discarded).
        on_event: called with every ``{"event": ...}`` message the child sends before its result.
        timeout_s: the child is killed after this long.

    Raises:
        UserError: the one the child reported; or code CRASH when it died, TIMEOUT when it took too long.
    """
    stderr = log.open("ab") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=child_environment(extra_env),
        cwd=PROJECT,
        start_new_session=False,
    )
    if log and not isinstance(stderr, int):
        stderr.close()
    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = True
        process.kill()

    import threading

    timer = threading.Timer(timeout_s, expire) if timeout_s else None
    if timer:
        timer.start()
    try:
        message = _converse(process, payload, on_event)
    except BaseException:
        process.kill()
        raise
    finally:
        if timer:
            timer.cancel()
        process.wait()
        assert process.stdout
        process.stdout.close()
    if message and "result" in message:
        return message["result"]
    if message and "error" in message:
        raise UserError.from_dict(message["error"])
    if timed_out:
        raise UserError(
            f"{step} took longer than {timeout_s:.0f} s and was ended.", step, "Try again, or with less work at once.", code="TIMEOUT"
        )
    ended = describe_exit(process.returncode)
    remedy = "The run's log has the details; the usual causes are too little memory or a damaged file."
    raise UserError(f"{step} ended unexpectedly ({ended}).", step, remedy, code="CRASH")


def _converse(
    process: subprocess.Popen[bytes], payload: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any] | None:
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(payload).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return None
    last: dict[str, Any] | None = None
    for line in process.stdout:
        message = json.loads(line)
        if "event" in message:
            if on_event:
                on_event(message)
        else:
            last = message
    return last
