"""How often the 95 % intervals of simulated studies hold the truth: scores, agreement, means of ratings, differences.

    python benchmarks/study_coverage.py [--studies 1000] [--check] [--json]

Each study has 3 annotators on 12 (a category), 30, 128 (Step-Video-T2V-Eval) or 300 prompts; a tenth of the votes is
missing. A vote is a threshold of a prompt's own effect plus an annotator's noise; the truth is that of 300,000
prompts. Beside ours stands the percentile bootstrap over prompts, of means and on every fourth study. With --check
exit 1 where a mean over the cells of a statistic is outside 93 to 97 %, or a single cell by three standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stepvideo.evaluation.agreement import fleiss, krippendorff
from stepvideo.evaluation.jackknife import Floats
from stepvideo.evaluation.ratings import difference_estimate, mean_estimate
from stepvideo.evaluation.stats import Estimate, cluster_bootstrap, score_estimate

PROMPTS = (12, 30, 128, 300)
LOW, HIGH = 0.93, 0.97
RATERS, MISSING, TRUTH = 3, 0.1, 300_000


@dataclass(frozen=True)
class Case:
    """One statistic on one kind of study.

    Attributes:
        draw: (generator, prompts) → answers [m, raters], NaN where one is missing.
        estimate: answers → its estimate; None where it is undefined.
        plain: the percentile bootstrap of the same, if the statistic is a mean.
    """

    statistic: str
    about: str
    draw: Callable[[np.random.Generator, int], Floats]
    estimate: Callable[[Floats], Estimate | None]
    plain: Callable[[Floats], Estimate] | None = None


def cases() -> Iterator[Case]:
    for shift, edge in ((0.0, 0.4), (0.2, 0.4), (0.0, 0.05), (1.0, 0.3)):
        for same in (0.4, 0.7):
            draw = _thresholds([-edge, edge], [-1, 0, 1], same, shift, 0.0)
            about = f"shift {shift:g}, ties within ±{edge:g}, correlation {same:g}"
            yield Case("score", about, draw, _score, lambda x: _bootstrap((1 + x) / 2))
    for same in (0.1, 0.45, 0.8, 0.95):
        draw = _thresholds([-0.35, 0.35], [-1, 0, 1], same, 0.2, 0.0)
        yield Case("alpha nominal", f"correlation {same:g}", draw, lambda x: krippendorff(*_counts(x), "nominal"))
        yield Case("kappa", f"correlation {same:g}", draw, lambda x: fleiss(_counts(x)[0]))
        draw = _thresholds([-1.3, -0.6, 0.1, 0.9], [1, 2, 3, 4, 5], same, 0.2, 0.3)
        yield Case("alpha ordinal", f"correlation {same:g}", draw, lambda x: krippendorff(*_counts(x), "ordinal"))
    for shift in (0.0, 0.8, 1.3):
        draw = _thresholds([-1.3, -0.6, 0.1, 0.9], [1, 2, 3, 4, 5], 0.5, shift, 0.3)
        yield Case("rating mean", f"shift {shift:g}", draw, _mean, _bootstrap)
        yield Case("rating difference", f"shift {shift:g}", _pairs_of(shift), _difference, _bootstrap)


def _thresholds(
    cuts: list[float], values: list[int], same: float, shift: float, bias: float
) -> Callable[[np.random.Generator, int], Floats]:
    """Answers whose latents correlate by `same` within a prompt; annotators lean by −bias to +bias."""

    def draw(rng: np.random.Generator, prompts: int) -> Floats:
        latent = math.sqrt(same) * rng.normal(size=(prompts, 1)) + math.sqrt(1 - same) * rng.normal(
            size=(prompts, RATERS)
        )
        latent += shift + np.linspace(-bias, bias, RATERS)
        return _with_gaps(rng, np.asarray(values, float)[np.searchsorted(cuts, latent)])

    return draw


def _pairs_of(shift: float) -> Callable[[np.random.Generator, int], Floats]:
    """Score of one model minus that of another, of the same annotator on the same prompt."""
    cuts = [-1.3, -0.6, 0.1, 0.9]

    def draw(rng: np.random.Generator, prompts: int) -> Floats:
        hard = rng.normal(0, 0.7, (prompts, 1))
        a, b = (
            np.searchsorted(
                cuts, hard + lead + rng.normal(0, 0.4, (prompts, 1)) + rng.normal(0, 0.6, (prompts, RATERS))
            )
            for lead in (shift / 2, 0.0)
        )
        return _with_gaps(rng, (a - b).astype(float))

    return draw


def _with_gaps(rng: np.random.Generator, answers: Floats) -> Floats:
    gaps = rng.random(answers.shape) < MISSING
    gaps[gaps.all(1)] = False
    return np.where(gaps, np.nan, answers)


def _counts(answers: Floats) -> tuple[Floats, Floats]:
    domain = np.unique(answers[np.isfinite(answers)])
    return (answers[:, :, None] == domain).sum(1).astype(float), domain


def _rows(answers: Floats) -> tuple[Floats, list[int]]:
    prompt, rater = np.nonzero(np.isfinite(answers))
    return answers[prompt, rater], prompt.tolist()


def _score(answers: Floats) -> Estimate:
    return score_estimate(*_rows(answers))


def _mean(answers: Floats) -> Estimate:
    return mean_estimate(*_rows(answers))


def _difference(answers: Floats) -> Estimate:
    return difference_estimate(*_rows(answers))


def _bootstrap(answers: Floats) -> Estimate:
    return cluster_bootstrap(*_rows(answers), resamples=400)


def coverage(case: Case, prompts: int, studies: int, truth: float, seed: int) -> dict[str, object]:
    """Shares of intervals that hold the truth, and of those that lie above and below it."""
    rng = np.random.default_rng([seed, prompts])
    held = above = below = done = plain = tried = 0
    for i in range(studies):
        answers = case.draw(rng, prompts)
        e = case.estimate(answers)
        if e is None:
            continue
        done += 1
        above += e.low > truth + 1e-12
        below += e.high < truth - 1e-12
        held += e.low <= truth + 1e-12 and truth - 1e-12 <= e.high
        if case.plain and i % 4 == 0:
            b, tried = case.plain(answers), tried + 1
            plain += b.low <= truth <= b.high
    row: dict[str, object] = {"statistic": case.statistic, "about": case.about, "prompts": prompts, "truth": truth}
    row |= {"studies": done, "coverage": held / done, "too_high": above / done, "too_low": below / done}
    return row | {"bootstrap": plain / tried if tried else None}


def run(studies: int, prompts: tuple[int, ...] = PROMPTS, seed: int = 0, truth_prompts: int = TRUTH) -> list[dict]:
    rows = []
    for i, case in enumerate(cases()):
        found = case.estimate(case.draw(np.random.default_rng([seed, 1_000_000 + i]), truth_prompts))
        assert found is not None
        rows += [coverage(case, m, studies, found.value, seed + i) for m in prompts]
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Mean, lowest and highest coverage by statistic and number of prompts."""
    out = []
    for key in dict.fromkeys((r["statistic"], r["prompts"]) for r in rows):
        of = [r for r in rows if (r["statistic"], r["prompts"]) == key]
        shares = [r["coverage"] for r in of]
        plain = [r["bootstrap"] for r in of if r["bootstrap"] is not None]
        line = {"statistic": key[0], "prompts": key[1], "coverage": float(np.mean(shares))}
        line |= {"lowest": min(shares), "highest": max(shares), "studies": sum(r["studies"] for r in of)}
        out.append(line | {"bootstrap": float(np.mean(plain)) if plain else None})
    return out


