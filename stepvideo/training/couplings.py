"""Kind "couplings": (noise, generated latent) couplings for 2-rectified flow (report §5), from the model at full NFE.

The prompts are captions of the SFT clips, drawn by their distribution.

    couplings.safetensors  x0, x1 [N, f, z, h, w] float32; caption [N] numbers in the latent cache
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from stepvideo.data.clips import load_ids
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.latent_cache import ClipSet, LatentCache, vae_digest
from stepvideo.data.text_cache import TextCache
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import Preempted
from stepvideo.stage import StageContext
from stepvideo.training.config import CouplingsConfig


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: model, vae, text, latents, subsets. A killed run continues after the last finished batch."""
    cfg: CouplingsConfig = ctx.config
    if ctx.rank:
        return {}
    pipe = Pipeline.load(ctx.inputs["model"], ctx.inputs["vae"], ctx.inputs["text"], cfg.runtime.device)
    cache = LatentCache(ctx.inputs["latents"])
    cache.require(vae=vae_digest(ctx.inputs["vae"]))
    clips = ClipSet(cache, "video", "high", load_ids(ctx.inputs["subsets"] / f"{cfg.subset}.parquet"))
    texts = TextCache(cache).texts
    rows = Sampler(len(clips), cfg.samples, cfg.seed).batch(0)
    captions = [clips.caption(row, *rng(cfg.seed, "caption", i).random(2), cfg.captions) for i, row in enumerate(rows)]
    x0, x1 = [], []
    nfe = 0
    for start in range(0, cfg.samples, cfg.batch_size):
        path = ctx.work / f"couplings-{start:06d}.safetensors"
        indices = list(range(start, min(start + cfg.batch_size, cfg.samples)))
        noise = pipe.noise(pipe.defaults, cfg.seed, indices)
        if not path.exists():
            sampled = pipe.sample(
                [texts[captions[i]] for i in indices], noise=noise, batch_size=cfg.batch_size, **vars(cfg.sampling)
            )
            tmp = path.with_suffix(".tmp")
            save_file({"x1": sampled.latents.contiguous(), "nfe": torch.tensor(sampled.nfe)}, tmp)
            tmp.replace(path)
        part = load_file(path)
        nfe = int(part["nfe"])
        x0.append(noise)
        x1.append(part["x1"])
        ctx.sink.progress(indices[-1] + 1, cfg.samples, "sample")
        if ctx.should_stop():
            raise Preempted
    tensors = {"x0": torch.cat(x0), "x1": torch.cat(x1), "caption": torch.tensor(captions)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, ctx.out / "couplings.safetensors")
    return {"couplings": cfg.samples, "steps": cfg.sampling.steps, "nfe": nfe}
