"""Kind "latents": the cache that the DiT trains from — VAE moments of clips and images, embeddings of every caption.

    video_low.safetensors, video_high.safetensors   moments [N, t', 2z, h', w'] bfloat16 (mean, then log variance)
    image_low.safetensors, image_high.safetensors   the same with t' = 1
    videos.parquet, images.parquet                  row i: clip_id and its caption numbers by kind
    captions.parquet                                caption number → text, language, first LLM token, token count
    text.safetensors                                llm [tokens, D] ragged, clip [captions, L, D] bfloat16
    latent_stats.json                               mean and std of each latent channel: what the DiT is normalised by
    cache.json                                      settings and digests: a cache made with other ones is refused

Legend: N clips, t' latent frames, z latent channels, h' w' latent sides, D feature width, L CLIP tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepvideo import storage
from stepvideo.data.clips import Clip, load_catalog, load_ids
from stepvideo.data.config import LatentsConfig
from stepvideo.data.draw import rng
from stepvideo.data.frames import resize, to_tensor, windows
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.pipeline import supports_bf16
from stepvideo.models.text_encoders import load_text_encoders
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.video_vae import VideoVAE
from stepvideo.stage import StageContext

EMPTY = ""  # the caption that training drops to and guidance starts from; always number 0


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, subsets, vae, text; optional init, a DiT whose latent statistics hold. Shards are kept in `ctx.work`, so a killed run continues."""
    cfg: LatentsConfig = ctx.config
    if ctx.rank:
        return {}
    device = _device(cfg)
    vae = load_vae(ctx.inputs["vae"], device).requires_grad_(False)
    videos = _clips(ctx, "s1", cfg.max_clips, cfg.frames)
    images = _clips(ctx, "images", cfg.max_images, 1)
    stats = _Stats(vae.cfg.z_channels)
    todo = [(kind, name) for kind in ("video", "image") for name in cfg.resolutions]
    total = sum(len(videos) if kind == "video" else len(images) for kind, _ in todo)
    done = 0
    for kind, name in todo:
        clips, frames = (videos, cfg.frames) if kind == "video" else (images, 1)
        parts = []
        for start, part in _encode(ctx, vae, clips, frames, kind, name):
            parts.append(part)
            ctx.sink.progress(done + start, total, "clip")
            if ctx.should_stop():
                raise Preempted
        done += len(clips)
        moments = torch.cat(parts)
        if kind == "video":
            stats.add(moments.float())
        _save({"moments": moments}, ctx.out / f"{kind}_{name}.safetensors")
    texts = _Captions()
    for name, clips in (("videos", videos), ("images", images)):
        rows = [{"clip_id": c.clip_id, **texts.of(c, cfg)} for c in clips]
        pq.write_table(pa.Table.from_pylist(rows), ctx.out / f"{name}.parquet")
    _encode_text(ctx, texts, device)
    known = LatentStats.read(ctx.inputs["init"], vae.cfg.z_channels).to_dict() if "init" in ctx.inputs else None
    storage.write_json(ctx.out / "latent_stats.json", known or stats.result())
    shape = {"resolutions": dict(cfg.resolutions), "frames": cfg.frames, "z_channels": vae.cfg.z_channels}
    storage.write_json(ctx.out / "cache.json", shape)
    return {"videos": len(videos), "images": len(images), "captions": len(texts.texts)}


def _device(cfg: LatentsConfig) -> torch.device:
    wanted = cfg.runtime.device
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def _clips(ctx: StageContext, subset: str, most: int, frames: int) -> list[Clip]:
    ids = load_ids(ctx.inputs["subsets"] / f"{subset}.parquet")
    clips = [c for c in load_catalog(ctx.inputs["curate"], ids) if c.frames >= frames and c.captions]
    if not clips:
        raise StepVideoError(f"subset {subset} has no captioned clip of {frames} frames or more")
    return clips[: most or None]


@torch.no_grad()
def _encode(
    ctx: StageContext, vae: VideoVAE, clips: Sequence[Clip], frames: int, kind: str, name: str
) -> Iterator[tuple[int, Tensor]]:
    """(clips done, moments) a shard; finished shards are read back from `ctx.work`."""
    cfg: LatentsConfig = ctx.config
    size, device = cfg.resolutions[name], next(vae.parameters()).device
    batch = cfg.batch_size * (1 if kind == "video" else cfg.frames)
    bf16 = cfg.precision == "bf16-mixed" and supports_bf16(device)
    largest = max(cfg.resolutions.values())
    for start in range(0, len(clips), batch):
        path = ctx.work / f"{kind}_{name}_{start:07d}.safetensors"
        if not path.exists():
            pixels = windows(ctx.inputs["curate"], clips[start : start + batch], frames, largest)
            x = resize(to_tensor(pixels), size).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                moments = vae.encode_moments(x)
            _save({"moments": moments.to("cpu", torch.bfloat16)}, path)
        yield min(start + batch, len(clips)), load_file(path)["moments"]


class _Stats:
    """Mean and std of posterior samples over everything added, one a channel.

    The posterior's own variance counts: a channel that the VAE does not use is unit noise to the DiT, not noise blown up
    by the small spread of its mean.
    """

    def __init__(self, channels: int) -> None:
        self.n, self.sum, self.square = (
            0,
            torch.zeros(channels, dtype=torch.float64),
            torch.zeros(channels, dtype=torch.float64),
        )

    def add(self, moments_NtZhw: Tensor) -> None:
        mean, logvar = (m.double().movedim(2, 0).flatten(1) for m in moments_NtZhw.chunk(2, 2))
        self.n += mean.shape[1]
        self.sum += mean.sum(1)
        self.square += (mean.square() + logvar.clamp(-30, 20).exp()).sum(1)

    def result(self) -> dict[str, list[float]]:
        mean = self.sum / self.n
        std = (self.square / self.n - mean.square()).clamp_min(1e-8).sqrt()
        return {"mean": [round(v, 6) for v in mean.tolist()], "std": [round(v, 6) for v in std.tolist()]}


