"""What a version says of itself: the verdict of the data gate with its Data Docs, the funnel, and counts.

_about/gate/STAGE/     gate.json (the findings) and the Data Docs of Great Expectations, as they lie beside the artifact
_about/funnel.json     of the stage subsets, with funnel.svg
_about/summary.json    counts, and the verdicts in short
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks.gatekeeper import DOCS, GATED, check

ABOUT = "_about"
SUMMARY = f"{ABOUT}/summary.json"
FUNNEL = ("funnel.json", "funnel.svg")
SHOWN = 5  # findings that go into the .dvc file


def judge(artifacts: Sequence[Artifact], say: Callable[[str], None]) -> dict[str, Any]:
    """The gate over every artifact that has one; a verdict that is kept beside the artifact counts.

    Returns:
        {"passed": True, False, or None where nothing has a gate, "warnings": int, "failed": int, "findings": [str],
        "stages": {stage: {"passed", "warnings", "failed", "checked"}}}.

    Raises:
        StepVideoError: an artifact cannot be judged, for example as its catalog is not in the store.
    """
    from tasks.gates import GateFailed

    stages: dict[str, dict[str, Any]] = {}
    findings: list[str] = []
    for each in artifacts:
        kind = each.manifest.get("kind", "")
        if kind not in GATED:
            continue
        say(f"gate of {each.manifest['stage']}")
        store = Store(each.dir.parent.parent)
        try:
            report = check(kind, each.manifest["config"], each, catalog_of(each, store).out, store)
        except GateFailed as e:
            report = e.report
        counts = {"passed": report.success, "warnings": len(report.warnings), "failed": len(report.failed)}
        stages[each.manifest["stage"]] = {**counts, "checked": report.checked}
        findings += [f"{each.manifest['stage']}: {f}" for f in report.failed]
    passed = all(s["passed"] for s in stages.values()) if stages else None
    sums = {k: sum(s[k] for s in stages.values()) for k in ("warnings", "failed")}
    return {"passed": passed, **sums, "findings": findings, "stages": stages}


def catalog_of(each: Artifact, store: Store) -> Artifact:
    """The catalog that an artifact is, or was made from. Raises ArtifactError if it is not in the store."""
    if each.manifest["kind"] == "curate":
        return each
    todo, seen = [each], set()
    while todo:
        for ref in todo.pop(0).manifest["inputs"].values():
            found = store.find(ref["stage"], ref["key"], verify=False)
            if found and found.manifest["kind"] == "curate":
                return found
            if found and found.dir not in seen:
                seen.add(found.dir)
                todo.append(found)
    raise ArtifactError(f"{each.dir}: the catalog that it was made from is not in {store.root}; run its stage again")


def counts(artifacts: Sequence[Artifact]) -> dict[str, float]:
    """files, quarantined, clips, hours of a catalog, s1 … s6, sft, images of subsets; empty without them."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: dict[str, float] = {}
    for each in artifacts:
        kind = each.manifest.get("kind", "")
        if kind == "curate":
            table = pq.read_table(each.out / "catalog.parquet", columns=["kind", "frames", "fps"])
            clips = table.filter(pc.equal(table["kind"], "clip"))  # type: ignore[attr-defined]
            status = pq.read_table(each.out / "files.parquet", columns=["status"])["status"].to_pylist()
            frames, fps = (clips[c].to_numpy() for c in ("frames", "fps"))
            seconds = float((frames[fps > 0] / fps[fps > 0]).sum())
            found |= {"files": len(status), "quarantined": status.count("quarantined")}
            found |= {"clips": clips.num_rows, "hours": round(seconds / 3600, 4)}
        elif kind == "subsets":
            said = storage.read_json(each.out / "funnel.json")
            found |= {level["subset"]: level["left"] for level in said["levels"]}
            found |= {"sft": sum(said["sft"]), "images": said["images"]}
    return found


def write_about(
    artifacts: Sequence[Artifact], verdict: dict[str, Any], numbers: dict[str, float], folder: Path
) -> None:
    """The files of the module docstring below `folder`, the version to be."""
    for each in artifacts:
        stage, docs = each.manifest["stage"], each.dir / DOCS
        if stage in verdict["stages"]:
            for path in storage.tree(docs):
                storage.link_or_copy(path, folder / ABOUT / "gate" / stage / path.relative_to(docs))
        if each.manifest.get("kind") == "subsets":
            for name in FUNNEL:
                storage.link_or_copy(each.out / name, folder / ABOUT / name)
    storage.write_json(folder / SUMMARY, {"counts": numbers, "gate": verdict})
