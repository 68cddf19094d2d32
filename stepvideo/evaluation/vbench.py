"""`stepvideo evaluate export-vbench`: scored videos in the shape of VBench's result files. Light until it is called.

    {dimension: [mean, [{"video_path": …, "video_results": …}, …]]}

VBench's own summary takes a dimension that is missing for a zero, so the ones that are missing are told. Its shape has
no place for an interval: those of results.json are printed beside the means.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError

HELP = "scored videos as VBench's result file; only what was computed, and what was not is listed"
DIMENSIONS = (
    *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness", "dynamic_degree"),
    *("aesthetic_quality", "imaging_quality", "object_class", "multiple_objects", "human_action", "color"),
    *("spatial_relationship", "scene", "temporal_style", "appearance_style", "overall_consistency"),
)
EXACT = {"temporal_flickering": "temporal_flicker"}  # VBench's formula; the value's name here
STAND_INS = {  # VBench's rule with another network: exported under a name of its own
    "dynamic_degree_dis": ("dynamic_degree", "VBench asks RAFT for the flow, here it is DIS"),
    "motion_smoothness_dis": ("motion_smoothness", "VBench asks AMT for the frames between, here it is DIS"),
}
NETWORK = "needs a network that is not here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="that `stepvideo evaluate videos` has scored")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where its results are (DIR/results)")
    parser.add_argument("--partial", action="store_true", help="allow videos of the plan to be missing")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="to write (FOLDER/vbench_eval_results.json)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="fail if a dimension of the suite is missing")


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError: names the file that is missing or older than the videos."""
    from stepvideo.evaluation.manifest import load
    from stepvideo.storage import read_json, write_json

    results: Path = args.results or args.folder / "results"
    found = load(args.folder, args.partial)
    dimensions = {v.file: v.dimensions for v in found.videos}
    exported, missing = export(_rows(results / "scores.jsonl", {v.file: v.sha256 for v in found.videos}), dimensions)
    out: Path = args.out or results / "vbench_eval_results.json"
    write_json(out, exported)
    intervals = _intervals(read_json(results / "results.json")["values"], exported)
    wanted = {d for ds in dimensions.values() for d in ds} & set(DIMENSIONS) or set(DIMENSIONS)
    missing = {name: why for name, why in missing.items() if name in wanted}
    if args.json:
        said = {"file": str(out), "exported": sorted(exported), "intervals": intervals, "missing": missing}
        print(json.dumps(said))
    else:
        for name, (mean, videos) in exported.items():
            low, high = (intervals[name][end] for end in ("low", "high"))
            interval = "no interval: one prompt" if low is None else f"{low:.4f} to {high:.4f}"
            print(f"{name}: {mean:.4f} ({interval}) of {len(videos)} videos")
        for name, why in missing.items():
            print(f"missing: {name}: {why}")
        print(f"{out}; VBench's cal_final_score.py would take each missing dimension for a zero")
    return int(args.check and bool(missing))


def export(
    rows: Sequence[Mapping[str, Any]], dimensions: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """The result file, and every dimension of VBench's that is not in it, with why.

    In a suite with VBench's dimensions, one is measured on its own videos; else on all.

    Args:
        rows: of scores.jsonl.
        dimensions: file → what the suite says that it tests.
    """
    of_vbench = any(set(d) & set(DIMENSIONS) for d in dimensions.values())
    exported: dict[str, list[Any]] = {}
    missing = dict.fromkeys(DIMENSIONS, NETWORK)
    for name, value in [*EXACT.items(), *((n, n) for n in STAND_INS)]:
        dimension, why = STAND_INS.get(name, (name, ""))
        own = [r for r in rows if not of_vbench or dimension in dimensions[r["file"]]]
        known = [r for r in own if r["values"].get(value) is not None]
        if known and len(known) == len(own):
            each = [{"video_path": r["file"], "video_results": r["values"][value]} for r in known]
            exported[name] = [math.fsum(e["video_results"] for e in each) / len(each), each]
        elif own and not why:
            why = f"{len(own) - len(known)} of {len(own)} videos have no value"
        missing[dimension] = why or "the suite has no video of it"
        if name in EXACT and name in exported:
            del missing[dimension]
    return exported, missing


def _intervals(values: Mapping[str, Any], exported: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What results.json says of each exported mean, which is of the same videos: {mean, low, high, n, prompts}."""
    found = {}
    for name in exported:
        value, (dimension, _) = values[EXACT.get(name, name)], STAND_INS.get(name, (name, ""))
        mean = value["by_dimension"].get(dimension, value["all"])
        found[name] = {k: mean[k] for k in ("mean", "low", "high", "n", "prompts")}
    return found


def _rows(path: Path, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of the videos of the folder as they are now."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; score the videos first: stepvideo evaluate videos DIR") from None
    except (OSError, ValueError) as e:
        raise ArtifactError(f"{path} cannot be read as a line a video: {e}; score the videos again") from e
    if {r["file"]: r["sha256"] for r in rows} != digests:
        raise ArtifactError(f"{path} is of other videos than the folder's; score them again: stepvideo evaluate videos")
    return rows
