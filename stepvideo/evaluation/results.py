"""Rows of `results.jsonl` (one a sample), their rates, and comparisons of two runs on the same prompts and noise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import canonical
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.stats import (
    LEVEL,
    Estimate,
    Preference,
    cluster_bootstrap,
    mcnemar_exact,
    paired_bootstrap,
    preference_score,
    wilson,
)
from stepvideo.world.attributes import GRID, NAMES

ATTRIBUTES = (*NAMES, "all")
CHANCE: dict[str, float] = {n: 1 / len(v) for n, v in GRID.items()}
CHANCE["all"] = 1 / 288
SPLITS = ("train", "heldout")
GATE_PARTS = ("ground_truth", "reconstruction")
MAIN = "main"  # name of the run with the model's own sampling
INTERVALS = {
    "level": LEVEL,
    "rates": "Wilson, samples as trials",
    "clustered": "percentile bootstrap over attribute combinations",
    "gate": "Wilson, videos as trials",
    "differences": "percentile bootstrap over prompts",
    "preferences": "jackknife over prompts, Student's t",
}
"""How the intervals of an evaluation's files are made, by what they are of; n stands beside each value."""


@dataclass(frozen=True)
class Row:
    """One sample, as judged by the oracle.

    Attributes:
        run: "main" or the name of an extra run.
        index: position in the prompt list; with `seed` it determines the initial noise.
        right: attribute → right or wrong; None where the oracle cannot tell at this size (untestable).
        reading: attribute → value read; None where nothing was seen.
        soft: attribute → soft score in [0, 1] of the value that was asked for.
        steadiness: in [0, 1]; 1 where the object keeps its area.
        nfe: network evaluations the sample cost.
    """

    run: str
    index: int
    text: str
    lang: str
    held_out: bool
    attrs: dict[str, Any]
    seed: int
    steps: int
    nfe: int
    right: dict[str, bool | None]
    reading: dict[str, Any]
    soft: dict[str, float]
    steadiness: float
    sample: str = field(default="")  # mp4 or png in the artifact, for the few that are kept

    @property
    def split(self) -> str:
        return "heldout" if self.held_out else "train"

    @property
    def combination(self) -> str:
        return "-".join(str(self.attrs[n]) for n in NAMES if self.attrs[n] is not None)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    storage.write_atomic(path, "".join(canonical(asdict(r)) + "\n" for r in rows))


