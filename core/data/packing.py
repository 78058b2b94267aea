"""How full rows become when short conversations are packed together, as TRL packs them: best fit, longest first, a thousand at a time.
And how many optimizer steps rows make."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

BATCH_ROWS = 1000  # `pack_dataset` of TRL 1.16 maps over the dataset in batches of so many


def packed_rows(lengths: Sequence[int], max_length: int) -> int:
    """How many rows of at most `max_length` tokens conversations of these lengths fill; longer ones are cut, empty ones left out."""
    return sum(_bins(lengths[start : start + BATCH_ROWS], max_length) for start in range(0, len(lengths), BATCH_ROWS))


def steps_of(rows: int, batch_rows: int, epochs: float, max_steps: int = 0) -> int:
    """Optimizer steps of `rows`, `batch_rows` in each, as transformers' Trainer counts them; `max_steps`, unless 0, whatever the epochs say."""
    return max_steps or math.ceil(math.ceil(rows / max(1, batch_rows)) * epochs)


def _bins(lengths: Sequence[int], max_length: int) -> int:
    spaces: list[int] = []  # left in the rows begun, sorted
    count = 0
    for length in sorted((min(length, max_length) for length in lengths if length > 0), reverse=True):
        place = bisect_left(spaces, length)
        if place == len(spaces):
            count += 1
            left = max_length - length
        else:
            left = spaces.pop(place) - length
        if left > 0:
            insort(spaces, left)
    return count
