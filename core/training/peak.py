"""The most memory each part of a training held: on its GPU what torch allocated, on a CPU what the process grew by after its imports."""

from __future__ import annotations

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Measured from here on. `parts` holds bytes by part: ``load``, ``train``, ``save``."""

    def __init__(self) -> None:
        self.parts: dict[str, int] = {}
        self.base_bytes = 0 if uses_gpu() else resident_bytes()
        reset()

    def end(self, part: str) -> None:
        """`part` ends here; the next one begins."""
        self.look(part)
        reset()

    def now(self) -> int:
        """For a point of the log: the peak of its steps on a GPU, what the process holds on a CPU."""
        return self.look() if uses_gpu() else resident_bytes()

    def look(self, part: str = "train") -> int:
        """The peak since the last reset, kept for `part`. A GPU's counter begins anew, so that a log line tells of its own steps."""
        found = highest_bytes()
        self.parts[part] = max(self.parts.get(part, 0), found - self.base_bytes)
        if uses_gpu():
            reset()
        return found


def uses_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def highest_bytes() -> int:
    """The peak since the last `reset`: allocated on the GPU, or resident in main memory."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status_bytes("VmHWM") or resident_bytes()


def reset() -> None:
    """Begin to look for the peak anew. Where the system cannot (containers that forbid it, other systems), the peak so far stays."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        CLEAR.write_text("5", encoding="ascii")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return


def resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _status_bytes(field: str) -> int | None:
    """A size of /proc/self/status, which counts in kB; None on systems without it."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
