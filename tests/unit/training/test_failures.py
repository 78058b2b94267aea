"""What a failing machine says becomes a code, and a setting to lower, however a library words it."""

import errno
import os
import subprocess
import sys

import pytest

from core.process import child_environment
from core.training.failures import as_user_error, lower
from core.training.recipe import Recipe

RECIPE = Recipe(method="lora", dataset="x", micro_batch_size=8, gradient_accumulation_steps=2)


def test_a_full_disk_is_found_through_what_was_raised_on_top_of_it():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        assert as_user_error(error, RECIPE).code == "DISK"


SAVES = {
    "torch": "import torch; torch.save({'weight': torch.zeros(10**6)}, name)",
    "safetensors": "import torch; from safetensors.torch import save_file; save_file({'weight': torch.zeros(10**6)}, name)",
    "python": "open(name, 'wb').write(bytes(4 * 10**6))",
}


@pytest.mark.parametrize("library", SAVES)
def test_each_library_that_writes_a_checkpoint_reports_a_full_disk_in_words_we_know(library, tmp_path):
    program = (
        "import resource, signal, sys; name = sys.argv[1]\n"
        "from core.training.failures import as_user_error; from core.training.recipe import Recipe\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        f"try:\n    {SAVES[library]}\n"
        "except Exception as error:\n    print(as_user_error(error, Recipe(method='lora', dataset='x')).code)"
    )
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path / "f")], env=child_environment(), capture_output=True, text=True)
    assert child.stdout == "DISK\n", child.stderr


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_memory_that_ran_out_names_the_setting_to_lower(error):
    known = as_user_error(error, RECIPE)
    assert known.code == "OOM" and "micro_batch_size=4" in known.remedy and "gradient_accumulation_steps=4" in known.remedy


def test_any_other_error_is_left_alone():
    for error in (RuntimeError("shape mismatch"), OSError(errno.EACCES, "no"), ValueError("unexpected")):
        assert as_user_error(error, RECIPE) is None


def test_every_recipe_has_something_left_to_lower_until_the_model_is_too_large():
    said = []
    recipe = RECIPE
    for change in ({"micro_batch_size": 1}, {"gradient_checkpointing": True}, {"max_length": 128}, {"method": "qlora"}):
        said.append(lower(recipe))
        recipe = recipe.model_copy(update=change)
    for name, sentence in zip(("micro_batch_size=4", "gradient_checkpointing=true", "max_length=", "method=qlora"), said, strict=True):
        assert name in sentence
    assert "smaller base model" in lower(recipe)


@pytest.mark.parametrize(("micro", "accumulation"), [(2, 1), (3, 1), (5, 4), (8, 2), (7, 3)])
def test_the_smaller_batch_trains_on_at_least_as_much_per_step(micro, accumulation):
    sentence = lower(RECIPE.model_copy(update={"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}))
    numbers = [int(word.rstrip(",")) for part in sentence.split("=")[1:] for word in part.split()[:1]]
    assert micro * accumulation <= numbers[0] * numbers[1] < micro * accumulation + numbers[0]
