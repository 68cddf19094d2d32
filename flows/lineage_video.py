"""From a video file to what made it: its own metadata, the artifact it lies in, its bytes in the store, a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from stepvideo.inference.outputs import read_made_by
from stepvideo.models.layout import PARTS

MEDIA = (".mp4", ".png", ".gif")
SETTINGS = {  # what a file says: the option of `stepvideo generate`, "" for none
    "prompt": "",
    "negative_prompt": "negative",
    "positive_suffix": "suffix",
    "seed": "seed",
    "steps": "steps",
    "cfg": "cfg",
    "cfg_schedule": "cfg-schedule",
    "time_shift": "time-shift",
    "frames": "frames",
    "height": "height",
    "width": "width",
    "motion_score": "motion-score",
    "image": "",
    "fps": "fps",
    "precision": "precision",
}


@dataclass(frozen=True)
class Origin:
    """How a video was made.

    Attributes:
        how: which trace led there, in words.
        model: what the model is called ("stage/key", or the name of a folder).
        artifact: the model, or the artifact of data that the file belongs to; None if it is not in this store.
        settings: prompt, seed and so on, as far as they are known.
        weights: whether the weights in the store are the ones that made it: "the same", "others", "not checked: …".
    """

    file: Path
    how: str
    model: str
    artifact: Artifact | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "not checked: the file does not name them"

    def as_dict(self) -> dict[str, Any]:
        known = {k: v for k, v in asdict(self).items() if k != "artifact"}
        return {**known, "file": str(self.file), "settings": dict(self.settings)}


def origin(store: Store, path: Path) -> Origin:
    """What made a video or image.

    Raises:
        ArtifactError: it is damaged, or nothing in it, beside it or in the store knows it.
    """
    if path.suffix.lower() in MEDIA and (made_by := _metadata(path)).get("model"):
        return _generated(store, path, made_by)
    digest = storage.sha256_file(path)
    if found := _around(path) or _holder(store, digest):
        return _of_artifact(store, path, digest, found)
    if row := _listed(path, digest):
        artifact = _named(store, str(row.get("model", "")))
        settings = {"prompt": row["text"], **{k: row[k] for k in SETTINGS if row.get(k) is not None}}
        return Origin(
            path, "a row of the manifest.jsonl beside it", row.get("model") or "not known", artifact, settings
        )
    raise ArtifactError(
        f"nothing knows where {path} is from: it carries no metadata of `stepvideo generate`, no manifest.jsonl beside "
        f"it lists it, and no artifact of {store.root} holds its bytes (sha256 {digest[:16]}…). Was it encoded again? "
        "Give the original file, or the store that it was made in with --store"
    )


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_made_by(path)
    except ArtifactError as e:
        raise ArtifactError(f"{path} cannot be read: {e}") from e


def _generated(store: Store, path: Path, made_by: Mapping[str, Any]) -> Origin:
    artifact = _named(store, made_by["model"])
    settings = {k: made_by[k] for k in SETTINGS if k in made_by}
    how = "the metadata that `stepvideo generate` wrote into it"
    return Origin(path, how, made_by["model"], artifact, settings, _weights(store, artifact, made_by))


def _weights(store: Store, artifact: Artifact | None, made_by: Mapping[str, Any]) -> str:
    """Compare the digest of the weights in the file with that of the artifacts that it names."""
    if artifact is None:
        return f"not checked: {made_by['model']} is not in {store.root}"
    folders = {"dit": artifact.out}
    for role in ("vae", "text"):
        if role in made_by:
            behind = _named(store, made_by[role])
            if behind is None:
                return f"not checked: {made_by[role]} is not in {store.root}"
            folders[role] = behind.out
        else:
            folders[role] = artifact.out
    parts = [folder / part for role, folder in folders.items() for part in PARTS[role] if (folder / part).is_dir()]
    same = storage.sampled_digest(parts) == made_by.get("weights")
    return "the same" if same else "others: the files in the store have changed, or another VAE or text was used"


def _named(store: Store, name: str) -> Artifact | None:
    """By "stage/key", also out of "model stage/key, vae …", as suites have it."""
    name = name.split(",")[0].removeprefix("model ")
    stage, _, key = name.partition("/")
    if not (stage and key):
        return None
    try:
        return store.resolve(name)
    except ArtifactError:
        return None


def _around(path: Path) -> tuple[Artifact, str] | None:
    """The artifact whose `out/` the file lies in, and its name there."""
    for folder in path.resolve().parents:
        manifest = folder.parent / "manifest.json"
        if folder.name == "out" and manifest.exists():
            artifact = Artifact(folder.parent, storage.read_json(manifest))
            return artifact, path.resolve().relative_to(folder).as_posix()
    return None


def _holder(store: Store, digest: str) -> tuple[Artifact, str] | None:
    """The oldest artifact of the store with a file of this sha256. Manifests are searched as text: some are large."""
    for path in sorted(store.root.glob("*/*/manifest.json"), key=lambda p: p.stat().st_mtime):
        if digest.encode() in path.read_bytes():
            artifact = Artifact(path.parent, storage.read_json(path))
            name = next((n for n, f in artifact.manifest["files"].items() if f["sha256"] == digest), None)
            if name:
                return artifact, name
    return None


def _of_artifact(store: Store, path: Path, digest: str, found: tuple[Artifact, str]) -> Origin:
    holder, name = found
    m = holder.manifest
    recorded = m["files"].get(name, {}).get("sha256")
    if recorded != digest:
        raise ArtifactError(f"{path} is not what {m['stage']}/{m['key']} made: its sha256 is another; see its manifest")
    how = f"{name} of {m['stage']}/{m['key'][:8]}"
    if m["kind"] != "evaluate":
        return Origin(path, how, "none: it is data", holder)
    ref = m["inputs"]["model"]
    model = store.find(ref["stage"], ref["key"], verify=False)
    rows = storage.read_json_lines(holder.out / "results.jsonl")
    row = next((r for r in rows if r["sample"] == name), None)
    settings = {"prompt": row["text"], **{k: row[k] for k in ("seed", "index", "steps")}} if row else {}
    named = f"{ref['stage']}/{ref['key'][:8]}"
    same = "the same" if model and model.digest == ref["digest"] else f"not checked: {named} is not in {store.root}"
    return Origin(path, how, named, model, settings, same)


def _listed(path: Path, digest: str) -> dict[str, Any] | None:
    """The row of a suite's folder that the file lies in."""
    for folder in list(path.resolve().parents)[:3]:
        if (folder / "manifest.jsonl").exists():
            rows = storage.read_json_lines(folder / "manifest.jsonl")
            return next((r for r in rows if r.get("sha256") == digest and "text" in r), None)
    return None
