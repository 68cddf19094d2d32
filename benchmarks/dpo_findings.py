"""What the study of DPO concludes from its figures, which `benchmarks/dpo.py` makes: intervals, verdicts, a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5000
ARMS = ("dpo", "shuffled", "aa")
TIE = 0.03  # of fidelity, as the annotators have it
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


def verdict(e: dict[str, float], testable: bool) -> str:
    if not testable:
        return "untestable"
    return "supported" if e["low"] > 0.5 else "contradicted" if e["high"] < 0.5 else "inconclusive"


def preferences(seeds: list[dict[str, Any]], pooled: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each arm over the base, with what it did to the qualities and, of those that train, how that went; `labels` is
    DPO over its twin with shuffled labels.
    """
    found: dict[str, Any] = {}
    arms = {arm: [(s["qualities"][arm], s["qualities"]["base"], s.get(arm)) for s in seeds] for arm in ARMS}
    # what the labels say, drift and all else being equal
    arms["labels"] = [(s["qualities"]["dpo"], s["qualities"]["shuffled"], None) for s in seeds]
    if pooled:
        arms["pooled"] = [
            (p["qualities"], s["qualities"]["base"], p["metrics"]) for p, s in zip(pooled, seeds, strict=False)
        ]
    for k, (arm, runs) in enumerate(arms.items()):
        change = np.mean([np.mean(mine, 0) - np.mean(base, 0) for mine, base, _ in runs], 0)
        found[arm] = {"right": float(change[0]), "fidelity": float(change[1])}
        for name, tie in (("", 0.0), ("_with_ties", TIE)):
            table = np.array([outcomes(mine, base, tie) for mine, base, _ in runs])
            interval = nested_bootstrap(table, np.random.default_rng(k))
            found[arm] |= {f"{key}{name}": float(v) for key, v in interval.items()}
            found[arm][f"by_seed{name}"] = table.mean(1).tolist()
        if trained := [metrics for _, _, metrics in runs if metrics]:
            found[arm]["training"] = {k: float(np.mean([m[k] for m in trained])) for k in trained[0]}
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """supported | contradicted | inconclusive | untestable, by claim."""
    said: dict[str, str] = {}
    if arms := found.get("preference"):
        controls = not missed(found)
        for arm, whose in (("dpo", "its own pairs"), ("pooled", "the pairs of all seeds")):
            if arm in arms:
                said[f"DPO on {whose} is preferred to the model that it started from"] = verdict(arms[arm], controls)
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
    """Controls whose interval leaves out 0.5."""
    arms = found.get("preference", {})
    return [a for a in ("shuffled", "aa") if a in arms and not arms[a]["low"] <= 0.5 <= arms[a]["high"]]


def table(found: dict[str, Any]) -> str:
    lines = []
    for arm, e in found.get("preference", {}).items():
        whom = "shuffled" if arm == "labels" else "the base"
        lines.append(
            f"{arm:9} preferred to {whom} {e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}] of {e['n']:.0f}, "
            f"P(≥ .55) {e['p_55']:.2f}, with ties {e['value_with_ties']:.3f} [{e['low_with_ties']:.3f}, "
            f"{e['high_with_ties']:.3f}]; fidelity {e['fidelity']:+.4f}, right {e['right']:+.3f} of 5"
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
                    f"{r['loser_change']:+7.3f} {r['velocity_distance']:9.3f} {r['fidelity_change']:+9.3f}"
                )
            )
            lines.append(f"{r['beta']:8g} {r['lr']:8g} {figures}{'  exploded' if r['exploded'] else ''}")
    return "\n".join([*lines, *(f"{v:12} {k}" for k, v in found["verdicts"].items())])
