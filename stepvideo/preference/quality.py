"""Who answered with care: checks of every annotator, and the votes that the study's rules leave (report §4.4).

"The annotation process is monitored by quality control personnel to ensure accuracy and consistency." Everything here
works on blind votes: which answer was right, and on which side of the screen it stood, never whose video it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from stepvideo.evaluation.stats import Estimate, wilson
from stepvideo.evaluation.votes import Vote
from stepvideo.preference.chance import at_least, at_most, entropy, longest_run, run_at_least
from stepvideo.preference.rules import Rules

SAYS = {  # rule → what was counted
    "gold_right": "known answers right",
    "aa_tie": "ties on a video with itself",
    "repeat_same": "repeats answered as before",
    "side_rate": "votes for one side of the screen",
    "side_run": "one side in a row",
    "same_scores": "the four scores of the video before",
    "fast_share": "votes faster than a person can be",
}
OK, WATCH, EXCLUDED = "ok", "watch", "excluded"


@dataclass(frozen=True)
class Check:
    """One rule applied to one annotator.

    Attributes:
        hits: of n (of `side_run`: the length of the longest run of n votes for a side).
        p: probability of this, or of worse, for one who is just honest enough.
    """

    rule: str
    hits: int
    n: int
    p: float

    @property
    def says(self) -> str:
        return f"{SAYS[self.rule]}: {self.hits} of {self.n}"


@dataclass(frozen=True)
class Quality:
    """One annotator's record.

    Attributes:
        votes: answers that count for results; asked: all answers, checks too, without practice.
        median_dwell_s: None where nothing is known of it.
        left_share: of the answers for a side, those for the left one, with Wilson's interval; None without such.
        tie_share: of the answers to pairs, as well; None without such.
        entropy: bits of the answers as shown (left, right, tie) or of the scores; 0: always the same.
        verdict: ok | watch | excluded; reasons: the checks that it is from.
    """

    annotator: str
    votes: int
    asked: int
    skipped: int
    median_dwell_s: float | None
    left_share: Estimate | None
    tie_share: Estimate | None
    entropy: float
    checks: tuple[Check, ...]
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Screened:
    """All rows of a study, each in one place.

    Attributes:
        included: votes that count.
        excluded: votes that would count, each with the reason why it does not.
        checks: answers to gold, A/A, repeated and practice items; skipped: without an answer.
    """

    included: list[Vote]
    excluded: list[tuple[Vote, str]]
    checks: list[Vote]
    skipped: list[Vote]
    annotators: dict[str, Quality]


def shown_answer(vote: Vote) -> str:
    """left, right or tie as the annotator saw it; "" of a rated video, a skipped pair or unknown sides."""
    if vote.outcome is None or not vote.shown_left:
        return ""
    if vote.outcome == 0:
        return "tie"
    return "left" if (vote.outcome == 1) == (vote.shown_left == "a") else "right"


def screen(rows: Iterable[Vote], rules: Rules) -> Screened:
    """Judge every annotator by the rules and divide the rows; nothing is dropped."""
    rows = list(rows)
    found = {name: judge(name, [v for v in rows if v.annotator == name], rules) for name in _names(rows)}
    out = Screened([], [], [], [], found)
    for vote in rows:
        quality = found[vote.annotator]
        if vote.skipped:
            out.skipped.append(vote)
        elif vote.role != "vote":
            out.checks.append(vote)
        elif quality.verdict == EXCLUDED:
            out.excluded.append((vote, f"annotator excluded: {'; '.join(quality.reasons)}"))
        elif _fast(vote, rules):
            out.excluded.append((vote, f"answered in {vote.dwell_s:.2f} s, below {rules.min_dwell_s:g} s"))
        else:
            out.included.append(vote)
    return out


def judge(annotator: str, rows: Sequence[Vote], rules: Rules) -> Quality:
    """The record of one annotator, from their rows of one study in any order."""
    asked = sorted((v for v in rows if not v.skipped and v.role != "practice"), key=lambda v: v.time)
    shown = [s for v in asked if (s := shown_answer(v))]
    sided = [s for s in shown if s != "tie"]
    dwell = [v.dwell_s for v in asked if v.dwell_s is not None]
    checks = tuple(_checks(asked, sided, rules))
    worst = min((c.p for c in checks), default=1.0)
    verdict = EXCLUDED if worst < rules.alpha else WATCH if worst < rules.watch else OK
    limit = {EXCLUDED: rules.alpha, WATCH: rules.watch, OK: 0.0}[verdict]
    return Quality(
        annotator,
        sum(v.role == "vote" for v in asked),
        len(asked),
        sum(bool(v.skipped) for v in rows),
        median(dwell) if dwell else None,
        wilson(sided.count("left"), len(sided)) if sided else None,
        wilson(shown.count("tie"), len(shown)) if shown else None,
        entropy(shown or [tuple(v.scores.values()) for v in asked]),
        checks,
        verdict,
        tuple(c.says for c in checks if c.p < limit),
    )


def _checks(asked: Sequence[Vote], sided: Sequence[str], rules: Rules) -> Iterable[Check]:
    """Of each rule that there is anything to count for."""
    first = {v.item: v for v in asked if v.role != "repeat"}
    gold = [r for v in asked if v.role == "gold" and (r := _right(v)) is not None]
    alike = [v.outcome == 0 for v in asked if v.role == "aa"]
    again = [_same(first[v.repeat_of], v) for v in asked if v.role == "repeat" and v.repeat_of in first]
    for rule, honest, passed in (
        ("gold_right", rules.gold_right, gold),
        ("aa_tie", rules.aa_tie, alike),
        ("repeat_same", rules.repeat_same, again),
    ):
        if passed:
            yield Check(rule, sum(passed), len(passed), at_most(sum(passed), len(passed), honest))
    if n := len(sided):
        most = max(sided.count("left"), sided.count("right"))
        yield Check("side_rate", most, n, min(1.0, 2 * at_least(most, n, rules.side_rate)))
        run = longest_run(sided)
        yield Check("side_run", run, n, run_at_least(run, n, rules.side_rate))
    scores = [tuple(v.scores.values()) for v in asked if v.scores]
    if n := len(scores) - 1 if scores else 0:
        same = sum(a == b for a, b in zip(scores, scores[1:], strict=False))
        yield Check("same_scores", same, n, at_least(same, n, rules.same_scores))
    timed = [_fast(v, rules) for v in asked if v.dwell_s is not None]
    if timed:
        yield Check("fast_share", sum(timed), len(timed), at_least(sum(timed), len(timed), rules.fast_share))


def _right(vote: Vote) -> bool | None:
    """Whether a gold item was answered right; a rated one is known to be bad (-1) or good (1)."""
    if vote.expected is None:
        return None
    if vote.outcome is not None:
        return vote.outcome == vote.expected
    middle = sum(vote.scores.values()) - 3 * len(vote.scores)
    return middle * vote.expected > 0 if vote.expected else None


def _same(before: Vote, now: Vote) -> bool:
    """The same side's video again, or scores that differ by 1 at most."""
    if now.outcome is not None:
        return now.outcome == before.outcome
    return all(abs(score - before.scores[scale]) <= 1 for scale, score in now.scores.items())


def _fast(vote: Vote, rules: Rules) -> bool:
    return vote.dwell_s is not None and vote.dwell_s < rules.min_dwell_s


def _names(rows: Iterable[Vote]) -> list[str]:
    return sorted({v.annotator for v in rows})


def counts(screened: Screened) -> Mapping[str, int]:
    """Rows by where they went, and annotators by verdict."""
    verdicts = [q.verdict for q in screened.annotators.values()]
    places = {k: len(getattr(screened, k)) for k in ("included", "excluded", "checks", "skipped")}
    return places | {f"annotators_{v}": verdicts.count(v) for v in (OK, WATCH, EXCLUDED)}
