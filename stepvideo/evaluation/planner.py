"""How many prompts a paired study with wins, ties and losses needs, and what a given number can show.

One vote x is 1, ½ or 0 with mean `score` and a share `ties` of ½, so its variance is s (1 − s) − ties / 4. Annotators
of one prompt agree: k votes with correlation ρ carry the information of k / (1 + (k − 1) ρ). The test is two-sided, of
a score of one half, over prompts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from stepvideo.evaluation.jackknife import Floats


@dataclass(frozen=True)
class Design:
    """A study that is planned.

    Attributes:
        score: (W + ½ T) / n that shall be told from one half.
        ties: share of ties among all votes.
        raters: annotators a prompt.
        correlation: of two annotators' votes on one prompt, about Krippendorff's α; 0.4 and 0.7 are common.
        power: chance of p < level where the score is as said.
        level: of the two-sided test.

    Raises:
        ValueError: names the field, the value and what it may be.
    """

    score: float = 0.55
    ties: float = 0.3
    raters: int = 3
    correlation: float = 0.4
    power: float = 0.8
    level: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.score < 1 or self.score == 0.5:
            raise ValueError(f"score={self.score}: give a score between 0 and 1 other than 0.5, such as 0.55")
        most = 2 * min(self.score, 1 - self.score)
        if not 0 <= self.ties < most:
            raise ValueError(f"ties={self.ties}: at a score of {self.score} the share of ties is from 0 to {most:.3g}")
        if self.raters < 1:
            raise ValueError(f"raters={self.raters}: give 1 or more")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation={self.correlation}: give 0 (prompts do not matter) to 1 (all agree)")
        for name in ("power", "level"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a probability between 0 and 1")

    @property
    def per_prompt(self) -> float:
        """Variance of a prompt's mean vote in units of one vote's: the design effect over k."""
        return (1 + (self.raters - 1) * self.correlation) / self.raters

    def deviations(self) -> tuple[float, float]:
        """Standard deviations of one vote if the score is one half, and if it is as said."""
        return math.sqrt((1 - self.ties) / 4), math.sqrt(self.score * (1 - self.score) - self.ties / 4)


def prompts_needed(design: Design) -> int:
    """Prompts with which the study has its power: ((z_α σ₀ + z_β σ₁) / (s − ½))² × design effect / raters."""
    null, actual = design.deviations()
    reach = -ndtri(design.level / 2) * null + ndtri(design.power) * actual
    return max(2, math.ceil((reach / (design.score - 0.5)) ** 2 * design.per_prompt - 1e-9))


def power_of(design: Design, prompts: int) -> float:
    """Power of the study with this number of prompts, from the same approximation."""
    null, actual = design.deviations()
    shift = abs(design.score - 0.5) * math.sqrt(prompts / design.per_prompt)
    return float(ndtr((shift + ndtri(design.level / 2) * null) / actual))


def detectable(design: Design, prompts: int) -> float | None:
    """Smallest score above one half that this number of prompts shows with the design's power; None: not even 1."""
    low, high = 0.5, 1 - design.ties / 2
    if power_of(_with(design, high - 1e-9), prompts) < design.power:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        if power_of(_with(design, middle), prompts) < design.power:
            low = middle
        else:
            high = middle
    return high


def simulate(design: Design, prompts: int, studies: int = 4000, seed: int = 0) -> float:
    """Share of simulated studies in which the prompt-level sign-flip test finds the difference.

    A vote is the prompt's own draw with probability √ρ, else one of the annotator's, so that two correlate by ρ. The
    permutation variance of a sum of flipped prompts is the sum of their squares, and such sums are 2 apart; the normal
    tail from half a step below the observed one stands for drawing the flips.
    """
    rng = np.random.default_rng(seed)
    win, tie = design.score - design.ties / 2, design.ties
    found = 0
    for start in range(0, studies, 500):
        n = min(500, studies - start)
        shared = _draw(rng.random((n, prompts, 1)), win, tie)
        own = _draw(rng.random((n, prompts, design.raters)), win, tie)
        votes = np.where(rng.random(own.shape) < math.sqrt(design.correlation), shared, own)
        sums = votes.sum(2)
        z = (np.abs(sums.sum(1)) - 1) / np.sqrt(np.maximum((sums**2).sum(1), 1e-12))
        found += int((2 * ndtr(-z) < design.level).sum())
    return found / studies


def _draw(u: Floats, win: float, tie: float) -> Floats:
    return np.where(u < win, 1.0, np.where(u < win + tie, 0.0, -1.0))


def _with(design: Design, score: float) -> Design:
    return Design(**{**asdict(design), "score": score})
