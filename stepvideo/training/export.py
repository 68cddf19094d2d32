"""A training checkpoint, of any division, as a model in the released layout: to look at a run before it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from stepvideo import storage
from stepvideo.data.buckets import Bucket
from stepvideo.data.clips import load_ids
from stepvideo.data.latent_cache import LatentCache, LatentSet
from stepvideo.errors import StepVideoError
from stepvideo.models.checkpoints import NETWORKS, load_dit, save_vae
from stepvideo.models.config_files import dit_config
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE
from stepvideo.stage import StageSpec
from stepvideo.training import checkpoint_files as files
from stepvideo.training import lora
from stepvideo.training.checkpoint import read
from stepvideo.training.config import TrainConfig, VAETrainConfig
from stepvideo.training.flow import save_model

KINDS = ("train", "dpo", "turbo", "vae")


@dataclass(frozen=True)
class Exported:
    step: int
    tensors: int


def export_checkpoint(stage_dir: Path, out: Path, step: int | None = None, ema: bool = False) -> Exported:
    """Write `out`, which must not exist yet, from a checkpoint of the stage in `stage_dir`, which may be running.

    Args:
        step: of the checkpoint; None: the newest that is intact.
        ema: take the averaged weights.

    Raises:
        StepVideoError: no such checkpoint, a kind of stage without a network of its own, or no averaged weights.
    """
    spec = StageSpec.read(stage_dir / "spec.json")
    if spec.kind not in KINDS:
        raise StepVideoError(f"{stage_dir} is of kind {spec.kind}; checkpoints of {', '.join(KINDS)} are exported")
    if out.exists():
        raise StepVideoError(f"{out} is there already; remove it, or choose another --out")
    cfg: Any = spec.typed_config()
    inputs = {role: Path(spec.store) / ref.stage / ref.key / "out" for role, ref in spec.inputs.items()}
    folder = find(stage_dir / "work" / "fit", step)
    if ema and not cfg.optim.ema:
        raise StepVideoError(f"{stage_dir} keeps no averaged weights (optim.ema=0); leave --ema out")
    net = _network(cfg, inputs)
    count = fill(net, folder, ema)
    unfinished = out.with_name(f".{out.name}.tmp")
    storage.remove(unfinished)
    if isinstance(net, VideoVAE):
        save_vae(net, unfinished)
    else:
        dit, like = lora.hand_over(cast(DiT, net), cfg.lora, unfinished), inputs.get("init", inputs.get("latents"))
        shape = _largest(cfg, inputs) if spec.kind == "train" else None
        save_model(dit, unfinished, cast(Path, like), getattr(cfg, "sampling", None), shape)
    unfinished.rename(out)
    return Exported(int(folder.name.removeprefix("step-")), count)


def find(root: Path, step: int | None = None) -> Path:
    """The folder of the checkpoint of `step`, by default of the newest intact one.

    Raises:
        StepVideoError: there is none; names those there are.
    """
    there = files.steps(root)
    for candidate in [step] if step is not None else reversed(there):
        if candidate in there and not files.damage(folder := files.step_folder(root, candidate)):
            return folder
    known = ", ".join(map(str, there)) or "none"
    which = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise StepVideoError(f"{root} has no intact {which}; there: {known} (a stage that is complete keeps none)")


def fill(net: nn.Module, folder: Path, ema: bool) -> int:
    """Read the tensors that `net` learned, averaged ones if `ema`; how many."""
    averaged = {name for name, _ in net.named_parameters()} if ema else set()
    learned = {name: t for name, t in net.state_dict().items() if name not in getattr(net, "given", ())}
    state = {f"{'ema' if name in averaged else 'model'}/net/{name}": t for name, t in learned.items()}
    with torch.no_grad():
        read(folder, state)
    return len(state)


def _network(cfg: Any, inputs: Mapping[str, Path]) -> nn.Module:
    """The stage's network, with weights only where it learns beside them."""
    if isinstance(cfg, VAETrainConfig):
        return NETWORKS["vae"].on_meta(cfg.vae).to_empty(device="cpu")
    if cfg.lora.rank:
        dit = load_dit(inputs["init"], dtype=torch.float32)
        lora.apply(dit, cfg.lora, cfg.seed)
        return dit
    return NETWORKS["dit"].on_meta(dit_config(inputs["init"]) if "init" in inputs else cfg.dit).to_empty(device="cpu")


def _largest(cfg: TrainConfig, inputs: Mapping[str, Path]) -> dict[str, int]:
    """The size of the largest bucket that was trained on, for sampling."""
    ids = load_ids(inputs["subsets"] / f"{cfg.subset}.parquet") if cfg.media != "images" else None
    data = LatentSet(LatentCache(inputs["latents"]), "video" if ids else "image", cfg.resolution, ids)
    size = max(map(Bucket.parse, data.buckets))
    return {"frames": size.frames, "height": size.height, "width": size.width}
