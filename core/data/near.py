"""Conversations that are almost the same: found by MinHash and locality-sensitive hashing, confirmed by their real Jaccard similarity.

A conversation is taken as the set of its runs of three words, letters in lower case; in Chinese, Japanese, Thai and others written without
spaces every character counts as a word. System messages do not count. The similarity of two is the size of what their sets share
divided by the size of both together: 1 means the same words in the same order, whatever the punctuation. `THRESHOLD` is the similarity from which two
count as near-duplicates (0.8, as in Lee et al., arXiv:2107.06499).

Two of similarity s become candidates with probability 1 - (1 - s^6)^20: 0.998 at 0.8, 0.93 at 0.7, 0.27 at 0.5. Every candidate is then
confirmed or refused by its sets, so nothing is called alike that is not. The same rows in the same order always give the same result.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from array import array
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from core import paths
from core.conversation import Conversation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.8
NUM_BANDS, BAND_ROWS = 20, 6
RUN_WORDS = 3
SEED = 1
MAX_REPRESENTATIVES = 16  # of a bucket: each row is compared with the first so many that differ from each other
BATCH_SHINGLES = 1 << 12
CHECKED_BYTES = 64 << 20  # after so much the free disk is looked at again

# Kana, Han, Thai, Lao, Burmese, Khmer: written without spaces, so that every character is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ROLE_MARKS = {"user": 1, "assistant": 2}
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd, from xxHash


class Pair(NamedTuple):
    """Two rows that are almost the same; `other` comes before `row`."""

    row: int
    other: int
    similarity: float  # Jaccard, 0 to 1


def shingles(turns: Iterable[tuple[str, str]]) -> NDArray[np.uint32]:
    """The set of a conversation's runs of words, as sorted 32-bit numbers; `turns` are (role, text)."""
    import numpy as np

    words = array("Q")
    for role, content in turns:
        if role != "system":
            words.append(_ROLE_MARKS.get(role, 3))
            words.extend(zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _WORD.findall(content.casefold()))
    words.extend([0] * max(0, RUN_WORDS - len(words)))
    numbers = np.frombuffer(words, dtype=np.uint64)
    runs = np.zeros(len(numbers) - RUN_WORDS + 1, dtype=np.uint64)
    for offset, factor in enumerate(_FACTORS):
        runs += numbers[offset : offset + len(runs)] * np.uint64(factor)
    runs ^= runs >> np.uint64(29)
    runs *= np.uint64(_FACTORS[0])
    return np.unique((runs >> np.uint64(32)).astype(np.uint32))


