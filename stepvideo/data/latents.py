"""Kind "latents": the cache that the DiT trains from — VAE moments of clips and images, embeddings of every caption.

    video_low.parquet, video_high.parquet, image_low.parquet, image_high.parquet
                             a row a clip: its id, bucket, shard and row there, its caption numbers by kind
    video_low/17x48x48-00000.safetensors, …    moments [N, f, 2z, h, w] bfloat16 (mean, then log variance)
    captions.parquet, text/captions-00000.safetensors, …    see `text_cache`
    latent_stats.json        mean and std of each latent channel: what the DiT is normalised by
    failed.json              clips that could not be decoded, with reasons: they are left out
    unreadable.json          captions that a closed vocabulary cannot spell: they are left out
    cache.json, shards.json  everything it was made with: a cache made otherwise is refused; sizes and sha256 of shards

Encoded on the fly, there are no moments: training reads the clips themselves (`pixel_set`).

Legend: N clips, f latent frames, z latent channels, h w latent sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from stepvideo import storage
from stepvideo.data.buckets import Bucket, bucket_of
from stepvideo.data.captions import captioned
from stepvideo.data.clips import Clip, load_catalog, load_ids
from stepvideo.data.config import LatentsConfig
from stepvideo.data.encoding import encode_pixels
from stepvideo.data.frames import window
from stepvideo.data.latent_cache import FORMAT, SETTINGS, text_digest, vae_digest
from stepvideo.data.latent_text import Captions, encode_text
from stepvideo.data.shards import Part, hand_over, pack, shard_name
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.errors import ArtifactError, Preempted, StepVideoError
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.text_encoders import load_tokenizers
from stepvideo.models.video_vae import VideoVAE
from stepvideo.stage import StageContext

KINDS = {"video": "s1", "image": "images"}  # kind: its widest subset
STATS_ROWS = 64  # of a shard in memory at once


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, subsets, vae, text; optional captions, and init, a DiT whose latent statistics hold. What is
    finished stays in `ctx.work`, so a killed run continues.

    Raises:
        StepVideoError: a subset has nothing to encode, or too many clips cannot be decoded.
    """
    cfg: LatentsConfig = ctx.config
    if ctx.rank:
        return {}
    device = _device(cfg)
    vae = load_vae(ctx.inputs["vae"], device).requires_grad_(False)
    captions = Captions(cfg, load_tokenizers(ctx.inputs["text"]).readable)
    worded = {kind: _worded(_clips(ctx, kind), captions) for kind in KINDS}
    clips = {kind: [clip for clip, _ in worded[kind]] for kind in KINDS}
    with ThreadPoolExecutor(max(1, cfg.runtime.workers)) as pool:
        encoder = _Encoder(ctx, vae, pool, sum(map(len, clips.values())) * len(cfg.resolutions))
        for kind in KINDS:
            for resolution in cfg.resolutions:
                placed = encoder.encode(kind, resolution, clips[kind])
                rows = [
                    {"clip_id": c.clip_id, "group": c.parent or c.clip_id, **place, **numbers}
                    for (c, numbers), place in zip(worded[kind], placed, strict=True)
                    if place
                ]
                pq.write_table(_table(rows, cfg), ctx.out / f"{kind}_{resolution}.parquet")
    _judge(encoder.failed, sum(map(len, clips.values())), cfg.max_failed)
    storage.write_json(ctx.out / "failed.json", encoder.failed)
    storage.write_json(ctx.out / "unreadable.json", sorted(captions.unreadable))
    stats = LatentStats.read(ctx.inputs["init"], vae.cfg.z_channels).to_dict() if "init" in ctx.inputs else None
    storage.write_json(ctx.out / "latent_stats.json", stats or encoder.statistics())
    text_shards = encode_text(ctx, list(captions.texts), device)
    hand_over(ctx.work, ctx.out, text_shards + ([] if cfg.on_the_fly else encoder.shards))
    storage.write_json(ctx.out / SETTINGS, _settings(ctx, vae, encoder.shapes))
    counts = {f"{kind}s": float(len(clips[kind])) for kind in KINDS}
    left_out = {"failed": len(encoder.failed), "unreadable": len(captions.unreadable)}
    return counts | {k: float(n) for k, n in ({"captions": len(captions.texts)} | left_out).items()}


