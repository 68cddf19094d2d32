"""Which gate stands behind which kind of stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.artifact import Artifact, Store

if TYPE_CHECKING:
    from tasks.gates import GateReport

GATED = ("curate", "tags", "concepts", "captions", "labels", "subsets", "shards")  # kinds of stages
DOCS = "gate"  # folder of the Data Docs, beside the artifact


def check(kind: str, config: Mapping[str, Any], made: Artifact, catalog: Path, store: Store) -> GateReport:
    """Validate what a stage made, against the catalog and against its last version in the store.

    Raises:
        GateFailed: a critical expectation does not hold.
    """
    from tasks import gates, set_gate, table_gate

    docs = made.dir / DOCS
    versions = [a for a in store.artifacts() if a.dir.parent == made.dir.parent]
    earlier = versions[: [a.dir for a in versions].index(made.dir)]
    last = earlier[-1].out if earlier else None
    match kind:
        case "curate":
            return gates.check_catalog(made.out, docs, min_frames=config["segment"]["min_frames"], last=last)
        case "tags" | "concepts":
            return table_gate.check_tables(made.out, catalog, docs, last)
        case "captions" | "labels":
            return set_gate.check_captions(made.out, catalog, docs, last)
        case "subsets":
            return set_gate.check_subsets(made.out, catalog, docs)
        case "shards":
            return set_gate.check_shards(made.out, catalog, docs)
    raise ValueError(f"no gate stands behind stages of kind {kind!r}; give one of {', '.join(GATED)}")
