"""Kind "shipped": weights from the repository instead of hours of training, with the lineage of the run that made them.

`weights/NAME` is a stage's artifact with tensors in bfloat16 beside that stage's `manifest.json`. Make one with
`python -m stepvideo.training.shipped STAGE_DIR OUT`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from stepvideo import storage
from stepvideo.artifact import content_digest
from stepvideo.errors import ArtifactError
from stepvideo.stage import StageContext
from stepvideo.training.config import ShippedConfig

MANIFEST = "manifest.json"
LOCAL = ("store=", "work=", "data=", "cluster=", "tracking=")  # of a command: where it ran, not what it made


def folder_digest(folder: Path) -> str:
    """Content digest of a folder of shipped weights; ArtifactError if there is none."""
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} holds no shipped weights (no {MANIFEST}); train them: weights.text=train weights.vae=train"
        )
    return content_digest(storage.checksums(folder))


def pack(stage_dir: Path, folder: Path) -> None:
    """Copy the artifact of a finished stage to `folder`, float32 tensors as bfloat16, with its manifest."""
    manifest = storage.read_json(stage_dir / MANIFEST)
    _copy(stage_dir / "out", folder, "bfloat16")
    words = str(manifest["lineage"].get("command", "")).split()
    manifest["lineage"]["command"] = " ".join(w for w in words if not w.startswith(LOCAL))
    storage.write_json(folder / MANIFEST, manifest)


def run(ctx: StageContext) -> dict[str, float]:
    """No inputs. Output: the artifact as its stage made it, tensors widened to float32; `shipped_manifest.json`."""
    cfg: ShippedConfig = ctx.config
    folder = Path(cfg.runtime.path)
    found = folder_digest(folder)
    if found != cfg.content:
        raise ArtifactError(f"{folder} has digest {found}, the plan says {cfg.content}; plan again")
    _copy(folder, ctx.out, "float32")
    (ctx.out / MANIFEST).rename(ctx.out / "shipped_manifest.json")
    return {k: v for k, v in storage.read_json(folder / MANIFEST)["metrics"].items()}


def _copy(source: Path, target: Path, dtype: str) -> None:
    import torch  # here, because the driver reads `folder_digest` and must start fast
    from safetensors.torch import load_file, save_file

    for path in storage.tree(source):
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            save_file({k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in tensors.items()}, new)
        else:
            shutil.copyfile(path, new)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m stepvideo.training.shipped STAGE_DIR OUT")
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
