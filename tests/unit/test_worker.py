"""A worker that is done is gone: nothing that native code does while a process is taken apart can make its end look like a crash."""

import signal
import subprocess
import sys

import pytest

from core import paths
from core.process import child_environment
from core.training.presets import demo

# The worker's own program, but for the training, in a process whose native teardown aborts, as that of gloo's threads may.
PROGRAM = """
import atexit, ctypes, runpy, sys, types
libc = ctypes.CDLL(None)
libc["__cxa_atexit"](ctypes.cast(libc.abort, ctypes.c_void_p), None, None)
atexit.register(print, "closed", end="")
training = types.ModuleType("core.training.train")
training.train = lambda run_dir, peak: print("trained", end=" ")
sys.modules["core.training.train"] = training
if sys.argv[2] == "as any program":
    training.train(None, None)
else:
    runpy.run_module("core.worker", run_name="__main__")
"""


@pytest.mark.parametrize(("how", "returncode", "said"), [("as the worker", 0, "trained closed"), ("as any program", -signal.SIGABRT, None)])
def test_a_worker_that_is_done_ends_well_whatever_its_native_teardown_would_do(how, returncode, said, workspace):
    """What Python is to do at the end is done, and what was printed is out. Without `leave` it would abort, as any other program does."""
    run_dir = workspace / "run"
    run_dir.mkdir(parents=True)
    paths.write_text(run_dir / "recipe.yaml", demo().to_yaml())
    paths.write_json(run_dir / "launch.json", {"device": "cpu", "accelerate_config": "cpu"})
    argv = [sys.executable, "-c", PROGRAM, str(run_dir), how]
    env = child_environment({"PYTHONUNBUFFERED": ""})  # so that there is something to lose
    ended = subprocess.run(argv, cwd=paths.PROJECT, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == returncode, ended.stderr
    assert said is None or ended.stdout == said
