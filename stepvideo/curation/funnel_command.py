"""`stepvideo funnel`: what other thresholds would leave of a curated catalog, in seconds."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation import places
from stepvideo.curation.config import LEVELS, Filter, SubsetsConfig
from stepvideo.errors import ConfigError

HELP = "how many clips each threshold leaves in s1 … s6 (report, Figure 11); try others without running anything"
RULE = re.compile(r"(\w+)\s*(>=|<=)\s*(.+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places.add_arguments(parser)
    parser.add_argument(
        "rules",
        nargs="*",
        metavar="TAG>=V",
        help="thresholds, such as 'text_area<=0.1' or 'motion_mean>=10%%' (of the clips: a quantile); one value, or "
        f"{LEVELS} with commas for s1 to s{LEVELS}; in place of the default one of that tag",
    )
    parser.add_argument("--none", action="store_true", help="no default thresholds, only those given")
    parser.add_argument("--uncaptioned", action="store_true", help="count clips without captions, too")
    parser.add_argument("--svg", metavar="FILE", help="write the figure there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Raises ConfigError for a rule that cannot be read, StepVideoError for an unknown tag."""
    from stepvideo.curation.funnel import svg
    from stepvideo.curation.subsets import funnel

    given = [rule(text) for text in args.rules]
    usual = [] if args.none else SubsetsConfig().filters
    if args.uncaptioned:  # a clip without captions has no overlap with them
        usual = [f for f in usual if f.tag != "caption_overlap"]
    filters = replaced(usual, given)
    config = SubsetsConfig(filters=filters, allow_empty=True)
    if args.uncaptioned:
        config.caption_sources = ["none"]
    at = places.locate(args)
    found = funnel(at["curate"], at.get("tables", ()), config, at.get("captions"))
    if args.svg:
        storage.write_atomic(Path(args.svg), svg(found.levels))
    if args.json:
        print(json.dumps({"base": found.base, "levels": found.levels}, indent=1, ensure_ascii=False))
    else:
        print(table(found.base, found.levels))
    return 0


def rule(text: str) -> Filter:
    """A filter from "TAG>=VALUES"."""
    parts = RULE.fullmatch(text.strip())
    values = [v.strip() for v in parts[3].split(",")] if parts else []
    quantile = any(v.endswith("%") for v in values)
    try:
        numbers = [_number(v.removesuffix("%")) / (100 if quantile else 1) for v in values]
        if not parts or len(numbers) not in (1, LEVELS) or quantile and not all(v.endswith("%") for v in values):
            raise ValueError(f"write TAG>=VALUE or TAG<=VALUE, with 1 or {LEVELS} values, all or none of them with %")
        numbers *= LEVELS // len(numbers)
        return Filter(parts[1], "above" if parts[2] == ">=" else "below", numbers, quantile)
    except ValueError as e:
        raise ConfigError(f"{text!r} is no threshold: {e}") from e


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def replaced(filters: Iterable[Filter], given: Sequence[Filter]) -> list[Filter]:
    """`filters` with those of the same tag and side replaced, then the further ones, in the order given."""
    new = {f.name: f for f in given}
    kept = [new.pop(f.name, f) for f in filters]
    return kept + list(new.values())


def table(base: Mapping[str, int], levels: Sequence[Mapping[str, Any]]) -> str:
    """One line a threshold that removed something, and one a subset."""
    lines = [", ".join(f"{n} {what.replace('_', ' ')}" for what, n in base.items())]
    lines += [f"{'subset':8}{'filter':24}{'threshold':>12}{'alone':>10}{'in turn':>10}{'left':>10}"]
    for level in levels:
        for s in level["filters"]:
            if s["removed_alone"]:
                limit = "" if s["threshold"] is None else f"{s['threshold']:.4g}"
                removed = f"{-s['removed_alone']:>10}{-s['removed']:>10}"
                lines.append(f"{'':8}{s['filter']:24}{limit:>12}{removed}{s['left']:>10}")
        lines.append(f"{level['subset']:54}{level['left'] - level['into']:>10}{level['left']:>10}")
    return "\n".join(lines)
