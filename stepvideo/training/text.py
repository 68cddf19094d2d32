"""Kind "text": the bilingual text encoders of report §4.2, small, from the captions of the curated clips.

CLIP (bidirectional) learns against an image tower by contrast; Step-LLM (causal) learns by next token. The image tower
stays with the artifact: the VAE's perceptual loss uses its features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.data.clips import Clip, load_catalog, load_ids, read_clip
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.frames import square, to_tensor
from stepvideo.models.checkpoints import save_clip_image
from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder, contrastive_loss
from stepvideo.models.step_llm import StepLLM, next_token_loss
from stepvideo.models.text_encoders import TextEncoders, save_text_encoders
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer
from stepvideo.stage import StageContext
from stepvideo.training.config import TextConfig
from stepvideo.training.fit import Batch, StageModule, fit, tail_mean, write_curve


class CLIPModule(StageModule):
    """Batches of (a few frames, one caption) of different clips."""

    def __init__(
        self, cfg: TextConfig, tokenizer: CLIPTokenizer, captions: list[list[str]], frames: np.ndarray
    ) -> None:
        super().__init__(cfg.optim, cfg.clip_steps)
        self.cfg, self.tokenizer, self.captions, self.frames = cfg, tokenizer, captions, frames
        self.sampler = Sampler(len(frames), min(cfg.clip_batch, len(frames)), cfg.seed)
        self.net = nn.ModuleDict({"text": CLIPTextEncoder(cfg.clip_text), "image": CLIPImageEncoder(cfg.clip_image)})
        _init(self.net, cfg.seed)

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """The whole global batch on every rank: contrast needs all pairs, and the networks are small."""
        rows = self.sampler.batch(step)
        draw = rng(self.cfg.seed, "clip captions", step)
        texts = [self.captions[r][int(draw.integers(len(self.captions[r])))] for r in rows]
        ids, mask = self.tokenizer.encode_batch(texts)
        same = torch.tensor([[a == b for b in texts] for a in texts])
        return {"clips": to_tensor(self.frames[rows]), "ids": ids, "mask": mask, "same": same}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        text: Any = self.net["text"]
        longest = int(batch["mask"].sum(1).max())
        t = text.embed(batch["ids"][:, :longest], batch["mask"][:, :longest])
        i = self.net["image"](batch["clips"])
        loss = contrastive_loss(i, t, text.logit_scale, batch["same"])
        right = float(((i @ t.T).argmax(1) == torch.arange(len(i), device=i.device)).float().mean())
        return loss, {"clip_accuracy": right}


class LLMModule(StageModule):
    """Next-token prediction on captions."""

    def __init__(self, cfg: TextConfig, tokenizer: LLMTokenizer, captions: list[str]) -> None:
        super().__init__(cfg.optim, cfg.llm_steps)
        self.cfg = cfg
        self.ids, self.mask = tokenizer.encode_batch(captions)
        self.sampler = Sampler(len(captions), cfg.llm_batch, cfg.seed)
        self.net = StepLLM(cfg.step_llm)
        _init(self.net, cfg.seed)

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        rows = self.sampler.batch(step)[rank::world_size]
        longest = int(self.mask[rows].sum(1).max())
        return {"ids": self.ids[rows, :longest], "mask": self.mask[rows, :longest]}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        net = self.net
        assert isinstance(net, StepLLM)
        return next_token_loss(net, batch["ids"], batch["mask"]), {}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, subsets. Output: step_llm/, hunyuan_clip/ with tokenizers and lengths, loss curves."""
    cfg: TextConfig = ctx.config
    clips = [c for c in load_catalog(ctx.inputs["curate"], load_ids(ctx.inputs["subsets"] / "s1.parquet"))]
    captions = [c.caption_list() for c in clips]
    corpus = sorted({text for texts in captions for text in texts})
    llm_tokenizer = LLMTokenizer.train(corpus, cfg.llm_vocab, cfg.llm_length)
    clip_tokenizer = CLIPTokenizer.train(corpus, length=cfg.clip_length)
    cfg.clip_text.vocab_size = _round_up(clip_tokenizer.vocab_size)
    cfg.step_llm.padded_vocab_size = _round_up(llm_tokenizer.vocab_size)

    frames = np.stack([_frames(ctx.inputs["curate"], c, cfg.clip_image.frames, cfg.image_size) for c in clips])
    clip = CLIPModule(cfg, clip_tokenizer, captions, frames)
    fit(clip, ctx, name="clip")
    llm = LLMModule(cfg, llm_tokenizer, corpus)
    fit(llm, ctx, name="llm")
    if ctx.rank:
        return {}
    text, image = clip.net["text"], clip.net["image"]
    assert isinstance(text, CLIPTextEncoder) and isinstance(image, CLIPImageEncoder) and isinstance(llm.net, StepLLM)
    save_text_encoders(TextEncoders(llm.net, llm_tokenizer, text, clip_tokenizer), ctx.out)
    save_clip_image(image, ctx.out)
    lengths = {"llm_length": cfg.llm_length, "clip_length": cfg.clip_length}
    storage.write_json(ctx.out / "text_lengths.json", lengths)
    write_curve(clip, ctx, "loss_curve.clip.json")
    write_curve(llm, ctx, "loss_curve.llm.json")
    return {"clip_loss": tail_mean(clip), "llm_loss": tail_mean(llm), "captions": len(corpus)}


def _frames(directory: Path, clip: Clip, count: int, size: int) -> np.ndarray:
    """Frames [count, size, size, 3] spread evenly over a clip, its middle if only one is wanted."""
    if count == 1:
        return square(read_clip(directory, clip, clip.frames // 2, 1), size)
    return square(read_clip(directory, clip)[np.linspace(0, clip.frames - 1, count).round().astype(int)], size)


def _init(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in net.children() if isinstance(net, nn.ModuleDict) else [net]:
        module.init_weights(generator)  # type: ignore[operator]


def _round_up(n: int, multiple: int = 64) -> int:
    """Padded vocabulary, as released models have it: matrix sizes that hardware likes."""
    return -(-n // multiple) * multiple
