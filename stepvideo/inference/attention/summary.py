"""What recorded cross-attention says of a prompt: each word's share, and how concentrated they are (report §10.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from stepvideo.inference.attention.record import Attention
from stepvideo.inference.attention.words import OTHERS, Token, Word

NEGLECTED = 0.5  # of an equal share among the words: less is called neglected


@dataclass(frozen=True)
class WordShare:
    """A word's part of all attention, mean over steps, layers, heads and video tokens.

    Attributes:
        share: of everything, padding included.
        of_words: of what goes to words at all.
        clip, llm: the parts of `share` through each encoder's tokens.
        tokens: of both encoders; a word of more tokens has more places to be read.
        neglected: it has less than half of an equal share among the words.
    """

    word: Word
    share: float
    of_words: float
    clip: float
    llm: float
    tokens: int
    neglected: bool


@dataclass(frozen=True)
class Summary:
    """
    Attributes:
        others: shares of punctuation, of first and last tokens, and of CLIP's padding (attended, as released).
        evenness: entropy of the words' shares over its maximum; 1: all words equal, 0: one word has everything.
        top: share of the most attended word among the words.
        entropy: of the weights over tokens, over its maximum log l; mean over steps and layers.
        by_step, by_layer: [n] and [k] of {"evenness", "entropy", "words": each word's part of what goes to words}.
    """

    words: list[WordShare]
    others: dict[str, float]
    evenness: float
    top: float
    entropy: float
    by_step: list[dict[str, Any]]
    by_layer: list[dict[str, Any]]

    @property
    def neglected(self) -> list[str]:
        return [w.word.text for w in self.words if w.neglected]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "neglected": self.neglected}


def summarise(found: Attention, tokens: Sequence[Token], words: Sequence[Word], merge_lw: Tensor) -> Summary:
    """The figures; `merge_lw` as it was given to `record`."""
    n = len(words)
    used = merge_lw[: found.shares.shape[-1]]
    by_word = found.shares @ used  # [steps, layers, w]
    mean = by_word.mean((0, 1))
    clip = [t.stream == "clip" for t in tokens[: len(used)]]
    tokenwise = found.shares.mean((0, 1))[:, None] * used
    total = max(float(mean[:n].sum()), 1e-12)
    rows = []
    for i, word in enumerate(words):
        by_clip = float(tokenwise[[k for k, c in enumerate(clip) if c], i].sum())
        share, part = float(mean[i]), float(mean[i]) / total
        count = int((used[:, i] > 0).sum())
        rows.append(WordShare(word, share, part, by_clip, share - by_clip, count, part < NEGLECTED / n))
    most = math.log(found.shares.shape[-1])
    return Summary(
        rows,
        {name: float(mean[n + j]) for j, name in enumerate(OTHERS)},
        evenness(mean[:n]),
        max((r.of_words for r in rows), default=0.0),
        float(found.entropy.mean()) / most,
        [_part(by_word[i].mean(0)[:n], float(found.entropy[i].mean()) / most) for i in range(len(by_word))],
        [_part(by_word[:, j].mean(0)[:n], float(found.entropy[:, j].mean()) / most) for j in range(by_word.shape[1])],
    )


def _part(shares: Tensor, entropy: float) -> dict[str, Any]:
    words = (shares / shares.sum().clamp_min(1e-12)).tolist()
    return {"evenness": evenness(shares), "entropy": entropy, "words": words}


def evenness(shares: Tensor) -> float:
    """Entropy of shares [w], made to sum to 1, over log w; 1 for a single word."""
    if len(shares) < 2:
        return 1.0
    p = shares / shares.sum().clamp_min(1e-12)
    return float(-(p * p.clamp_min(1e-12).log()).sum()) / math.log(len(shares))
