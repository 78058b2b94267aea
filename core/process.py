"""Processes: an environment without secrets, children that may crash without taking us along, and identities that survive a reboot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.paths import PROJECT
from core.redact import SECRET_SUFFIXES
from core.units import duration

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
STILL_S = 600.0  # a child may say nothing for this long, and longer where its work is large
SLOW_BYTES_PER_S = 20e6
SLOW_OPERATIONS_PER_S = 5e9


def child_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: allow-listed variables, the Hub offline, what a machine without a GPU for it needs, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if _is_for_children(name)}
    return kept | ALWAYS_SET | _without_gpu() | {"PYTHONPATH": str(PROJECT)} | (extra or {})


def _is_for_children(name: str) -> bool:
    """Allowed by name, or by its beginning unless its end says that it is a secret, as that of NVIDIA_API_KEY."""
    return name in ALLOWED_VARIABLES or (name.startswith(ALLOWED_PREFIXES) and not name.upper().endswith(SECRET_SUFFIXES))


def _without_gpu() -> dict[str, str]:
    """Without an NVIDIA driver transformers looks for no kernels on the Hub; ZeroGPU's GPU is for the web process, and a child does not try it."""
    if os.environ.get("SPACES_ZERO_GPU"):
        return {"USE_HUB_KERNELS": "0", "CUDA_VISIBLE_DEVICES": ""}
    return {} if shutil.which("nvidia-smi") else {"USE_HUB_KERNELS": "0"}


@dataclass(frozen=True)
class Identity:
    """A process told apart from every other, also after a reboot or when its pid is used again."""

    boot_id: str
    pid: int
    started: float  # seconds after the machine's own start, where the kernel tells: no change of the clock moves it; else since the epoch


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
        return Identity(boot_id(), pid, _started(pid))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def _started(pid: int) -> float:
    """`psutil.Process.create_time` moves with the clock of the machine, because it counts from the epoch; Linux's own figure does not."""
    if sys.platform == "linux":
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()  # behind the name, which may be anything
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    return psutil.Process(pid).create_time()


def is_alive(known: Identity) -> bool:
    import psutil

    if known.boot_id != boot_id() or identity(known.pid) != known:
        return False
    try:
        return psutil.Process(known.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # a moment ago
        return False


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


def patience_s(size_bytes: int, num_tokens: int = 0) -> float:
    """How long a child that works on weights of `size_bytes` may send no message before it counts as hung.

    Ten minutes, and what a slow disk takes to read all of them once, and a slow processor to compute `num_tokens` at one go (one
    operation per byte and token: two per weight, of two bytes).
    """
    return STILL_S + size_bytes / SLOW_BYTES_PER_S + size_bytes * num_tokens / SLOW_OPERATIONS_PER_S


class Watchdog:
    """Kills a child that has not been heard of for `timeout_s`; None waits for ever."""

    def __init__(self, child: subprocess.Popen[bytes], timeout_s: float | None) -> None:
        self.has_bitten = False
        self._child, self._heard_s, self._is_over = child, time.monotonic(), threading.Event()
        if timeout_s:
            threading.Thread(target=self._watch, args=(timeout_s,), daemon=True).start()

    def hear(self) -> None:
        self._heard_s = time.monotonic()

    def stop(self) -> None:
        self._is_over.set()

    def _watch(self, timeout_s: float) -> None:
        while (left_s := self._heard_s + timeout_s - time.monotonic()) > 0:
            if self._is_over.wait(left_s):
                return
        self.has_bitten = True
        self._child.kill()


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
        timeout_s: the child is killed when it has sent no message for this long; see `patience_s`.

    Raises:
        UserError: the one the child reported; or code CRASH when it died, TIMEOUT when it said nothing for too long.
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
    watchdog = Watchdog(process, timeout_s)
    try:
        message = _converse(process, payload, on_event, watchdog)
    except BaseException:
        process.kill()
        raise
    finally:
        watchdog.stop()
        process.wait()
        assert process.stdout
        process.stdout.close()
    if message and "result" in message:
        return message["result"]
    if message and "error" in message:
        raise UserError.from_dict(message["error"])
    if watchdog.has_bitten:
        remedy = "Try again when the machine is less busy, or with less work at once; the log says how far it came."
        raise UserError(f"{step} gave no sign for {duration(timeout_s or 0.0)} and was ended.", step, remedy, code="TIMEOUT")
    ended = describe_exit(process.returncode)
    remedy = "The run's log has the details; the usual causes are too little memory or a damaged file."
    raise UserError(f"{step} ended unexpectedly ({ended}).", step, remedy, code="CRASH")


def _converse(
    process: subprocess.Popen[bytes],
    payload: dict[str, Any],
    on_event: Callable[[dict[str, Any]], None] | None,
    watchdog: Watchdog,
) -> dict[str, Any] | None:
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(payload).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return None
    last: dict[str, Any] | None = None
    for line in process.stdout:
        watchdog.hear()
        if not line.endswith(b"\n"):
            continue  # its last word, torn by its death
        message = json.loads(line)
        if "event" in message:
            if on_event:
                on_event(message)
                watchdog.hear()
        else:
            last = message
    return last