def load_rows(path: Path) -> list[Row]:
    """All rows of a file. Raises ArtifactError if it is missing or torn."""
    try:
        return [Row(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as e:
        raise ArtifactError(f"{path} cannot be read as evaluation results: {e}; evaluate again") from e


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Rows by run, in prompt order.

    Raises:
        ArtifactError: the file is missing or torn, or a run lacks a prompt: a missing video is an error, never a zero.
    """
    runs: dict[str, list[Row]] = {}
    for row in load_rows(path):
        runs.setdefault(row.run, []).append(row)
    if not runs:
        raise ArtifactError(f"{path} holds no result; evaluate again")
    expected = 1 + max(r.index for rows in runs.values() for r in rows)
    for name, rows in runs.items():
        rows.sort(key=lambda r: r.index)
        check_complete(rows, expected, f"{path}: run {name}")
    return runs


def check_complete(rows: Sequence[Row], expected: int, where: str) -> None:
    """Raises ArtifactError unless there is exactly one row for each of `expected` prompts."""
    found = [r.index for r in rows]
    if found != list(range(expected)):
        missing = sorted(set(range(expected)) - set(found))
        what = f"no result for prompt {missing[:5]}" if missing else "two results for a prompt"
        raise ArtifactError(f"{where} has {what}; evaluate again")


def rates(rows: Sequence[Row]) -> dict[str, Estimate | None]:
    """Share of right samples per attribute with its Wilson interval; None where it is untestable or not asked for."""
    out: dict[str, Estimate | None] = {}
    for name in ATTRIBUTES:
        answers = [r.right.get(name) for r in rows]
        known = [a for a in answers if a is not None]
        # One attribute is testable for all samples of an evaluation or for none: sizes are the same.
        out[name] = wilson(sum(known), len(known)) if known and len(known) == len(answers) else None
    return out


def gate_estimate(rate: Mapping[str, Any]) -> Estimate | None:
    """One of a gate's rates ({rate, n, …}) with Wilson's interval, videos as trials; None where no video has it."""
    return None if rate["rate"] is None else wilson(round(rate["rate"] * rate["n"]), rate["n"])


def clustered_rates(rows: Sequence[Row], seed: int = 0) -> dict[str, Estimate | None]:
    """The same rates with intervals that treat prompts of one combination as one cluster.

    Wilson's interval speaks of these combinations; this one also of combinations like them. Held-out combinations are
    few, so there it is the wider one.
    """
    clusters = [r.combination for r in rows]
    testable = [name for name, rate in rates(rows).items() if rate]
    out: dict[str, Estimate | None] = dict.fromkeys(ATTRIBUTES)
    for name in testable:
        out[name] = cluster_bootstrap([bool(r.right[name]) for r in rows], clusters, seed=seed)
    return out


@dataclass(frozen=True)
class Paired:
    """Rate of a minus rate of b on one attribute: difference with interval, discordant prompts, McNemar's exact p."""

    attribute: str
    difference: Estimate
    only_a: int
    only_b: int
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_paired(a: Sequence[Row], b: Sequence[Row]) -> None:
    """Raises ArtifactError unless both runs had the same prompts and initial noise."""
    if len(a) != len(b):
        raise ArtifactError(f"runs of {len(a)} and {len(b)} prompts cannot be paired; evaluate both with equal counts")
    for x, y in zip(a, b):
        if (x.index, x.text, x.seed, x.attrs) != (y.index, y.text, y.seed, y.attrs):
            raise ArtifactError(
                f"prompt {x.index} is {x.text!r} (seed {x.seed}) in one run, {y.text!r} (seed {y.seed}) in the other; "
                "evaluate both with the same prompt_seed, counts, languages and sizes"
            )


def compare(a: Sequence[Row], b: Sequence[Row], seed: int = 0) -> dict[str, Paired | None]:
    """Paired differences a − b of every attribute that both can test. Raises ArtifactError as `check_paired`."""
    check_paired(a, b)
    out: dict[str, Paired | None] = {}
    clusters = [r.text for r in a]
    for name in ATTRIBUTES:
        x, y = [r.right.get(name) for r in a], [r.right.get(name) for r in b]
        if any(v is None for v in (*x, *y)):
            out[name] = None
            continue
        only_a = sum(bool(p) and not q for p, q in zip(x, y))
        only_b = sum(bool(q) and not p for p, q in zip(x, y))
        difference = paired_bootstrap([bool(v) for v in x], [bool(v) for v in y], clusters, seed=seed)
        out[name] = Paired(name, difference, only_a, only_b, mcnemar_exact(only_a, only_b))
    return out


def preference(results_a: Sequence[Row], results_b: Sequence[Row], seed: int = 0) -> Preference | None:
    """How often the noiseless oracle prefers a to b, paired by prompt and initial noise.

    More right attributes win; among equals the higher soft score of the asked-for values (with the steadiness) does;
    identical readings tie. Attributes that either side cannot test do not count; None if none is left.

    Raises:
        ArtifactError: as `check_paired`.
    """
    check_paired(results_a, results_b)
    names = [n for n in NAMES if all(r.right.get(n) is not None for r in (*results_a, *results_b))]
    if not names:
        return None
    outcomes = []
    for x, y in zip(results_a, results_b):
        p, q = _quality(x, names), _quality(y, names)
        outcomes.append((p > q) - (p < q))
    return preference_score(outcomes, [r.text for r in results_a], seed=seed)


def _quality(row: Row, names: Sequence[str]) -> tuple[int, float]:
    right = sum(bool(row.right[n]) for n in names)
    return right, round(sum(row.soft[n] for n in names) + row.steadiness, 9)


def by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each split that has any, training combinations first."""
    found = {s: [r for r in rows if r.split == s] for s in SPLITS}
    return {s: r for s, r in found.items() if r}


def as_json(estimates: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {k: e.as_dict() if e else None for k, e in estimates.items()}
