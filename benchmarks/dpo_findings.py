"""What the study of DPO concludes from its figures, which `benchmarks/dpo.py` makes: intervals, verdicts, a table."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.evaluation.jackknife import mean_interval

RESAMPLES = 5000
TIE = 0.03  # of fidelity, as micro's annotators have it
RULE = "_with_ties"  # what decides: fixed before the second try; the first one's was the strict rule, ""
CLAIMS = {
    "dpo": "DPO on its own pairs is preferred to the model that it started from",
    "labels": "DPO is preferred to its twin with shuffled labels",
}
DEFAULT, DIFFUSION_DPO = (200.0, 1e-4), (5000.0, 1e-8)  # (beta, rate): micro's, and as the report quotes Wallace et al.


def outcomes(arm: list[list[float]], base: list[list[float]], tie: float = 0.0) -> list[float]:
    """1 where the arm's sample is better, 0 where the base's is, ½ where they are equal.

    tie: difference of fidelity below which they are, where they have equally many right attributes.
    """
    found = []
    for a, b in zip(arm, base, strict=True):
        difference = a[0] - b[0] or (a[1] - b[1] if abs(a[1] - b[1]) >= tie else 0.0)
        found.append(0.5 * (1 + (difference > 0) - (difference < 0)))
    return found


def nested_bootstrap(
    by_seed: NDArray[np.float64], draws: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Mean of [seeds, prompts] with a 95 % interval: seeds are drawn anew, and within each its prompts."""
    seeds, n = by_seed.shape
    chosen = draws.integers(0, seeds, (resamples, seeds, 1))
    means = by_seed[chosen, draws.integers(0, n, (resamples, seeds, n))].mean((1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": by_seed.mean(), "low": low, "high": high, "p_55": (means >= 0.55).mean(), "n": by_seed.size}


def verdict(e: dict[str, float], testable: bool, rule: str = RULE) -> str:
    if not testable:
        return "untestable"
    low, high = e[f"low{rule}"], e[f"high{rule}"]
    return "supported" if low > 0.5 else "contradicted" if high < 0.5 else "inconclusive"


def preferences(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each arm over the base, with what it did to the qualities and, of those that train, how that went; `labels` is
    DPO over its twin with shuffled labels. By the strict rule and, with names that end in RULE, with ties.
    """
    found: dict[str, Any] = {}
    names = [arm for arm in seeds[0]["qualities"] if arm != "base"]
    arms = {arm: [(s["qualities"][arm], s["qualities"]["base"], s.get(arm)) for s in seeds] for arm in names}
    # what the labels say, drift and all else being equal
    arms["labels"] = [(s["qualities"]["dpo"], s["qualities"]["shuffled"], None) for s in seeds]
    for k, (arm, runs) in enumerate(arms.items()):
        found[arm] = compared(runs, k)
        if trained := [metrics for _, _, metrics in runs if metrics]:
            found[arm]["training"] = over_seeds(trained)
    return found


def over_seeds(rows: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean of each metric of several trainings with its 95 % interval over seeds (Student's t), null for one seed."""
    return {name: mean_of([row[name] for row in rows], range(len(rows))) for name in rows[0]}


def mean_of(values: list[float], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Mean of values with its 95 % interval over clusters (seeds or prompts), null where there is one."""
    some = len(set(clusters)) > 1
    value, low, high = mean_interval(values, clusters) if some else (float(np.mean(values)), None, None)
    return {"value": value, "low": low, "high": high, "n": len(values)}


def compared(runs: list[tuple[Any, ...]], draws: int) -> dict[str, Any]:
    """(qualities of one model, of another, …) of every seed: mean differences, and how often the first is preferred;
    intervals are over seeds and prompts.
    """
    found: dict[str, Any] = {}
    for name, gap in zip(("right", "fidelity"), np.moveaxis(np.array([np.subtract(*run[:2]) for run in runs]), 2, 0)):
        e = nested_bootstrap(gap, np.random.default_rng(draws))
        found |= {name: float(e["value"]), f"{name}_low": float(e["low"]), f"{name}_high": float(e["high"])}
    for name, tie in (("", 0.0), (RULE, TIE)):
        table = np.array([outcomes(mine, other, tie) for mine, other, *_ in runs])
        interval = nested_bootstrap(table, np.random.default_rng(draws))
        found |= {f"{key}{name}": float(v) for key, v in interval.items()}
        found[f"by_seed{name}"] = table.mean(1).tolist()
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """supported | contradicted | inconclusive | untestable, by claim."""
    said: dict[str, str] = {}
    if arms := found.get("preference"):
        controls = not missed(found)
        said |= {claim: verdict(arms[arm], controls) for arm, claim in CLAIMS.items()}
    if rows := found.get("grid"):
        cell = {(r["beta"], r["lr"]): r for r in rows}
        default, theirs = cell[DEFAULT], cell[DIFFUSION_DPO]
        large = cell[max(b for b, _ in cell), DEFAULT[1]]
        said["gradients grow with beta as Eq. 9 says"] = _grows(default, large)
        said["a large beta explodes at the default's rate"] = "supported" if large["exploded"] else "contradicted"
        said["the default does not explode"] = "contradicted" if default["exploded"] else "supported"
        gained = default.get("implicit_accuracy", 0.0) - theirs.get(
            "implicit_accuracy", 0.0
        )  # losses have their beta's scale
        said["a small beta with a larger rate learns faster than DiffusionDPO's"] = (
            "supported" if gained > 0.1 and not default["exploded"] else "contradicted"
        )
    return said


def _grows(default: dict[str, Any], large: dict[str, Any]) -> str:
    """Over the first steps the norm grows as beta does, and the norm over Eq. 9's factor is the same within 2 times."""
    if "grad_norm_first" not in default or "grad_norm_first" not in large:
        return "untestable"
    norm, ratio = (large[k] / default[k] for k in ("grad_norm_first", "gradient_ratio_first"))
    held = 0.5 < ratio < 2 and norm > large["beta"] / default["beta"] / 4
    return "supported" if held else "contradicted"


def missed(found: dict[str, Any]) -> list[str]:
    """Controls whose interval leaves out 0.5, by the rule that decides."""
    arms = found.get("preference", {})
    inside = {a: arms[a][f"low{RULE}"] <= 0.5 <= arms[a][f"high{RULE}"] for a in ("shuffled", "aa") if a in arms}
    return [a for a, holds in inside.items() if not holds]


def changes(e: dict[str, Any]) -> str:
    """What `compared` found of fidelity and right attributes, in words."""
    said = [
        f"{name} {e[name]:+.4f} [{e[f'{name}_low']:+.4f}, {e[f'{name}_high']:+.4f}]" for name in ("fidelity", "right")
    ]
    return f"{', '.join(said)} of 5"


def table(found: dict[str, Any]) -> str:
    lines = []
    for arm, e in found.get("preference", {}).items():
        whom = "shuffled" if arm == "labels" else "the base"
        ruled, strict = (f"{e[f'value{r}']:.3f} [{e[f'low{r}']:.3f}, {e[f'high{r}']:.3f}]" for r in (RULE, ""))
        lines.append(
            f"{arm:9} preferred to {whom} {ruled} of {e['n']:.0f}, P(≥ .55) {e[f'p_55{RULE}']:.2f}; strictly {strict}; "
            f"{changes(e)}"
        )
    if rows := found.get("grid"):
        lines.append("    beta       lr  |g| first      max  ratio   loss   acc  winner   loser  distance  fidelity")
        for r in rows:
            figures = (
                ""
                if "loss" not in r
                else (
                    f"{r['grad_norm_first']:10.3g} {r['grad_norm_max']:8.3g} {r['gradient_ratio_first']:6.3f} "
                    f"{r['loss']:6.3f} {r['implicit_accuracy']:5.2f} {r['winner_change']:+7.3f} "
                    f"{r['loser_change']:+7.3f} {r['velocity_distance']:9.3f} {r['fidelity_change']:+9.3f} "
                    f"[{r['fidelity_change_low']:+.3f}, {r['fidelity_change_high']:+.3f}]"
                )
            )
            lines.append(f"{r['beta']:8g} {r['lr']:8g} {figures}{'  exploded' if r['exploded'] else ''}")
    return "\n".join([*lines, *(f"{v:12} {k}" for k, v in found["verdicts"].items())])
