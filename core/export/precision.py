"""Which number format holds a model's weights: float16 is the usual one, but it ends at 65,504 and grows coarse below 0.00006."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from core.errors import UserError
from core.export.tensors import FLOATS, Stored
from core.export.weightfile import Reader

BLOCK_BYTES = 4 * 2**20
MAX_F16 = 65_504.0
COARSE_STEP = 2.0**-25  # the largest error of rounding to float16 below 2^-14
MAX_ERROR = 1e-3  # of a tensor, as the root mean square of its errors over that of its values; ordinary rounding gives 3e-4 at most


def narrowest_format(tensors: Iterable[Stored], tell: Callable[[int, int], None]) -> tuple[str, str]:
    """``f16`` when it holds every weight matrix; else the format that the offending weights are stored in, ``bf16`` or ``f32``. And why.

    Args:
        tell: gets (bytes looked at, all bytes).

    Raises:
        UserError: a weight is NaN or infinite.
    """
    weights = [stored for stored in tensors if stored.dtype in FLOATS]
    total, done = sum(stored.size_bytes for stored in weights), 0
    reader, why = Reader(), "float16 holds every weight"
    wider: set[str] = set()  # the formats that hold what float16 does not; as text the widest comes last
    try:
        for stored in weights:
            lost = what_f16_loses(stored, reader)
            if lost and len(stored.shape) > 1:  # vectors stay float32 in a GGUF file
                why = f"{stored.name} {lost}" if not wider else why
                wider.add("bf16" if stored.dtype == "BF16" else "f32")
            done += stored.size_bytes
            tell(done, total)
    finally:
        reader.close()
    return max(wider, default="f16"), why


def what_f16_loses(stored: Stored, reader: Reader) -> str:
    """Why float16 does not hold this tensor, in words; empty when it neither overflows nor loses what is small. Refuses NaN and infinity.

    Two cheap sums decide almost always: no value is beyond the range, and the root mean square is so large that the coarse step of the
    smallest numbers cannot matter. Only then are the errors computed.
    """
    largest, squares, count = 0.0, 0.0, math.prod(stored.shape)
    for values in _blocks(stored, reader):
        peak = float(values.abs().max())
        if not math.isfinite(peak):
            remedy = "The training diverged, or the file is damaged: train again with a lower learning_rate, or fetch the model again."
            raise UserError(f"{stored.name} holds NaN or infinity.", stored.path.name, remedy, "NAN")
        largest = max(largest, peak)
        squares += float(values.square().sum())
    if largest > MAX_F16:
        return f"reaches {largest:,.0f}, and float16 ends at {MAX_F16:,.0f}"
    too_small = f"is so small (at most {largest:.0e}) that float16 rounds too much of it away"
    if squares == 0.0 or math.sqrt(squares / count) > COARSE_STEP / MAX_ERROR:
        return "" if squares > 0.0 or largest == 0.0 else too_small
    errors = sum(float((values - values.half().float()).double().square().sum()) for values in _blocks(stored, reader))
    exact = sum(float(values.double().square().sum()) for values in _blocks(stored, reader))
    return "" if errors <= exact * MAX_ERROR**2 else too_small


def _blocks(stored: Stored, reader: Reader) -> Any:
    import torch

    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for start in range(0, stored.size_bytes, BLOCK_BYTES):
        data = reader.read(stored.path, stored.offset + start, min(BLOCK_BYTES, stored.size_bytes - start))
        yield torch.frombuffer(data, dtype=dtypes[stored.dtype]).float()
