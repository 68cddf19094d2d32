"""A training stage of a cascade as jobs that plans can be searched for; torch-free.

The plan's unit is a sample of the heaviest bucket: a pack has as many of another bucket as Eq. 12 gives it for each of
those. Buckets have equally many videos, as in `predict`. Images that pad packs of videos count as memory, not as time.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.data.config import LatentsConfig
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.networks import Size, dit_workload
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.plan_memory import Storing, worst
from stepvideo.emulator.space import Job
from stepvideo.emulator.vae_memory import vae_parameters
from stepvideo.models.config import VAEConfig
from stepvideo.training.config import TrainConfig
from stepvideo.training.fits import TEXT, batch_sizes, images_beside, latent_shape

CLIP = 77


@dataclass(frozen=True)
class StageJobs:
    """stream: all buckets under one plan. buckets: each alone, with its own samples a step. pack: samples of a pack of
    the heaviest bucket."""

    stream: Job
    buckets: tuple[Job, ...]
    pack: int


def stage_jobs(
    cfg: TrainConfig,
    latents: LatentsConfig,
    vae: VAEConfig,
    cluster: Cluster,
    calibration: Calibration | None = None,
    budget: float = 0.0,
) -> StageJobs:
    """Of a stage that trains the DiT.

    Raises:
        ConfigError: a network whose memory or time is not described.
    """
    clip = CLIP if len(cfg.dit.caption_channels) == 2 else 0
    how = Storing(
        e=4 if cfg.precision == "32-true" else 2,
        compiled=cfg.runtime.parallel.compile,
        muon=cfg.optim.name == "muon",
        ema=cfg.optim.ema > 0,
    )
    sizes = batch_sizes(cfg, latents, vae)
    pack, packs = min(sizes.values()), cfg.balance.packs
    encoder = 4 * sum(vae_parameters(vae)) if latents.on_the_fly else 0  # bytes of the VAE on every rank
    beside = images_beside(cfg, sizes)
    images = {beside[0]: beside[2]} if beside else {}

    def job(chosen: dict, unit: int) -> Job:
        stream = [Size(b.frames, b.height, b.width, 1 / k, k / unit) for b, k in chosen.items()]
        batches = [MicroBatch(k / unit, latent_shape(b, vae), TEXT, clip) for b, k in (chosen | images).items()]

        def memory(plan: Plan):
            return worst(cfg.dit, batches, plan, how) + encoder

        work = dit_workload(cfg.dit, stream, TEXT + clip, clip, vae)
        return Job(work, cluster, packs * unit, memory, calibration or Calibration(), budget, packs)

    return StageJobs(job(sizes, pack), tuple(job({b: k}, k) for b, k in sizes.items()), pack)
