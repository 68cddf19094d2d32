"""What a notebook shows of trained models, from the store of a run: this repository holds no trained DiT.

    python scripts/notebook_data.py runs/store

Reads what the stages evaluate.* found and writes notebooks/data/stages.json: of every model and prompt what was right,
and where each is from.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.evaluation.collect import CASCADE
from stepvideo.evaluation.results import ATTRIBUTES, MAIN, Row, check_paired, read_rows

DATA = Path(__file__).resolve().parent.parent / "notebooks" / "data"


def evaluated(store: Path) -> dict[str, Path]:
    """Model → the newest complete artifact of its evaluation, in the order of the cascade.

    Raises:
        ArtifactError: fewer than two models were evaluated.
    """
    newest: dict[str, tuple[float, Path]] = {}
    for manifest in store.glob("evaluate.*/*/manifest.json"):
        name, at = manifest.parent.parent.name.removeprefix("evaluate."), storage.read_json(manifest)["finished"]
        newest[name] = max(newest.get(name, (0.0, manifest.parent)), (at, manifest.parent))
    if len(newest) < 2:
        raise ArtifactError(f"{store} has evaluations of {len(newest)} models; a comparison needs two, so run further")
    order = {name: i for i, name in enumerate(CASCADE)}
    return {n: newest[n][1] for n in sorted(newest, key=lambda n: (order.get(n.partition(".")[0], len(order)), n))}


def stages(store: Path) -> dict[str, Any]:
    """The content of stages.json: a 1 (right) or 0 a prompt of every attribute; null where the oracle cannot tell.

    Raises:
        ArtifactError: the models had other prompts, or nothing can be told of any of them.
    """
    found = evaluated(store)
    rows = {name: read_rows(folder / "out" / "results.jsonl")[MAIN] for name, folder in found.items()}
    first = next(iter(rows.values()))
    for other in rows.values():
        check_paired(first, other)
    models = {name: {"right": _right(mine), "source": _source(found[name])} for name, mine in rows.items()}
    if not any(any(m["right"].values()) for m in models.values()):
        raise ArtifactError(f"the oracle reads nothing in videos of this VAE ({store}); train it longer than `smoke`")
    return {"prompts": [{"text": r.text, "held_out": r.held_out} for r in first], "models": models}


def _right(rows: list[Row]) -> dict[str, str | None]:
    said = {a: [r.right.get(a) for r in rows] for a in ATTRIBUTES}
    return {a: None if None in v else "".join(str(int(bool(x))) for x in v) for a, v in said.items()}


def _source(folder: Path) -> dict[str, Any]:
    """Where a result is from, without the machine."""
    manifest = storage.read_json(folder / "manifest.json")
    lineage, inputs = manifest["lineage"], {role: i["digest"] for role, i in manifest["inputs"].items()}
    kept = {name: manifest[name] for name in ("stage", "key", "digest")}
    return kept | {"inputs": inputs} | {name: lineage[name] for name in ("command", "git_sha", "git_dirty", "data_md5")}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=DATA / "stages.json")
    asked = parser.parse_args(arguments)
    try:
        found = stages(asked.store)
    except StepVideoError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    storage.write_atomic(asked.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")  # in the cascade's order
    print(f"{', '.join(found['models'])}: {len(found['prompts'])} prompts")
    print("next: python scripts/notebooks.py what-did-each-training-step-change, and mend the words of its answer")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
