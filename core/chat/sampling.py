"""How the next token is chosen: one implementation for every engine, so that the same seed draws the same numbers everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PENALTY_WINDOW = 64  # tokens that repeat_penalty looks back, llama.cpp's default


class Sampling(BaseModel):
    """The knobs of generation, in the order they are applied: repeat penalty, top-k, top-p, min-p, temperature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=0.0, ge=0, le=5, allow_inf_nan=False, description="0 always takes the likeliest token.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the likeliest tokens that make up this share; 1 keeps all.")
    top_k: int = Field(default=0, ge=0, le=1_000_000, description="Keep this many of the likeliest tokens; 0 keeps all.")
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest one's probability; 0 drops none."
    )
    repeat_penalty: float = Field(default=1.0, ge=0.5, le=2, description="Divide the score of recent tokens by this; 1 changes nothing.")
    max_tokens: int = Field(default=256, ge=1, le=131_072, description="Tokens per answer at most.")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="The same seed gives the same answer.")
    stop: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16, description="End before these."
    )


class Sampler:
    """Draws token ids; one per answer, because it holds the random state.

    Every step draws one Gumbel number per token of the vocabulary and takes the token where score and number add up highest, which is a
    draw from the softmax (Gumbel 1954; Maddison et al., arXiv:1411.0030). Two models that nearly agree then draw nearly always the same
    token from the same seed, so that answers of two levels part where the models differ and not where rounding does.
    """

    def __init__(self, sampling: Sampling) -> None:
        import numpy as np

        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def pick(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """The next token id, from logits of shape (V,) and the ids so far."""
        if self.sampling.repeat_penalty != 1:
            logits = penalised(logits, history[-PENALTY_WINDOW:], self.sampling.repeat_penalty)
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        candidates, scores = kept(logits, self.sampling)
        numbers = self._random.gumbel(size=len(logits))[candidates]
        return int(candidates[(scores / self.sampling.temperature + numbers).argmax()])


def penalised(logits: NDArray[np.float32], recent: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Scores of `recent` tokens made less likely: positive ones divided, negative ones multiplied (CTRL, arXiv:1909.05858, section 4.1)."""
    import numpy as np

    logits = logits.copy()
    ids = np.unique(np.asarray(recent, dtype=np.int64))
    scores = logits[ids]
    logits[ids] = np.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def kept(logits: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(ids, scores) of the tokens that pass top-k, top-p and min-p, likeliest first; temperature comes after them."""
    import numpy as np

    count = min(sampling.top_k or len(logits), len(logits))
    candidates = np.argpartition(-logits, count - 1)[:count] if count < len(logits) else np.arange(len(logits))
    candidates = candidates[np.argsort(-logits[candidates], kind="stable")]
    scores = logits[candidates].astype(np.float64)
    probabilities = softmax(scores)
    before = probabilities.cumsum() - probabilities  # the share of all likelier tokens
    keep = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
    keep[0] = True
    return candidates[keep], scores[keep]


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()