class _Captions:
    """Numbers captions; the same text has one number."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {EMPTY: 0}

    def of(self, clip: Clip, cfg: LatentsConfig) -> dict[str, list[int]]:
        """Caption numbers of a clip by kind; `variants` paraphrases a language, chosen by the clip's content."""
        numbers: dict[str, list[int]] = {}
        for kind in cfg.kinds:
            chosen = []
            for language in cfg.languages:
                known = clip.captions.get(kind, {}).get(language, [])
                order = rng(cfg.seed, "variants", kind, language, int(clip.clip_id[:8], 16)).permutation(len(known))
                chosen += [known[i] for i in order[: cfg.variants]]
            numbers[kind] = [self.texts.setdefault(text, len(self.texts)) for text in chosen]
        return numbers


@torch.no_grad()
def _encode_text(ctx: StageContext, captions: _Captions, device: torch.device) -> None:
    cfg: LatentsConfig = ctx.config
    encoders = load_text_encoders(ctx.inputs["text"], device)
    texts = list(captions.texts)
    llm, clip, counts = [], [], []
    for start in range(0, len(texts), cfg.text_batch_size):
        ctx.sink.progress(start, len(texts), "caption")
        batch = encoders.encode(texts[start : start + cfg.text_batch_size])
        length = batch["encoder_attention_mask"][:, batch["encoder_hidden_states_2"].shape[1] :].sum(1).tolist()
        llm += [
            row[:n].to("cpu", torch.bfloat16) for row, n in zip(batch["encoder_hidden_states"], length, strict=True)
        ]
        clip.append(batch["encoder_hidden_states_2"].to("cpu", torch.bfloat16))
        counts += length
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    table = {"text": texts, "first": pa.array(firsts, pa.int64()), "tokens": pa.array(counts, pa.int64())}
    pq.write_table(pa.table(table), ctx.out / "captions.parquet")
    _save({"llm": torch.cat(llm), "clip": torch.cat(clip)}, ctx.out / "text.safetensors")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp)
    tmp.replace(path)


class TextCache:
    """Embeddings of all captions, as the DiT's text arguments."""

    def __init__(self, directory: Path) -> None:
        table = pq.read_table(directory / "captions.parquet").to_pydict()
        self.number = {text: i for i, text in enumerate(table["text"])}
        self.texts: list[str] = table["text"]
        self.first, self.tokens = table["first"], table["tokens"]
        self.data = load_file(directory / "text.safetensors")

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """encoder_hidden_states [b, l, D], encoder_hidden_states_2 [b, L, D'], encoder_attention_mask [b, L + l]."""
        llm, clip = self.data["llm"], self.data["clip"][list(numbers)].float()
        longest = max(self.tokens[n] for n in numbers)
        padded = torch.zeros(len(numbers), longest, llm.shape[1])
        mask = torch.zeros(len(numbers), clip.shape[1] + longest, dtype=torch.int64)
        mask[:, : clip.shape[1]] = 1  # CLIP's padding is attended, as released
        for row, n in enumerate(numbers):
            count = self.tokens[n]
            padded[row, :count] = llm[self.first[n] : self.first[n] + count].float()
            mask[row, clip.shape[1] : clip.shape[1] + count] = 1
        return {"encoder_hidden_states": padded, "encoder_hidden_states_2": clip, "encoder_attention_mask": mask}


class LatentSet:
    """Cached latents of the clips of one subset at one resolution, normalised; posterior noise is the caller's.

    Raises StepVideoError when the subset is not in the cache.
    """

    def __init__(self, cache: Path, kind: str, resolution: str, ids: Sequence[str] | None = None) -> None:
        rows = pq.read_table(cache / f"{kind}s.parquet").to_pylist()
        where = {row["clip_id"]: i for i, row in enumerate(rows)}
        self.rows = [where[i] for i in ids if i in where] if ids is not None else list(range(len(rows)))
        if not self.rows:
            raise StepVideoError(
                f"none of the subset's {kind}s is in the latent cache {cache}; curate and encode again"
            )
        self.captions = [{k: v for k, v in rows[i].items() if k != "clip_id"} for i in self.rows]
        self.moments = load_file(cache / f"{kind}_{resolution}.safetensors")["moments"]
        stats = storage.read_json(cache / "latent_stats.json")
        self.mean, self.std = (torch.tensor(stats[k])[:, None, None] for k in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(t', z, h', w') of a latent."""
        t, zz, h, w = self.moments.shape[1:]
        return t, zz // 2, h, w

    def latent(self, i: int, eps: Tensor | None = None) -> Tensor:
        """Latent i [t', z, h', w'], float32, normalised; a posterior sample with `eps`, its mean without."""
        mean, logvar = self.moments[self.rows[i]].float().chunk(2, dim=1)
        if eps is not None:
            mean = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * eps
        return (mean - self.mean) / self.std

    def caption(self, i: int, kind: float, which: float, probabilities: dict[str, float]) -> int:
        """Number of a caption of clip i: its kind by the probabilities (of those it has), then one of that kind.

        `kind` and `which` are uniform numbers in [0, 1).
        """
        have = {k: p for k, p in probabilities.items() if self.captions[i].get(k)}
        if not have:
            raise StepVideoError(f"a clip of the subset has no caption of kind {', '.join(probabilities)}")
        bounds = np.cumsum(list(have.values()))
        numbers = self.captions[i][list(have)[int(np.searchsorted(bounds, kind * bounds[-1], side="right"))]]
        return numbers[math.floor(which * len(numbers))]
