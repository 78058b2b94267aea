"""What a dataset is like: turns, lengths, languages, what carries loss. In numbers ready to plot; the part about tokens needs a tokenizer."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

from pydantic import BaseModel

from core import paths
from core.data.dataset import Dataset
from core.data.language import main_of, scripts_of
from core.data.measures import REASONS, Measures, OnProgress, measure
from core.data.packing import packed_rows, steps_of
from core.data.render import LossOn
from core.data.tokenizer import ChatTokenizer

VERSION = 1  # raised when the same data comes to give other numbers
NUM_BINS = 40
NUM_NAMED = 10
PROGRESS_ROWS = 1000


class Histogram(BaseModel):
    """``counts[i]`` values lie from ``edges[i]`` up to, but not including, ``edges[i + 1]``; the last bin includes its end."""

    edges: list[int]
    counts: list[int]
    mean: float
    median: float
    p95: float
    largest: float


class RowLength(BaseModel):
    """A row of the source, and how long it is."""

    row: int  # 0-based
    length: int


class TextStatistics(BaseModel):
    """What can be said of the conversations without a tokenizer."""

    num_conversations: int
    turns: dict[int, int]  # conversations by their number of questions and answers together
    num_with_system: int
    num_characters: int
    scripts: dict[str, int]  # letters of each script, most first
    conversations_by_script: dict[str, int]  # by the script most of a conversation's letters are in, most first
    longest: list[RowLength]  # in characters, longest first
    shortest: list[RowLength]  # in characters, shortest first


class TokenStatistics(BaseModel):
    """What a tokenizer and a maximum length make of them."""

    max_length: int
    loss_on: LossOn
    tokens: Histogram  # of each conversation, before anything is cut
    answers: Histogram  # of each answer with its end mark
    num_tokens: int  # in all, within max_length
    num_loss_tokens: int  # of these with loss
    num_lost_tokens: int  # with loss, cut off
    num_truncated: int  # conversations of which something is cut off
    num_zero_loss: int  # conversations that add nothing to training
    zero_loss: dict[str, int]  # why, by reason
    packed_rows: int  # rows they fill when packed
    packing_efficiency: float  # share of those rows' places that hold a token, 0 to 1
    padded_efficiency: float  # the same without packing, every row as long as the longest
    longest: list[RowLength]  # in tokens, longest first
    shortest: list[RowLength]  # in tokens, shortest first

    @property
    def loss_share(self) -> float:
        """The share of the tokens trained on that carry loss, 0 to 1."""
        return self.num_loss_tokens / self.num_tokens if self.num_tokens else 0.0


def text_statistics(dataset: Dataset, on_progress: OnProgress | None = None) -> TextStatistics:
    """Read from the dataset's folder when they were made before.

    Args:
        on_progress: called with the conversations done and their number.
    """
    path = dataset.folder / f"statistics-{VERSION}.json"
    if path.is_file():
        return TextStatistics.model_validate_json(path.read_bytes())
    turns, main, letters = Counter[int](), Counter[str](), Counter[str]()
    lengths, rows = array("q"), array("q")
    num_with_system = 0
    for index, (conversation, row) in enumerate(dataset.numbered()):
        if on_progress and index % PROGRESS_ROWS == 0:
            on_progress(index, len(dataset))
        found = Counter[str]()
        for turn in conversation.turns:
            found.update(scripts_of(turn.content))
        has_system = conversation.turns[0].role == "system"
        num_with_system += has_system
        turns[len(conversation.turns) - has_system] += 1
        letters.update(found)
        main[main_of(found)] += 1
        lengths.append(sum(len(turn.content) for turn in conversation.turns))
        rows.append(row)
    if on_progress:
        on_progress(len(dataset), len(dataset))
    longest, shortest = _extremes(lengths, rows)
    statistics = TextStatistics(
        num_conversations=len(dataset),
        turns=dict(sorted(turns.items())),
        num_with_system=num_with_system,
        num_characters=sum(lengths),
        scripts=dict(letters.most_common()),
        conversations_by_script=dict(main.most_common()),
        longest=longest,
        shortest=shortest,
    )
    paths.write_text(path, statistics.model_dump_json(indent=1) + "\n")
    return statistics


def token_statistics(
    dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn = "answers", on_progress: OnProgress | None = None
) -> TokenStatistics:
    """From the dataset's measures, which are taken now if they were not before.

    Args:
        on_progress: called with the conversations done and their number.
    """
    import numpy as np

    found = measure(dataset, tokenizer, max_length, loss_on, on_progress)
    kept = np.minimum(found.tokens, max_length)[found.reason == 0]  # (M,) what training gets to see
    num_packed = packed_rows(kept.tolist(), max_length)
    num_tokens = int(kept.sum(dtype=np.int64))
    longest, shortest = _extremes(found.tokens, np.fromiter((row for _, row in dataset.numbered()), dtype=np.int64, count=len(dataset)))
    why = Counter(REASONS[number] for number in found.reason[found.reason != 0].tolist())
    return TokenStatistics(
        max_length=max_length,
        loss_on=loss_on,
        tokens=histogram(found.tokens),
        answers=histogram(found.answers),
        num_tokens=num_tokens,
        num_loss_tokens=int(found.loss_tokens.sum(dtype=np.int64)),
        num_lost_tokens=int(found.lost_tokens.sum(dtype=np.int64)),
        num_truncated=int((found.tokens > max_length).sum()),
        num_zero_loss=sum(why.values()),
        zero_loss=dict(why.most_common()),
        packed_rows=num_packed,
        packing_efficiency=num_tokens / (num_packed * max_length) if num_packed else 0.0,
        padded_efficiency=num_tokens / (len(kept) * int(kept.max())) if len(kept) else 0.0,
        longest=longest,
        shortest=shortest,
    )


def histogram(values: Any) -> Histogram:
    """The distribution of whole numbers, in at most NUM_BINS bins of the same whole width."""
    import numpy as np

    if len(values) == 0:
        return Histogram(edges=[0, 1], counts=[0], mean=0, median=0, p95=0, largest=0)
    least, most = int(np.min(values)), int(np.max(values))
    width = max(1, -(-(most - least + 1) // NUM_BINS))
    num_bins = -(-(most - least + 1) // width)
    edges = [least + width * number for number in range(num_bins + 1)]
    counts = np.bincount((np.asarray(values, dtype=np.int64) - least) // width, minlength=num_bins)
    mean, median, p95 = float(np.mean(values)), float(np.median(values)), float(np.percentile(values, 95))
    return Histogram(edges=edges, counts=counts.tolist(), mean=mean, median=median, p95=p95, largest=most)


def estimated_steps(
    found: Measures,
    max_length: int,
    *,
    packing: bool,
    eval_fraction: float,
    batch_rows: int,
    epochs: float,
    max_steps: int = 0,
) -> int:
    """About how many optimizer steps a run takes. The share set aside for evaluation is taken off evenly, not row by row.

    Args:
        batch_rows: rows of one optimizer step, over all devices and accumulated micro batches.
        max_steps: so many whatever the epochs say; 0 for those of the epochs.
    """
    import numpy as np

    kept = np.minimum(found.tokens, max_length)[found.reason == 0]
    rows = packed_rows(kept.tolist(), max_length) if packing else len(kept)
    return steps_of(rows - round(rows * eval_fraction), batch_rows, epochs, max_steps)


def _extremes(lengths: Any, rows: Any) -> tuple[list[RowLength], list[RowLength]]:
    """The NUM_NAMED longest and shortest; the earlier row first among equals."""
    import numpy as np

    values = np.asarray(lengths, dtype=np.int64)
    upwards, downwards = np.argsort(values, kind="stable"), np.argsort(-values, kind="stable")

    def named(order: Any) -> list[RowLength]:
        return [RowLength(row=int(rows[index]), length=int(values[index])) for index in order[:NUM_NAMED]]

    return named(downwards), named(upwards)