def faults(rows: list[dict]) -> list[str]:
    """Means outside of 93 to 97 %, and single cells outside by more than three standard errors of their share."""
    found = []
    for s in summary(rows):
        if not LOW <= s["coverage"] <= HIGH:
            found.append(f"{s['statistic']} with {s['prompts']} prompts: {100 * s['coverage']:.1f} %")
    for r in rows:
        slack = 3 * math.sqrt(0.05 * 0.95 / r["studies"])
        if not LOW - slack <= r["coverage"] <= HIGH + slack:
            found.append(f"{r['statistic']}, {r['about']}, {r['prompts']} prompts: {100 * r['coverage']:.1f} %")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="a cell (1000)")
    parser.add_argument("--check", action="store_true", help="exit 1 where coverage is outside of 93 to 97 %%")
    parser.add_argument("--json", action="store_true", help="print every cell")
    args = parser.parse_args()
    rows = run(args.studies)
    wrong = faults(rows)
    if args.json:
        print(json.dumps({"cells": rows, "summary": summary(rows), "faults": wrong}, indent=1, default=float))
    else:
        print(f"{'statistic':20s} {'prompts':>7s} {'coverage':>9s} {'lowest':>7s} {'highest':>7s} {'bootstrap':>9s}")
        for s in summary(rows):
            plain = f"{100 * s['bootstrap']:8.1f}%" if s["bootstrap"] is not None else ""
            shares = [f"{100 * s[k]:.1f}%" for k in ("coverage", "lowest", "highest")]
            print(f"{s['statistic']:20s} {s['prompts']:7d} {shares[0]:>9s} {shares[1]:>7s} {shares[2]:>7s} {plain:>9s}")
    for fault in wrong:
        print(f"outside of 93 to 97 %: {fault}", file=sys.stderr)
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