class NearIndex:
    """Takes conversations one by one and finds those that are almost the same. Used with ``with``: it keeps a temporary file.

    A row costs about 100 bytes of memory; the file is about as large as the text.
    """

    def __init__(self) -> None:
        from datasketch import MinHash

        self._min_hash = MinHash
        self._permutations = MinHash(num_perm=NUM_BANDS * BAND_ROWS, seed=SEED).permutations
        paths.cache_dir().mkdir(parents=True, exist_ok=True)
        self._sets = tempfile.TemporaryFile(dir=paths.cache_dir())  # noqa: SIM115 (closed when the index is left)
        self._ends = array("Q", [0])  # where in the file a row's set ends, in numbers
        self._bands = array("I")  # NUM_BANDS numbers a row
        self._next_check = 0

    def __enter__(self) -> NearIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._sets.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, turns: Iterable[tuple[str, str]]) -> None:
        """Take the next row: its turns as (role, text)."""
        import numpy as np

        numbers = shingles(turns)
        if 4 * self._ends[-1] >= self._next_check:
            paths.require_disk(paths.cache_dir(), CHECKED_BYTES, "Looking for near-duplicates")
            self._next_check = 4 * self._ends[-1] + CHECKED_BYTES
        self._sets.write(numbers.tobytes())
        self._ends.append(self._ends[-1] + len(numbers))
        sketch: Any = self._min_hash(
            num_perm=NUM_BANDS * BAND_ROWS, seed=SEED, hashfunc=int, permutations=self._permutations, scheme="affine32"
        )
        for start in range(0, len(numbers), BATCH_SHINGLES):
            sketch.update_batch(numbers[start : start + BATCH_SHINGLES].tolist())
        rows = sketch.hashvalues.astype(np.uint64).reshape(NUM_BANDS, BAND_ROWS)
        mixed = np.zeros(NUM_BANDS, dtype=np.uint64)
        for column in range(BAND_ROWS):
            mixed = (mixed ^ rows[:, column]) * np.uint64(_FACTORS[column % len(_FACTORS)])
            mixed ^= mixed >> np.uint64(31)
        self._bands.frombytes((mixed >> np.uint64(32)).astype(np.uint32).tobytes())

    def add_conversation(self, conversation: Conversation) -> None:
        self.add((turn.role, turn.content) for turn in conversation.turns)

    def pairs(
        self, threshold: float = THRESHOLD, may_match: Callable[[int, int], bool] | None = None, every: bool = False
    ) -> Iterator[Pair]:
        """For each row, in order, the first earlier row that is at least so similar.

        Args:
            may_match: whether a row may be matched with an earlier one, asked just before the two are compared.
            every: all of the earlier rows compared, not only the first; through those a row is linked with every other one like it.
        """
        import numpy as np

        if len(self) < 2:
            return
        self._sets.flush()
        sets: Any = np.memmap(self._sets, dtype=np.uint32, mode="r") if self._ends[-1] else np.zeros(0, np.uint32)
        bands = np.frombuffer(self._bands, dtype=np.uint32).reshape(-1, NUM_BANDS)  # (N, NUM_BANDS)
        leader = _first_with_same(bands)  # (N,)
        links = _links(bands, np.flatnonzero(leader == np.arange(len(leader))))
        starts = np.searchsorted(links >> np.uint64(32), np.arange(len(leader) + 1, dtype=np.uint64))
        for row in range(len(self)):
            first = int(leader[row])
            begin, end = int(starts[first]), int(starts[first + 1])
            if first == row and begin == end:
                continue
            own = sets[self._ends[row] : self._ends[row + 1]]
            others = (links[begin:end] & np.uint64(0xFFFF_FFFF)).tolist()
            for other in others if first == row else [first, *others]:
                if may_match is not None and not may_match(row, other):
                    continue
                similarity = jaccard(own, sets[self._ends[other] : self._ends[other + 1]], threshold)
                if similarity >= threshold:
                    yield Pair(row, other, round(similarity, 4))
                    if not every or other == first:
                        break


def jaccard(one: Any, two: Any, threshold: float = 0.0) -> float:
    """The similarity of two sorted sets; 0 without a closer look when their sizes alone keep it below `threshold`."""
    import numpy as np

    small, large = sorted((len(one), len(two)))
    if small < threshold * large:
        return 0.0
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / (small + large - shared)


def repeats(index: NearIndex, threshold: float, without: Container[int] = ()) -> dict[int, Pair]:
    """The rows to leave out so that no two of the rest, as far as they were compared, are alike: the first of each kind stays.

    Rows in `without` are left out already.
    """
    dropped: dict[int, Pair] = {}
    for pair in index.pairs(threshold, lambda row, other: other not in dropped and other not in without and row not in without):
        dropped[pair.row] = pair
    return dropped


def clusters(index: NearIndex, threshold: float = THRESHOLD) -> list[int]:
    """For each row the first row it is linked with, directly or through others."""
    root = list(range(len(index)))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for pair in index.pairs(threshold, every=True):
        one, two = sorted((find(pair.row), find(pair.other)))
        root[two] = one
    return [find(row) for row in range(len(root))]


def _first_with_same(bands: NDArray[np.uint32]) -> NDArray[np.int64]:
    """For each row the first row with the same numbers in every band."""
    import numpy as np

    whole = np.ascontiguousarray(bands).view(np.dtype((np.void, bands.dtype.itemsize * bands.shape[1]))).ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def _links(bands: NDArray[np.uint32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The pairs of `rows` to compare, sorted: ``row << 32 | earlier row``."""
    import numpy as np

    links = np.zeros(0, dtype=np.uint64)
    for band in range(bands.shape[1]):
        numbers = bands[rows, band]
        order = np.argsort(numbers, kind="stable")
        ordered, places = numbers[order], np.arange(len(order))
        start = np.maximum.accumulate(np.where(np.r_[True, ordered[1:] != ordered[:-1]], places, 0))  # of each place's bucket
        found = [links]
        for nth in range(MAX_REPRESENTATIVES):
            later = places[places - start > nth]
            if len(later) == 0:
                break
            found.append(rows[order[later]].astype(np.uint64) << np.uint64(32) | rows[order[start[later] + nth]].astype(np.uint64))
        links = np.unique(np.concatenate(found))
    return links
