"""All of a comparison in one value: what the terminal, the page and `--json` show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.comparison import costs, curves, films, measures, origins, settings
from flows.comparison.subjects import Aligned, Gap, Subject, aligned, evaluations, in_words, own_name, subjects
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError
from stepvideo.evaluation.stats import Estimate


@dataclass(frozen=True)
class Comparison:
    """Two subjects or more; the first is what the others are compared with.

    Attributes:
        origins: of every other subject, its lineage against the first's.
        rates: those of evaluations that no test shows, each with its own interval. metrics: single values.
        missing: whatever could not be compared, in words: there are no silent gaps.
    """

    subjects: list[Subject]
    stages: Aligned
    evaluations: Aligned
    settings: settings.Settings
    origins: list[list[origins.Step]]
    tests: list[measures.Test]
    rates: dict[str, list[Estimate | None]]
    metrics: dict[str, list[float | None]]
    charts: list[curves.Chart]
    films: list[films.Film]
    costs: dict[str, list[costs.Cost | None]]
    missing: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; of curves the last values only."""
        totals = [costs.totals(self.costs, i) for i in range(len(self.subjects))]
        return {
            "subjects": [{"name": s.name, "about": s.about} for s in self.subjects],
            "config": [asdict(s) for s in self.settings.differ],
            "equal_settings": self.settings.equal,
            "lineage": [{"first": origins.headline(o), "stages": [s.as_dict() for s in o]} for o in self.origins],
            "tests": [t.as_dict() for t in self.tests],
            "rates": {n: [e and e.as_dict() for e in row] for n, row in self.rates.items()},
            "metrics": self.metrics,
            "curves": {c.stage: {m: [p and p[-1] for p in each] for m, each in c.metrics.items()} for c in self.charts},
            "videos": [{**asdict(f), "videos": [v and str(v) for v in f.videos]} for f in self.films],
            "cost": {n: [c and c.as_dict() for c in row] for n, row in self.costs.items()},
            "totals": totals,
            "missing": self.missing,
        }


def comparison(store: Store, refs: Sequence[str]) -> Comparison:
    """Compare what is named; see `subjects` for names.

    Raises:
        ConfigError: fewer than two names.
        ArtifactError: a name that stands for nothing, or for more than one thing.
    """
    if len(refs) < 2:
        raise ConfigError(f"compare {' '.join(refs)}: name two runs or artifacts, such as latest~1 latest")
    found = subjects(store, refs)
    rows = aligned(found)
    evaluated = evaluations(store, found, rows)
    tests, untested = measures.tests(evaluated, found)
    rates, unread = measures.untested(evaluated, found, tests)
    drawn, undrawn = curves.charts(rows, found)
    shown, unseen = films.films(evaluated, found)
    absent = [Gap(s.name, stage, why) for s in found for stage, why in s.absent.items()]
    if not evaluated:
        absent.append(Gap("metrics with intervals and videos", "these", "no evaluation of them is in the store"))
    if len(kinds := {s.own.manifest["kind"] for s in found if s.own}) > 1:
        absent.append(Gap("settings", own_name(found), f"they are of several kinds: {', '.join(sorted(kinds))}"))
    spent = costs.costs(found, rows)
    arrays = [n for n, row in spent.items() if any(c and c.device_seconds is None for c in row)]
    untimed = [Gap("device-seconds", n, "not measured, a job array") for n in arrays]
    return Comparison(
        found,
        rows,
        evaluated,
        settings.settings(found, rows),
        [origins.steps(rows, 0, i) for i in range(1, len(found))],
        tests,
        rates,
        measures.scalars(rows),
        drawn,
        shown,
        spent,
        in_words([*absent, *untested, *unread, *undrawn, *unseen, *untimed]),
    )
