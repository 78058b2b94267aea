"""Machines that go on from checkpoints go on from one that all of them have."""

import json
import subprocess
import sys

import pytest

from core import paths
from core.process import child_environment
from core.training import checkpoints

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

RANK = """
import json, sys, torch
from pathlib import Path
from core.errors import UserError
from core.training.together import newest_common
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
try:
    found, _ = newest_common(folder / str(rank), torch.device("cpu"))
    print(json.dumps(found.name if found else None))
except UserError as error:
    print(json.dumps(error.code))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("kept", "chosen"),
    [
        (((2, 4), (2,)), "checkpoint-2"),  # the second died while it saved the newest
        (((2, 4), (2, 4)), "checkpoint-4"),
        (((), (2,)), None),  # the first begins anew, and so do all
        (((4,), (2,)), "NODES"),
    ],
)
def test_all_go_on_from_the_newest_that_all_have(tmp_path, kept, chosen):
    for rank, steps in enumerate(kept):
        (tmp_path / str(rank)).mkdir()
        for step in steps:
            folder = tmp_path / str(rank) / f"checkpoint-{step}"
            folder.mkdir()
            (folder / "weights").write_bytes(b"w")
            checkpoints.seal(folder)
    argv = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*argv, str(rank), str(tmp_path)], cwd=paths.PROJECT, env=child_environment(), stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    assert [json.loads(rank.communicate(timeout=100)[0].splitlines()[-1]) for rank in ranks] == [chosen, chosen]
