"""The raw files behind a model: from the subsets that its stages train on, through the catalog, to the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from flows.lineage import ancestors
from stepvideo import storage
from stepvideo.artifact import Artifact, Store

if TYPE_CHECKING:
    import pyarrow as pa

SIDECARS = "sidecars.jsonl"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class RawFile:
    """One raw file of which clips are in a subset that the model, or what it comes from, was trained on.

    Attributes:
        role: which raw data it belongs to (raw, world, extra).
        clips: how many of its clips; `catalogued`: how many were cut from it at all.
        size: bytes; None where the curation did not note it.
        seconds: of the clips that are used.
        licence: from `sidecars.jsonl` (key "licence" or "license"); `NOT_RECORDED` otherwise.
    """

    role: str
    file: str
    sha256: str
    clips: int
    catalogued: int
    size: int | None
    seconds: float
    licence: str


@dataclass(frozen=True)
class Clips:
    """All of them, and which stages took how many clips of which subsets."""

    files: list[RawFile]
    stages: list[dict[str, Any]]  # {stage, key, subsets, clips}
    clips: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def used_subsets(manifest: Mapping[str, Any]) -> list[str]:
    """The subset files that a stage trains on, by its kind and config; nothing for one that trains on no clip."""
    config, kind = manifest["config"], manifest["kind"]
    if "subsets" not in manifest["inputs"]:
        return []
    if kind == "train":
        videos = [config["subset"]] if config["media"] != "images" else []
        return videos + ([config["images"] or "images"] if config["media"] != "videos" else [])
    if kind in ("text", "vae"):
        return {"text": ["s1", "images"], "vae": ["s1"]}[kind]
    return [config["subset"]] if kind in ("couplings", "average") and config.get("subset") else []


@dataclass(frozen=True)
class Used:
    """What a model, and what it comes from, was trained on: stages with their subsets, and ids by catalog."""

    stages: list[dict[str, Any]]
    ids: dict[tuple[str, str], Any]  # (stage, key) of a catalog: its clip ids

    @property
    def clips(self) -> int:
        return len(_union(self.ids.values()))


def used(store: Store, artifact: Artifact) -> Used:
    """The clips behind an artifact; all of them where it is a catalog.

    Clips that a stage held out for validation (`held_out`) are counted: which they are depends on its seed.
    """
    if artifact.manifest["kind"] == "curate":
        own = (artifact.manifest["stage"], artifact.manifest["key"])
        return Used([], {own: _union([_ids(artifact.out / "catalog.parquet")])})
    ids: dict[tuple[str, str], list[pa.Array]] = {}  # of the subsets artifact
    stages = []
    for each in [artifact, *ancestors(store, artifact)]:
        names = used_subsets(each.manifest)
        source = _input(store, each, "subsets") if names else None
        if source is None:
            continue
        mine = [_ids(source.out / f"{n}.parquet") for n in names]
        ids.setdefault((source.manifest["stage"], source.manifest["key"]), []).extend(mine)
        m = each.manifest
        stages.append({"stage": m["stage"], "key": m["key"], "subsets": names, "clips": len(_union(mine))})
    return Used(stages, {ref: _union(arrays) for ref, arrays in _by_catalog(store, ids).items()})


def clips_behind(store: Store, artifact: Artifact) -> Clips:
    """The raw files behind an artifact, those with most clips first."""
    found = used(store, artifact)
    files: list[RawFile] = []
    for ref, ids in found.ids.items():
        if catalog := store.find(*ref, verify=False):
            files += _files(store, catalog, ids)
    return Clips(sorted(files, key=lambda f: (-f.clips, f.role, f.file)), found.stages, found.clips)


def catalog_files(store: Store, catalog: Artifact) -> list[RawFile]:
    """Every raw file with a clip in a catalog."""
    return clips_behind(store, catalog).files


def _by_catalog(store: Store, ids: Mapping[tuple[str, str], list[pa.Array]]) -> dict[tuple[str, str], list[pa.Array]]:
    """Ids by the catalog that their subsets were chosen from: several subsets may share one."""
    found: dict[tuple[str, str], list[pa.Array]] = {}
    for (stage, key), arrays in ids.items():
        subsets = store.find(stage, key, verify=False)
        ref = subsets.manifest["inputs"].get("curate") if subsets else None
        if ref:
            found.setdefault((ref["stage"], ref["key"]), []).extend(arrays)
    return found


def _input(store: Store, artifact: Artifact, role: str) -> Artifact | None:
    ref = artifact.manifest["inputs"].get(role)
    return store.find(ref["stage"], ref["key"], verify=False) if ref else None


def _ids(path: Path) -> pa.Array:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["clip_id"])["clip_id"]


def _union(arrays: Iterable[Any]) -> Any:
    import pyarrow as pa

    chunks = [c for a in arrays for c in (a.chunks if isinstance(a, pa.ChunkedArray) else [a])]
    return pa.chunked_array(chunks).unique() if chunks else pa.array([], pa.string())


def _files(store: Store, catalog: Artifact, ids: Any) -> list[RawFile]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = ["source_role", "source_file", "source_sha256"]
    table = pq.read_table(catalog.out / "catalog.parquet", columns=["clip_id", *keys, "frames", "fps"])
    frames, fps = (np.nan_to_num(table[c].to_numpy().astype(float)) for c in ("frames", "fps"))
    table = table.append_column("seconds", pa.array(np.divide(frames, fps, out=np.zeros_like(frames), where=fps > 0)))
    used = table.filter(pc.field("clip_id").isin(ids.combine_chunks() if hasattr(ids, "chunks") else ids))
    every = table.group_by(keys).aggregate([("clip_id", "count")]).to_pylist()
    cut = {tuple(r[k] for k in keys): r["clip_id_count"] for r in every}
    sizes, licences = _sizes(catalog), _licences(store, catalog)
    out = []
    for r in used.group_by(keys).aggregate([("clip_id", "count"), ("seconds", "sum")]).to_pylist():
        role, file = r["source_role"], r["source_file"]
        licence = licences.get((role, file), NOT_RECORDED)
        spent = round(r["seconds_sum"], 3)
        known = cut[tuple(r[k] for k in keys)]
        size = sizes.get((role, file))
        out.append(RawFile(role, file, r["source_sha256"], r["clip_id_count"], known, size, spent, licence))
    return out


def _sizes(catalog: Artifact) -> dict[tuple[str, str], int]:
    import pyarrow.parquet as pq

    path = catalog.out / "files.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path, columns=["role", "file", "size"])
    return dict(zip(zip(*(table[c].to_pylist() for c in ("role", "file"))), table["size"].to_pylist()))


def _licences(store: Store, catalog: Artifact) -> dict[tuple[str, str], str]:
    """From the sidecars of every raw artifact behind a catalog."""
    found = {}
    for role in catalog.manifest["inputs"]:
        raw = _input(store, catalog, role)
        if raw is None:
            continue
        for name in (n for n in raw.manifest["files"] if n.endswith(SIDECARS)):
            folder = PurePosixPath(name.removeprefix("files/")).parent
            for row in storage.read_json_lines(raw.out / name):
                if said := row.get("licence") or row.get("license"):
                    found[role, (folder / str(row.get("file", ""))).as_posix()] = str(said)
    return found
