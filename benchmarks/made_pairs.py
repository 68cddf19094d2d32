"""Pairs of rendered clips for a reward model, of which one shows its prompt and the other has one attribute wrong.

Which is better is known from how they were made, so that they cost no vote: they teach what the words mean, not what
the policy does wrong. Latents are those of the VAE, as a policy's samples are.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from stepvideo import storage
from stepvideo.data.draw import rng
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.pixels import to_float
from stepvideo.world.attributes import GRID, NAMES, Attrs, is_held_out, train_combinations
from stepvideo.world.captions import prompts
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import NoRoom, render

SEED = 777  # of prompts: others than those of any stage `pairs`
TRIES = 8


def wrong(right: Attrs, draw: np.random.Generator) -> Attrs:
    """The same but for one attribute; no combination that is held out from training."""
    while True:
        name = NAMES[int(draw.integers(len(NAMES)))]
        others = [v for v in GRID[name] if v != getattr(right, name)]
        found = dataclasses.replace(right, **{name: others[int(draw.integers(len(others)))]})
        if not is_held_out(found):
            return found


def clip(attrs: Attrs, size: int, *key: int) -> np.ndarray:
    """A clip [17, size, size, 3]; where a path finds no room another one is drawn."""
    cfg = RenderConfig(size=size, frames=17, backgrounds=["plain", "gradient"])
    for attempt in range(TRIES):
        try:
            return render(attrs, [SEED, *key, attempt], cfg)
        except NoRoom:
            continue
    raise NoRoom(f"no room for {attrs} at {size} px in {TRIES} tries")


@torch.no_grad()
def make(out: Path, pipe: Pipeline, count: int) -> Path:
    """`count` pairs as a stage `pairs` writes them, without votes: each counts as one."""
    size, asked = pipe.defaults.height, prompts(train_combinations(), count, SEED)
    stats: LatentStats = pipe.stats
    sides: dict[str, list[torch.Tensor]] = {"winner": [], "loser": []}
    with pipe.vae.use() as vae:
        dtype = next(vae.parameters()).dtype
        for start in range(0, count, 8):
            part = range(start, min(start + 8, count))
            shown = {"winner": [asked[i].attrs for i in part]}
            shown["loser"] = [wrong(a, rng(SEED, "wrong", i)) for i, a in zip(part, shown["winner"], strict=True)]
            for k, (side, attrs) in enumerate(shown.items()):
                clips = np.stack([clip(a, size, i, k) for i, a in zip(part, attrs, strict=True)])
                z = vae.encode(to_float(torch.from_numpy(clips)).to(pipe.device, dtype), sample=False)
                sides[side].append(stats.normalise(z.float().cpu()))
    text = pipe.encode_prompts([p.text for p in asked])
    tensors = {k: torch.cat(v) for k, v in sides.items()} | {k: v.cpu() for k, v in text.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "pairs.safetensors")
    rows = "".join(json.dumps({"prompt": p.text}, ensure_ascii=False) + "\n" for p in asked)
    storage.write_atomic(out / "pairs.jsonl", rows)
    return out
