"""Rules by which votes and annotators are excluded; part of a study from its first moment (torch-free).

Each rule about an annotator states what an honest one does at least (or at most), and excludes only who could hardly
be honest: an exact binomial test at level `alpha`. So a few unlucky answers exclude nobody, whatever their number,
and an honest annotator at the very edge of a rule is excluded by it with probability `alpha` at most.

Disagreeing with the others is no rule: excluding dissenters would decide the study. Nor are ties.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

RATES = ("alpha", "watch", "gold_right", "aa_tie", "repeat_same", "side_rate", "same_scores", "fast_share")


@dataclass
class Rules:
    """What honest annotators do; the names of the rules are those of `quality.RULES`.

    Attributes:
        alpha: level of each rule; below it an annotator is excluded.
        watch: level below which an annotator is flagged for the study's owner, and stays in.
        gold_right: they answer this share of the pairs with a known answer right, or more.
        aa_tie: they call this share of the pairs of one video with itself a tie, or more.
        repeat_same: they answer this share of the repeated items as the first time, or more.
        side_rate: of the votes for a side, this share goes to the same side of the screen, or less; sides are drawn.
        same_scores: this share of their videos has the four scores of the video before, or less (Metric-2).
        min_dwell_s: seconds below which a vote is excluded by itself; the server also waits for the video's end.
        fast_share: this share of the votes is faster than that, or less.
    """

    alpha: float = 0.005
    watch: float = 0.05
    gold_right: float = 0.85
    aa_tie: float = 0.25
    repeat_same: float = 0.5
    side_rate: float = 0.6
    same_scores: float = 0.4
    min_dwell_s: float = 1.0
    fast_share: float = 0.1

    def __post_init__(self) -> None:
        for name in RATES:
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"rules.{name}={getattr(self, name)}: give a share between 0 and 1")
        if self.watch < self.alpha:
            raise ValueError(f"rules.watch={self.watch} is below rules.alpha={self.alpha}: give alpha or more")
        if self.side_rate < 0.5:
            raise ValueError(f"rules.side_rate={self.side_rate}: sides are drawn, so give 0.5 or more")
        if self.min_dwell_s < 0:
            raise ValueError(f"rules.min_dwell_s={self.min_dwell_s}: give 0 or more seconds")


def digest(rules: Rules) -> str:
    """sha256 of the rules, kept in a study from its creation; other rules are an analysis after the fact."""
    said = json.dumps(asdict(rules), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
