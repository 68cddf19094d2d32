"""What a run will need of the disk, said before it starts; one that cannot fit is refused.

A stage will take what its last artifact took, scaled by what its size follows where that is known; where there is
none, what an artifact of its kind took in another stage; else what the kind's law says (flows/forecast_laws.py), or the
least that is known of its kind. While a stage that trains is at work, its checkpoints lie there, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.forecast_laws import Laws
from flows.graph import Node
from flows.plan import fingerprints, spec_of
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ConfigError
from tasks.keeping_items import in_bytes, size

LAST, KIND, LAW, GUESS = "its last artifact", "another of its kind", "a law of its kind", "the least known of its kind"
BOUND = "a law with one clip a raw file"
SCALED = ("render", "raw", "vae", "text")  # kinds whose law follows from their own settings
TRAINED = ("train", "dpo", "turbo", "average", "reward")  # kinds whose artifact is a DiT
CHECKPOINTS, STATE = 2, 16  # so many are kept at work; bytes of a parameter: weights, two moments, an average
PAPERS = 6e4  # bytes of manifest, spec, events and ledger of a stage that trains
LEAST = {"pairs": 9e4, "couplings": 4e4, "evaluate": 3.2e5, "report": 9.3e5}  # bytes with `profile=smoke`


@dataclass(frozen=True)
class Need:
    """What one stage will add to the store: bytes of its artifact, of its work while it runs, and where from."""

    stage: str
    bytes: float
    work: float
    basis: str


@dataclass(frozen=True)
class Forecast:
    """needs: of the stages that will run. free: on the store's disk. used: by the store, asked only under a quota."""

    needs: list[Need]
    concurrency: int
    free: int
    quota: float
    used: int

    @property
    def bytes(self) -> float:
        """At the worst moment: every artifact, and the work of those that run at once."""
        work = sorted((n.work for n in self.needs), reverse=True)
        return sum(n.bytes for n in self.needs) + sum(work[: self.concurrency])

    @property
    def problem(self) -> str:
        """Why the run cannot fit; empty if it can."""
        if self.bytes > self.free:
            return f"needs about {in_bytes(self.bytes)} of disk, and {in_bytes(self.free)} are free"
        if self.quota and self.used + self.bytes > self.quota:
            there = f"{in_bytes(self.used)} of store_quota_gb ({in_bytes(self.quota)}) are taken"
            return f"needs about {in_bytes(self.bytes)}, and {there}"
        return ""

    def line(self) -> str:
        """For people: the need, what it rests on, and what there is."""
        if not self.needs:
            return "disk: nothing is to be made"
        bases = {b: sum(n.basis == b for n in self.needs) for b in (LAST, KIND, LAW, BOUND, GUESS)}
        said = ", ".join(f"{n} from {b}" for b, n in bases.items() if n)
        about = "at least" if bases[GUESS] or bases[BOUND] else "about"
        there = f"{in_bytes(self.free)} are free"
        return f"disk: {about} {in_bytes(self.bytes)} for {len(self.needs)} stages ({said}); {there}"


def expected(nodes: list[Node], store: Store) -> Iterator[tuple[Node, str, Artifact | None]]:
    """(node, key, artifact) in the nodes' order; no key while an input is not made, no artifact where there is none.

    Artifacts are believed, not verified.
    """
    code = fingerprints(nodes)
    made: dict[str, Artifact] = {}
    for node in nodes:
        if any(source not in made for source in node.inputs.values()):
            yield node, "", None
            continue
        key = spec_of(node, made, store, code).key
        artifact = store.find(node.name, key, verify=False)
        if artifact:
            made[node.name] = artifact
        yield node, key, artifact


def forecast(cfg: Mapping[str, Any], nodes: list[Node]) -> Forecast:
    """What a run of these nodes will need. Nothing is written."""
    store = Store(cfg["store"])
    former = [] if not store.root.is_dir() else store.artifacts()[::-1]
    there = list(expected(nodes, store))
    laws = Laws(nodes, {node.name: artifact for node, _, artifact in there if artifact})
    dits = _dits(nodes)
    needs = [_need(node, former, dits, laws) for node, _, artifact in there if artifact is None]
    quota = float(cfg.get("store_quota_gb") or 0.0) * 1e9
    free = shutil.disk_usage(_nearest(store.root)).free
    used = size(store.root) if quota and store.root.is_dir() else 0
    return Forecast(needs, int(cfg["cluster"]["concurrency"]), free, quota, used)


def check_disk(cfg: Mapping[str, Any], nodes: list[Node]) -> Forecast:
    """Raises ConfigError if the run cannot fit, with the figure and the fix; not with `store_force`."""
    found = forecast(cfg, nodes)
    if found.problem and not cfg.get("store_force"):
        largest = max(found.needs, key=lambda n: n.bytes + n.work)
        raise ConfigError(
            f"this run {found.problem}; the most for {largest.stage}, {in_bytes(largest.bytes + largest.work)} from "
            f"{largest.basis}. `stepvideo gc` frees some, store=DIR takes another disk, store_force=true starts anyway"
        )
    return found


def _nearest(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_dir())


def _need(node: Node, former: list[Artifact], dits: Mapping[str, float], laws: Laws) -> Need:
    state = dits.get(node.name, 0.0) * STATE * CHECKPOINTS
    for basis, same in ((LAST, "stage"), (KIND, "kind")):
        wanted = node.name if same == "stage" else node.kind
        # the one that is likest in size, the newest of these
        found = [a for a in former if a.manifest.get(same) == wanted and a.manifest["kind"] == node.kind]
        if found:
            scales = [_scale(a, node, dits.get(node.name, 0.0), laws) for a in found]
            best = min(range(len(found)), key=lambda i: abs(scales[i] - 1.0))
            return Need(node.name, size(found[best].dir) * scales[best], state, basis)
    if node.kind in TRAINED and (now := dits.get(node.name, 0.0)):
        return Need(node.name, 4.0 * now * _models(node.config) + PAPERS, state, LAW)
    if (now := laws.of(node)) is not None:
        return Need(node.name, now, 0.0, BOUND if laws.is_bound(node) else LAW)
    return Need(node.name, LEAST.get(node.kind, 0.0), 0.0, GUESS)


def _scale(former: Artifact, node: Node, parameters: float, laws: Laws) -> float:
    """How much larger than a former artifact it will be, by what the size of its kind follows."""
    config = former.manifest["config"]
    if node.kind in SCALED:
        now, then = laws.of(node), laws.of(Node(node.name, node.kind, config, {}))
    else:
        now, then = parameters, float(former.metrics.get("parameters", 0.0)) or _parameters(config)
    return now / then if now and then else 1.0


def _dits(nodes: list[Node]) -> dict[str, float]:
    """{stage: parameters of its DiT}; stages without a network of their own have that of the stage they start from."""
    found: dict[str, float] = {}
    for node in nodes:
        if node.kind in TRAINED:
            sources = (found[s] for s in node.inputs.values() if s in found)
            found[node.name] = _parameters(node.config) or max(sources, default=0.0)
    return found


def _parameters(config: Mapping[str, Any]) -> float:
    if not isinstance(config.get("dit"), Mapping):
        return 0.0
    from stepvideo.config import load
    from stepvideo.emulator.networks import dit_network
    from stepvideo.models.config import DiTConfig

    return dit_network(load(DiTConfig, config["dit"])).parameters


def _models(config: Mapping[str, Any]) -> int:
    """How many a stage keeps: snapshots along the way, the last among them."""
    return max(1, int(config.get("snapshots") or 1)) if "dit" in config else 1
