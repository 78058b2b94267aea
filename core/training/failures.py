"""What a failing machine says, turned into what a person can do: memory that ran out, a disk that is full."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from core.errors import UserError
from core.training.recipe import Recipe

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries that write by themselves report it: safetensors (Rust), and torch, which keeps the reason to itself.
FULL_WORDS = (
    *(f"(os error {number})" for number in FULL),
    "No space left on device",
    "PytorchStreamWriter failed writing",
    "unexpected pos ",
)
NO_MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


def as_user_error(error: BaseException, recipe: Recipe, where: str = "train") -> UserError | None:
    """`error` when the machine is to blame for it: code DISK or OOM; None for everything else."""
    for cause in _causes(error):
        if is_disk_full(cause):
            return disk_full(where)
        if type(cause).__name__ == "OutOfMemoryError":
            return UserError("The GPU ran out of memory.", where, f"{lower(recipe)} Then start again.", code="OOM")
        if is_out_of_memory(cause):
            return UserError("Memory ran out.", where, f"{lower(recipe)} Then start again.", code="OOM")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _says(error, NO_MEMORY_WORDS))


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit on file sizes refused to take more."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return _says(error, FULL_WORDS)


ELSEWHERE = "Free some space, or choose a folder on a larger disk; then try again."  # where no run is resumed


def too_little_memory(where: str) -> UserError:
    """Memory ran out where no setting of a recipe would help."""
    return UserError("There is too little free memory.", where, "Close other programs, or take a machine with more.", code="OOM")


def disk_full(where: str, remedy: str = "Free some space, then resume the run: the last whole checkpoint is kept.") -> UserError:
    return UserError("The disk is full.", where, remedy, code="DISK")


@contextmanager
def unless_full() -> Generator[None]:
    """What can be done without goes unsaid on a disk that is full."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise


def lower(recipe: Recipe) -> str:
    """Which setting to lower, and to what: the one that costs least in speed and quality first."""
    micro, accumulation = recipe.micro_batch_size, recipe.gradient_accumulation_steps
    if micro > 1:
        smaller = micro // 2
        steps = -(-micro * accumulation // smaller)
        same = "as much" if steps * smaller == micro * accumulation else f"{steps * smaller} rows instead of {micro * accumulation}"
        return f"Set micro_batch_size={smaller} (it is {micro}) and gradient_accumulation_steps={steps}, which trains on {same} per step."
    if not recipe.gradient_checkpointing:
        return "Set gradient_checkpointing=true, which computes activations twice instead of keeping them."
    if recipe.max_length > 256:
        return f"Set max_length={recipe.max_length // 2} (it is {recipe.max_length}); longer conversations are cut."
    if recipe.method != "qlora":
        return "Set method=qlora, which keeps the base model in 4 bits."
    return "Take a smaller base model, or a machine with more memory."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)