class _Encoder:
    """Encodes clips bucket by bucket into shards below `ctx.work`.

    Attributes:
        shards: names of those that are finished.
        shapes: every bucket there may be → [f, z, h, w].
        failed: clip id → why it could not be decoded.
    """

    def __init__(self, ctx: StageContext, vae: VideoVAE, pool: Executor, total: int) -> None:
        self.ctx, self.vae, self.pool, self.total = ctx, vae, pool, total
        self.done = 0
        self.shards: list[str] = []
        every = [
            b for kind in KINDS for resolution in ctx.config.resolutions for b in _choice(ctx.config, kind, resolution)
        ]
        self.shapes = {str(bucket): _shape(vae, bucket) for bucket in every}
        self.failed: dict[str, str] = {}

    def encode(self, kind: str, resolution: str, clips: Sequence[Clip]) -> list[dict[str, Any] | None]:
        """Where each clip lies: bucket, shard and row; None for clips that failed."""
        cfg: LatentsConfig = self.ctx.config
        choice = _choice(cfg, kind, resolution)
        members: dict[Bucket, list[int]] = {}
        for i, clip in enumerate(clips):
            members.setdefault(bucket_of(clip.frames, clip.height, clip.width, choice), []).append(i)
        placed: list[dict[str, Any] | None] = [None] * len(clips)
        for bucket, mine in sorted(members.items()):
            if cfg.on_the_fly:
                for i in mine:
                    placed[i] = {"bucket": str(bucket), "shard": 0, "row": 0}
                if kind == "image":
                    continue
                mine = mine[: cfg.stats_clips]
            rows: dict[int, int] = {}
            for shard, record in self._bucket(f"{kind}_{resolution}/{bucket}", bucket, [clips[i] for i in mine]):
                self.failed |= record["failed"]
                for j in record["kept"]:
                    row = rows.get(shard, 0)
                    placed[mine[j]] = {"bucket": str(bucket), "shard": shard, "row": row}
                    rows[shard] = row + 1
        return placed

    def _bucket(self, prefix: str, bucket: Bucket, clips: list[Clip]) -> list[tuple[int, dict[str, Any]]]:
        cfg: LatentsConfig = self.ctx.config
        size = cfg.clips_in_batch(*bucket, self.vae.cfg.frame_len)
        batches = [clips[i : i + size] for i in range(0, len(clips), size)]
        read = _ahead(self.pool, self.ctx.inputs["curate"], batches, bucket)

        def after(i: int) -> None:
            self.ctx.sink.progress(self.done + min((i + 1) * size, len(clips)), self.total, "clip")
            if self.ctx.should_stop():
                raise Preempted

        makes = [partial(self._part, read, i, i * size, bucket, batch) for i, batch in enumerate(batches)]
        placed = pack(self.ctx.work, prefix, makes, cfg.shard_mb * 10**6, after)
        self.done += len(clips)
        self.shards += [shard_name(prefix, n) for n in sorted({shard for shard, _ in placed})]
        return placed

    def _part(self, read: Callable[[int], list[Future]], i: int, first: int, bucket: Bucket, clips: list[Clip]) -> Part:
        """Moments of one batch; the record says which clips of the bucket they are and why others failed."""
        directory = f"{self.ctx.inputs['curate']}/"
        pixels, kept, failed = [], [], {}
        for j, (clip, future) in enumerate(zip(clips, read(i), strict=True), first):
            try:
                pixels.append(torch.from_numpy(np.ascontiguousarray(future.result())))
                kept.append(j)
            except ArtifactError as e:
                failed[clip.clip_id] = str(e).replace(directory, "")
        if pixels:
            moments = encode_pixels(self.vae, torch.stack(pixels), self.ctx.config.precision).cpu()
        else:
            f, z, h, w = self.shapes[str(bucket)]
            moments = torch.empty(0, f, 2 * z, h, w, dtype=torch.bfloat16)
        return {"moments": moments}, {"kept": kept, "failed": failed}

    def statistics(self) -> dict[str, list[float]]:
        """Mean and std of posterior samples of all videos, one a channel.

        The posterior's own variance counts: a channel that the VAE does not use is unit noise to the DiT, not noise
        blown up by the small spread of its mean.
        """
        n, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for name in (name for name in self.shards if name.startswith("video_")):
            with safe_open(self.ctx.work / name, "pt") as file:
                moments_Nfzhw = file.get_slice("moments")
                for start in range(0, moments_Nfzhw.get_shape()[0], STATS_ROWS):
                    part = moments_Nfzhw[start : start + STATS_ROWS]
                    mean, logvar = (m.double().movedim(2, 0).flatten(1) for m in part.chunk(2, 2))
                    n += mean.shape[1]
                    total = total + mean.sum(1)
                    square = square + (mean.square() + logvar.clamp(-30, 20).exp()).sum(1)
        mean = total / n
        std = (square / n - mean.square()).clamp_min(1e-8).sqrt()
        return {"mean": [round(v, 6) for v in mean.tolist()], "std": [round(v, 6) for v in std.tolist()]}


