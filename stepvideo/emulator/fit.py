"""Fits the constants of the cost model to measured steps, within their physical ranges and drawn to their priors.

Least squares of log(predicted / measured), with each constant's log(value / prior) as one more observation: what the
measurements do not say stays as it was. Nothing else is fitted: no term of a row's configuration. Needs scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.calibration import Calibration, ranges
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.measured import File, Runs
from stepvideo.emulator.step import step

ROW, PRIOR = 0.1, 0.7  # standard deviations of the logarithms: of a row's error, and of a constant about its prior

Errors = Callable[[Calibration], NDArray[np.float64]]  # log(predicted / measured) of every row


def predict(file: File, runs: Runs, calibration: Calibration) -> NDArray[np.float64]:
    """Seconds of every row."""
    gpus = int(np.max(runs.plan.gpus))
    return np.broadcast_to(step(runs.work, Cluster(file.gpu, gpus), runs.plan, calibration).total, len(runs))


def fit(file: File, runs: Sequence[Runs] | None = None) -> Calibration:
    """Constants that suit `runs` (default: all of the file), beginning from the priors of its kind of file."""
    chosen = runs or file.runs

    def errors(calibration: Calibration) -> NDArray[np.float64]:
        return np.concatenate([np.log(predict(file, r, calibration) / r.seconds) for r in chosen])

    return solve(file.prior, file.fitted, errors, file.name)


def solve(
    prior: Calibration,
    names: Sequence[str],
    errors: Errors,
    source: str,
    begin: Calibration | None = None,
    tolerance: float = 1e-8,
) -> Calibration:
    """`prior` with the constants `names` fitted, which `source` says to what.

    begin: where the search starts, the prior by default. tolerance: it ends where a step changes less, relatively.
    """
    from scipy.optimize import least_squares

    start, first = (np.array([getattr(c, n) for n in names]) for c in (prior, begin or prior))
    low, high = np.array([ranges()[n] for n in names]).T

    def at(logs: NDArray[np.float64]) -> Calibration:
        values = np.clip(np.exp(logs), low, high)
        return prior.with_(f"fitted on {source}", **dict(zip(names, values.tolist())))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([errors(at(logs)) / ROW, (logs - np.log(start)) / PRIOR])

    found = least_squares(
        residuals,
        np.log(first),
        bounds=(np.log(np.maximum(low, 1e-9)), np.log(high)),
        loss="soft_l1",
        diff_step=1e-3,
        max_nfev=100,
        ftol=tolerance,
        xtol=tolerance,
    )
    return at(found.x)


def identified(prior: Calibration, candidates: Sequence[str], errors: Errors) -> list[str]:
    """Constants that the measurements tell, the surest first: all of them together to within half of the priors'
    deviation, by the slopes of `errors` over that deviation (a launch may show only where it is slower)."""
    slopes = {}
    for name in candidates:
        value, (low, high) = getattr(prior, name), ranges()[name]
        if value > 0:
            ends = np.clip(value * np.exp([-PRIOR, PRIOR]), max(low, 1e-9), high)
            first, last = (errors(replace(prior, **{name: float(e)})) for e in ends)
            slopes[name] = (last - first) / np.log(ends[1] / ends[0])

    def doubt(names: list[str]) -> float:
        j = np.stack([slopes[n] for n in names], axis=1)
        return float(np.sqrt(np.diag(np.linalg.inv(j.T @ j / ROW**2 + np.eye(len(names)) / PRIOR**2)).max()))

    chosen: list[str] = []
    while rest := [n for n in slopes if n not in chosen]:
        best = min(rest, key=lambda n: doubt([*chosen, n]))
        if doubt([*chosen, best]) > PRIOR / 2:
            break
        chosen.append(best)
    return chosen


@dataclass(frozen=True)
class Held:
    """One part of a file predicted by constants that were fitted without it."""

    name: str
    runs: Runs
    error: NDArray[np.float64]  # predicted / measured - 1


def held_out(file: File) -> Iterator[Held]:
    """Every part of the file (`Form.parts`) by constants fitted on the rest."""
    for i, runs in enumerate(file.runs):
        for name, mask in file.parts(runs):
            rest = [r for j, r in enumerate(file.runs) if j != i]
            rest += [runs.only(~mask)] * bool((~mask).any())
            part = runs.only(mask)
            yield Held(name, part, predict(file, part, fit(file, rest)) / part.seconds - 1)


def transferred(file: File, calibration: Calibration) -> Iterator[Held]:
    """Every model of the file by given constants."""
    for runs in file.runs:
        yield Held(runs.model, runs, predict(file, runs, calibration) / runs.seconds - 1)
