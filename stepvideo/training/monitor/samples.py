"""Videos from fixed prompts and seeds along the way: what the numbers look like.

    samples/step-0000500/0.mp4 …   a file a prompt (.png for single frames)
    samples/step-0000500/sheet.png  all of them, a row a prompt

All ranks sample: the network stays divided, and no rank waits for another longer than one prompt takes. Each prompt is
a batch of its own, so that its video does not depend on the number of ranks.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from stepvideo.data.show import contact_sheet, enlarge
from stepvideo.data.source import Batch
from stepvideo.data.video_io import read_image, read_video, write_image, write_video
from stepvideo.diffusion.component import Component
from stepvideo.diffusion.conditions import TextFeatures
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.pipeline import Pipeline, supports_bf16, text_component, vae_component
from stepvideo.diffusion.sampling import Sampling
from stepvideo.models.dit import DiT
from stepvideo.training.module import StageModule
from stepvideo.training.monitor.evaluating import evaluating
from stepvideo.training.monitor_config import SamplesConfig


class Samples(Callback):
    """Samples `cfg.prompts` every `cfg.every` steps and after the last one.

    Where the stage has no inputs "vae" and "text", an event says so once, and nothing is sampled.

    Args:
        settings: size and sampling of the videos.
        stats: of the latents that the network is trained on.
    """

    def __init__(self, cfg: SamplesConfig, settings: Sampling, stats: LatentStats) -> None:
        self.cfg, self.stats = cfg, stats
        self.settings = settings.with_({"steps": cfg.steps})
        self.pipe: Pipeline | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        module, inputs = pl_module, pl_module.ctx.inputs
        if missing := [role for role in ("vae", "text") if role not in inputs]:
            module.ctx.sink.event("no_samples", reason=f"the stage has no input {' and '.join(missing)}")
        elif self.pipe is None:
            self.pipe = self._pipeline(module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        module = pl_module
        if self.pipe is None or (module.done % self.cfg.every and module.done != module.steps):
            return
        folder = _folder(module.ctx.work, module.done)
        if module.parallel.agree((folder / "sheet.png").exists):
            return  # a killed attempt was here
        folder.mkdir(parents=True, exist_ok=True)
        self._sample(trainer, module, self.pipe, folder)
        module.parallel.barrier()
        if module.ctx.rank == 0:
            paths = [_path(folder, i, self.settings.frames) for i in range(len(self.cfg.prompts))]
            write_image(folder / "sheet.png", contact_sheet([_read(p) for p in paths]))
            files = [f"samples/{folder.name}/{p.name}" for p in (*paths, folder / "sheet.png")]
            module.ctx.sink.event("samples", step=module.done, files=files, prompts=list(self.cfg.prompts))

    def _sample(self, trainer: Trainer, module: StageModule, pipe: Pipeline, folder: Path) -> None:
        parallel, prompts = module.parallel, self.cfg.prompts
        beside = parallel.world_size // parallel.data_size  # ranks that compute the same samples
        averaged = self.cfg.ema and module.ema is not None
        with evaluating(trainer, module, averaged):
            for first in range(0, len(prompts), parallel.data_size):
                i = min(first + parallel.data_rank, len(prompts) - 1)  # the last ones again, to keep in step
                noise = pipe.noise(self.settings, self.cfg.seed, [i])
                done = pipe.sample([prompts[i]], noise=noise, features=self.features, settings=self.settings)
                if i == first + parallel.data_rank and parallel.rank % beside == 0:
                    _write(_path(folder, i, self.settings.frames), pipe.decode(done.latents)[0], self.cfg.fps)

    def _pipeline(self, module: StageModule) -> Pipeline:
        """Around the network in training. The VAE is read for each decoding, the text encoders once."""
        dit, inputs, device = cast(DiT, module.net), module.ctx.inputs, module.parallel.device
        bf16 = "bf16" in module.net_precision and supports_bf16(device)
        vae = vae_component(inputs["vae"], device, None if bf16 else torch.float32)
        vae.rest = "nowhere"
        text = text_component(inputs["text"], device)
        pipe = Pipeline(
            Component(dit.cfg, lambda _: dit, device),
            vae,
            text,
            self.stats,
            self.settings,
            device,
            "bf16" if bf16 else "fp32",
        )
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            texts = list(dict.fromkeys([*self.cfg.prompts, ""]))
            encoded = pipe.encode_prompts(texts)
        self.features = TextFeatures(texts, {k: v.cpu() for k, v in encoded.items()})
        text.drop()
        return pipe

    def hand_over(self, work: Path, out: Path) -> None:
        """Move them into the artifact; rank 0 calls it when the training is over."""
        if (work / "samples").exists():
            shutil.copytree(work / "samples", out / "samples")


def _folder(root: Path, step: int) -> Path:
    return root / "samples" / f"step-{step:07d}"


def _path(folder: Path, i: int, frames: int) -> Path:
    return folder / f"{i}{'.png' if frames == 1 else '.mp4'}"


def _write(path: Path, frames: Any, fps: float) -> None:
    shown = enlarge(frames)
    if len(shown) == 1:
        write_image(path, shown[0])
    else:
        write_video(path, shown, fps, crf=18)


def _read(path: Path) -> Any:
    return read_image(path)[None] if path.suffix == ".png" else read_video(path)