def _device(cfg: LatentsConfig) -> torch.device:
    wanted = cfg.runtime.device
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def _clips(ctx: StageContext, kind: str) -> list[Clip]:
    cfg: LatentsConfig = ctx.config
    subset, frames = KINDS[kind], min(cfg.lengths) if kind == "video" else 1
    most = cfg.max_clips if kind == "video" else cfg.max_images
    ids = load_ids(ctx.inputs["subsets"] / f"{subset}.parquet")
    clips = captioned(load_catalog(ctx.inputs["curate"], ids), ctx.inputs.get("captions"))
    clips = [c for c in clips if c.frames >= frames and c.captions]
    if not clips:
        raise StepVideoError(f"subset {subset} has no captioned clip of {frames} frames or more")
    return clips[: most or None]


def _worded(clips: Sequence[Clip], captions: Captions) -> list[tuple[Clip, dict[str, list[int]]]]:
    """Clips with the numbers of their captions; those without one that can be read are left out."""
    worded = [(clip, numbers) for clip in clips if any((numbers := captions.of(clip)).values())]
    if not worded:
        cfg = captions.cfg
        raise StepVideoError(
            f"none of {len(clips)} clips has a caption of {', '.join(cfg.kinds)} in {', '.join(cfg.languages)} that "
            f"the text encoders can spell ({len(captions.unreadable)} they cannot): train them on these captions, or "
            "take encoders with a larger vocabulary"
        )
    return worded


def _ahead(
    pool: Executor, directory: Path, batches: Sequence[Sequence[Clip]], bucket: Bucket
) -> Callable[[int], list[Future]]:
    """Decodes a batch of clips, and meanwhile the next."""
    pending: dict[int, list[Future]] = {}

    def read(i: int) -> list[Future]:
        for j in range(i, min(i + 2, len(batches))):
            if j not in pending:
                pending[j] = [pool.submit(window, directory, clip, *bucket) for clip in batches[j]]
        return pending.pop(i)

    return read


def _choice(cfg: LatentsConfig, kind: str, resolution: str) -> list[Bucket]:
    lengths = cfg.lengths if kind == "video" else [1]
    return [Bucket.parse(f"{frames}x{size}") for frames in lengths for size in cfg.resolutions[resolution]]


def _shape(vae: VideoVAE, bucket: Bucket) -> list[int]:
    """[f, z, h, w] of a bucket's latents; StepVideoError where the VAE cannot code it."""
    factor = vae.cfg.spatial_factor
    if bucket.height % factor or bucket.width % factor:
        raise StepVideoError(f"bucket {bucket}: height and width must be multiples of {factor}, the VAE's factor")
    try:
        return [vae.num_latents(bucket.frames), vae.cfg.z_channels, bucket.height // factor, bucket.width // factor]
    except ValueError as e:
        raise StepVideoError(f"bucket {bucket}: {e}") from e


def _table(rows: list[dict[str, Any]], cfg: LatentsConfig) -> pa.Table:
    fields = [(name, pa.string()) for name in ("clip_id", "group", "bucket")]
    fields += [("shard", pa.int32()), ("row", pa.int32())]
    return pa.Table.from_pylist(rows, pa.schema([*fields, *((kind, pa.list_(pa.int32())) for kind in cfg.kinds)]))


def _judge(failed: dict[str, str], total: int, most: float) -> None:
    if len(failed) > most * total:
        shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(failed.items())[:3])
        raise StepVideoError(
            f"{len(failed)} of {total} clips cannot be decoded, more than max_failed={most}: {shown}. Curate again, or "
            "raise max_failed to go on without them"
        )


def _settings(ctx: StageContext, vae: VideoVAE, shapes: dict[str, list[int]]) -> dict[str, Any]:
    config = {k: v for k, v in asdict(ctx.config).items() if k != "runtime"}
    digests = {"vae": vae_digest(ctx.inputs["vae"]), "text": text_digest(ctx.inputs["text"])}
    return config | digests | {"format": FORMAT, "z_channels": vae.cfg.z_channels, "buckets": shapes}
