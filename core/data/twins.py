"""Which rows repeat earlier ones: the part of cleaning that has to see every row before it can say."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from contextlib import ExitStack

from core.data.drafts import Draft
from core.data.near import NearIndex, repeats
from core.data.repairs import Chosen

Key = tuple[int, int]  # row and part
Twins = dict[Key, tuple[str, int]]  # the repair that drops it, and the row it is like
EXACT, NEAR = "dedupe-exact", "dedupe-near"


def find_twins(rows: Iterable[Draft], chosen: Chosen) -> Twins:
    """The rows that `dedupe-exact` and `dedupe-near` leave out of `rows`; those with errors are never compared."""
    numbers, parts, prints = array("q"), array("q"), array("q")
    with ExitStack() as stack:
        near = stack.enter_context(NearIndex()) if NEAR in chosen else None
        for draft in rows:
            if draft.turns is None or draft.errors():
                continue
            numbers.append(draft.row)
            parts.append(draft.part)
            prints.append(hash(draft.turns))
            if near is not None:
                near.add(draft.turns)
        exact = repeated(prints) if EXACT in chosen else {}
        alike = repeats(near, chosen[NEAR]["threshold"], exact) if near is not None else {}
    found = {(numbers[at], parts[at]): (EXACT, numbers[first]) for at, first in exact.items()}
    return found | {(numbers[at], parts[at]): (NEAR, numbers[pair.other]) for at, pair in alike.items()}


def repeated(prints: array[int]) -> dict[int, int]:
    """``{place: first place with the same number}`` for every place that repeats an earlier one's number."""
    import numpy as np

    if not prints:
        return {}
    _, first, inverse = np.unique(np.frombuffer(prints, dtype=np.int64), return_index=True, return_inverse=True)
    firsts = first[inverse]
    return {int(at): int(firsts[at]) for at in np.flatnonzero(firsts != np.arange(len(firsts)))}
