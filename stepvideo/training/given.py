"""Kind "given": a part of somebody's model, in the released layout, as the start of a cascade."""

from __future__ import annotations

from pathlib import Path

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.layout import BESIDE, PARTS
from stepvideo.stage import StageContext
from stepvideo.training.config import GivenConfig


def content(folder: Path, part: str) -> str:
    """The digest by which `run` knows the weights again.

    Raises:
        ArtifactError: the folder lacks the part.
    """
    for name in PARTS[part]:
        if not (folder / name).is_dir():
            raise ArtifactError(f"weights.{part}={folder} holds no {name}/; give a folder in the released layout")
    networks = storage.sampled_digest(folder / name for name in PARTS[part])
    beside = [storage.sha256_file(path)[:8] for name in BESIDE[part] if (path := folder / name).exists()]
    return "-".join([networks, *beside])


def run(ctx: StageContext) -> dict[str, float]:
    """No inputs. Output: the part's folders, hard-linked where the file system allows, else copied."""
    cfg: GivenConfig = ctx.config
    folder = Path(cfg.runtime.path)
    if (found := content(folder, cfg.part)) != cfg.content:
        raise ArtifactError(f"{folder} has digest {found}, the plan says {cfg.content}; plan again")
    files = [p for name in PARTS[cfg.part] for p in storage.tree(folder / name)]
    files += [folder / name for name in BESIDE[cfg.part] if (folder / name).exists()]
    for path in files:
        storage.link_or_copy(path, ctx.out / path.relative_to(folder))
    return {"files": float(len(files)), "bytes": float(sum(p.stat().st_size for p in files))}
