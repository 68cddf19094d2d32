"""What a DiT stage trains on: the clips of its subset, from the latent cache or encoded as they come, and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepvideo.data.balance import Plan
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.buckets import Bucket, buckets
from stepvideo.data.clips import load_ids, load_weights
from stepvideo.data.flow_draws import Draws
from stepvideo.data.flow_source import FlowSource
from stepvideo.data.latent_cache import ClipSet, LatentCache, text_digest, vae_digest
from stepvideo.data.pixel_set import clip_set, prepare
from stepvideo.data.source import Batch
from stepvideo.data.text_cache import TextCache
from stepvideo.diffusion.pipeline import best_device
from stepvideo.emulator.flops import flops, video_tokens
from stepvideo.errors import ConfigError
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.config import DiTConfig
from stepvideo.models.video_vae import VideoVAE
from stepvideo.training.config import TrainConfig
from stepvideo.training.monitor.held_out import HeldOut


@dataclass
class TrainData:
    """`videos` and `images` to train on; `held_out` is what validation has of them."""

    cfg: TrainConfig
    cache: LatentCache
    text: TextCache
    videos: ClipSet | None
    images: ClipSet | None
    held_out: ClipSet | None
    vae: Path | None

    @classmethod
    def open(cls, cfg: TrainConfig, inputs: Mapping[str, Path]) -> TrainData:
        """Raises StepVideoError where the cache was made for something else, or by another VAE than the one that is to
        encode clips, or has none of the clips.
        """
        runtime = cfg.runtime
        cache = LatentCache(inputs["latents"])
        if runtime.latents_url:
            cache = cache.copy_at(runtime.latents_url, Path(runtime.latents_local) if runtime.latents_local else None)
        if cache.settings["on_the_fly"] and "vae" in inputs:
            cache.require(vae=vae_digest(inputs["vae"]))
        if runtime.data == "streamed":
            streamable(cache, inputs)
        if "init" in inputs:
            cache.require_model(inputs["init"])
        subsets = inputs["subsets"]
        videos = load_ids(subsets / f"{cfg.subset}.parquet")
        stills = load_ids(subsets / f"{cfg.images}.parquet") if cfg.images else None
        sets, held_out = [], None
        for kind, ids, name in (("video", videos, cfg.subset), ("image", stills, cfg.images or "images")):
            if cfg.media == {"video": "images", "image": "videos"}[kind]:
                sets.append(None)
                continue
            everything = clip_set(cache, kind, cfg.resolution, inputs.get("curate"), ids)
            train, rest = everything.split(cfg.held_out)
            weights = load_weights(subsets / f"{name}.parquet")
            sets.append((everything if train is None else train).weighted(weights))  # too few to hold any out
            held_out = held_out or (rest if train is not None else None)
        return cls(cfg, cache, TextCache(cache), *sets, held_out, inputs.get("vae"))

    def source(self, plan: Plan) -> FlowSource:
        return FlowSource(self.videos, self.images, self.text, plan, self.draws())

    def draws(self) -> Draws:
        cfg = self.cfg
        return Draws(cfg.seed, cfg.timesteps, cfg.captions, cfg.drop_captions, cfg.sample_posterior)

    def plan(self, dit: DiTConfig) -> Plan:
        """Which samples every step has, balanced by what they cost this network."""
        self.cache.require(z_channels=dit.in_channels)
        sizes = self._sizes(self.videos) if self.videos else {}
        # images of several aspects cost about the same: the dearest stands for all
        stills = [max(self.images.buckets, key=lambda b: self.flops(dit, b))] if self.images else []
        costs = {b: float(self.flops(dit, b)) for b in [*sizes, *stills]}
        tokens = {b: video_tokens(dit, *self._latent(b)) for b in costs}
        count = len(self.images) if self.images else 0
        return Plan(costs, sizes, count, self.cfg.balance, self.cfg.seed, tokens)

    def flops(self, dit: DiTConfig, bucket: str) -> int:
        """Operations of a forward of one sample of a bucket with the longest caption there is."""
        clip = self.text.clip_length
        return flops(dit, *self._latent(bucket), clip + int(self.text.tokens.max()), clip)

    def longest(self) -> Bucket:
        """The largest of its longest buckets: what the model then makes by default."""
        sets = self.videos or self.images
        assert sets is not None
        return max(map(Bucket.parse, sets.buckets))

    def encoder(self) -> Encoder:
        return Encoder(self.vae, self.cache, self.cfg)

    def judges(self) -> HeldOut | None:
        """Clips for the validation loss, if any are held out."""
        most = self.cfg.runtime.monitor.validation.clips
        if self.held_out is None or not most:
            return None
        return HeldOut(self.held_out, len(self.held_out), most, self.text, self.cfg.captions, self.encoder())

    def _sizes(self, videos: ClipSet) -> dict[str, int]:
        """Clips in every bucket that the cache was made for: one that has none is for the plan to refuse."""
        lengths, sizes = (self.cache.settings[name] for name in ("lengths", "resolutions"))
        every = map(str, buckets(BucketConfig(lengths, sizes[self.cfg.resolution])))
        return {b: len(videos.buckets.get(b, ())) for b in every}

    def _latent(self, bucket: str) -> tuple[int, int, int]:
        frames, _, height, width = self.cache.shape(bucket)
        return frames, height, width


def streamable(cache: LatentCache, inputs: Mapping[str, Path]) -> None:
    """Producers can make what this cache leaves out.

    Raises:
        ArtifactError: it holds latents, or others' encoders made it. ConfigError: an input is missing.
    """
    if missing := [role for role in ("curate", "vae", "text") if role not in inputs]:
        raise ConfigError(
            f"runtime.data=streamed needs {', '.join(missing)} as inputs: stepvideo run latents=streamed gives them"
        )
    cache.require(on_the_fly=True, vae=vae_digest(inputs["vae"]), text=text_digest(inputs["text"]))


class Encoder:
    """Turns clips that come as pixels into latents, on the device that trains; leaves latents as they are."""

    def __init__(self, root: Path | None, cache: LatentCache, cfg: TrainConfig) -> None:
        self.root, self.stats, self.cfg = root, cache.stats(), cfg
        self._vae: VideoVAE | None = None

    def __call__(self, batch: Batch) -> Batch:
        if "pixels" not in batch:
            return batch
        if self._vae is None:
            assert self.root is not None, "clip_set asks for the VAE"
            self._vae = load_vae(self.root, best_device(self.cfg.runtime.device)).requires_grad_(False)
        return prepare(batch, self._vae, self.stats, self.cfg.precision)
