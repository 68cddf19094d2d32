"""How many honest annotators the exclusion rules lose, and how many careless ones they find.

    python benchmarks/study_quality.py [--json] [--check] [--people 400] [--items 100]

Simulated annotators (`preference.simulated`) answer a study as `stepvideo study create` makes it, with 8 gold, 8 A/A
and 8 repeated pairs a hundred. `--check` exits 1 where more than 1 % of the honest are excluded, at any of three levels
of noise, or a kind of carelessness is found less often than its bar.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stepvideo.data.draw import rng  # noqa: E402
from stepvideo.evaluation.stats import wilson  # noqa: E402
from stepvideo.preference.quality import EXCLUDED, WATCH, judge  # noqa: E402
from stepvideo.preference.rules import Rules, digest  # noqa: E402
from stepvideo.preference.simulated import Annotator, Pair, answers  # noqa: E402

CHECKS = 0.08  # of the items, each: gold, A/A, repeats
LOST = 0.01  # honest annotators, at most
PEOPLE = {  # kind: (annotator, share that is found at least; None: honest)
    "honest, sharp": (Annotator("simulated", noise=0.02, flip=0.0), None),
    "honest": (Annotator("simulated"), None),
    "honest, noisy": (Annotator("simulated", noise=0.1, flip=0.05), None),
    "any button, always": (Annotator("simulated", careless=1.0), 0.7),
    "any button, half the time": (Annotator("simulated", careless=0.5), 0.0),
    "left, always": (Annotator("simulated", constant="left"), 0.99),
    "tie, always": (Annotator("simulated", constant="tie"), 0.99),
    "left unseen, half the time": (Annotator("simulated", left=0.5), 0.5),
    "in half a second": (Annotator("simulated", dwell_s=0.5), 0.99),
}


def pairs(items: int, seed: int) -> Iterator[Pair]:
    """Pairs of one model against another a little better, with the checks among them; repeats come 20 pairs later."""
    draw = rng(seed, "pairs")
    checks = max(1, round(CHECKS * items))
    kinds = [*["vote"] * items, *["gold"] * checks, *["aa"] * checks]
    made = []
    for n, kind in enumerate([kinds[i] for i in draw.permutation(len(kinds))]):
        a, b = (float(v) for v in draw.normal((0.62, 0.58), 0.15).clip(0, 1))
        row = {"item": f"i{n}", "prompt_id": f"p{n}", "role": kind}
        if kind == "gold":  # a known-bad side: frames shuffled, or noise
            a, b, row = max(a, 0.5), 0.1, row | {"expected": 1}
        elif kind == "aa":
            b, row = a, row | {"expected": 0}
        made.append(Pair(a, b, row))
    again = [n for n, p in enumerate(made) if p.row["role"] == "vote"][:checks]
    for n in reversed(again):
        row = {"item": f"i{n}r", "prompt_id": f"p{n}", "role": "repeat", "repeat_of": f"i{n}"}
        made.insert(min(n + 20, len(made)), Pair(made[n].a, made[n].b, row))
    yield from made


def measure(people: int, items: int, rules: Rules) -> dict[str, dict[str, object]]:
    """kind → share excluded with its interval, share flagged, and which rules excluded whom."""
    found: dict[str, dict[str, object]] = {}
    for kind, (like, bar) in PEOPLE.items():
        verdicts, by = [], {}
        for seed in range(people):
            who = replace(like, name=f"{like.name}-{seed}")
            quality = judge(who.name, list(answers(pairs(items, seed), [who], "made", seed)), rules)
            verdicts.append(quality.verdict)
            for check in quality.checks:
                by[check.rule] = by.get(check.rule, 0) + (check.p < rules.alpha)
        excluded = wilson(verdicts.count(EXCLUDED), people)
        found[kind] = {
            **{"excluded": excluded.as_dict(), "watched": verdicts.count(WATCH) / people, "bar": bar},
            "rules": {rule: n / people for rule, n in by.items() if n},
            "ok": excluded.value <= LOST if bar is None else excluded.value >= bar,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=400, help="annotators of each kind (400)")
    parser.add_argument("--items", type=int, default=100, help="votes of each that count (100)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rules = Rules()
    found = measure(args.people, args.items, rules)
    if args.json:
        about = {"people": args.people, "items": args.items, "rules": digest(rules), "simulated": True}
        print(json.dumps({**about, "kinds": found}, indent=1))
    else:
        print(f"{args.people} simulated annotators of each kind, {args.items} votes and the checks among them")
        for kind, row in found.items():
            e = row["excluded"]
            rates = ", ".join(f"{rule} {share:.3f}" for rule, share in row["rules"].items())
            interval = f"{e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f})"
            print(f"  {kind:28} excluded {interval}, watched {row['watched']:.3f}  {rates}")
    return int(args.check and not all(row["ok"] for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
