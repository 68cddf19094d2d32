"""Kind "text": the bilingual text encoders of report §4.2, small, from the captions of the curated clips.

CLIP (bidirectional) learns against an image tower by contrast; Step-LLM (causal) learns by next token. The image tower
stays with the artifact: the VAE's perceptual loss uses its features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.data.captions import captioned
from stepvideo.data.clips import Clip, load_catalog, load_ids, read_clip
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.frames import square, to_tensor
from stepvideo.data.source import Batch, deal
from stepvideo.models.checkpoints import save_clip_image
from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder, contrastive_loss
from stepvideo.models.step_llm import StepLLM, next_token_loss
from stepvideo.models.text_encoders import TextEncoders, save_text_encoders
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer
from stepvideo.stage import StageContext
from stepvideo.training.config import TextConfig
from stepvideo.training.fit import fit
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve


class CaptionedFrames:
    """Batches of (a few frames, one caption) of different clips.

    Every rank gets the whole batch: contrast needs all pairs, and the networks are small. Accumulation is left out.
    """

    def __init__(
        self, cfg: TextConfig, tokenizer: CLIPTokenizer, captions: list[list[str]], frames: np.ndarray
    ) -> None:
        self.seed, self.tokenizer, self.captions, self.frames = cfg.seed, tokenizer, captions, frames
        self.sampler = Sampler(len(frames), min(cfg.clip_batch, len(frames)), cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = self.sampler.batch(step)
        draw = rng(self.seed, "clip captions", step)
        texts = [self.captions[r][int(draw.integers(len(self.captions[r])))] for r in rows]
        ids, mask = self.tokenizer.encode_batch(texts)
        same = torch.tensor([[a == b for b in texts] for a in texts])
        pairs = {"clips": to_tensor(self.frames[rows]), "tokens": ids, "mask": mask, "same": same}
        return [{**pairs, "share": 1 / ranks, "ids": [f"row {r}" for r in rows]}]


class CLIPModule(StageModule):
    def __init__(self, cfg: TextConfig, source: CaptionedFrames) -> None:
        super().__init__(cfg.optim, cfg.clip_steps)
        self.source = source
        self.net = CLIP(CLIPTextEncoder(cfg.clip_text), CLIPImageEncoder(cfg.clip_image))
        _init(self.net, cfg.seed)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        t, i, scale = self.net(batch["tokens"], batch["mask"], batch["clips"])
        right = ((i @ t.T).argmax(1) == torch.arange(len(i), device=i.device)).float().mean()
        return contrastive_loss(i, t, scale, batch["same"]), {"clip_accuracy": right}


class CLIP(nn.Module):
    """Both towers, so that one forward uses all parameters."""

    def __init__(self, text: CLIPTextEncoder, image: CLIPImageEncoder) -> None:
        super().__init__()
        self.text, self.image = text, image

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of texts and clips [B, D], and the learned scale of their products."""
        longest = int(mask_BL.sum(1).max())
        text = self.text.embed(ids_BL[:, :longest], mask_BL[:, :longest])
        return text, self.image(clips), self.text.logit_scale * 1.0  # a sharded parameter leaves its forward as a value


class CaptionTokens:
    """Captions as tokens, for next-token prediction."""

    def __init__(self, cfg: TextConfig, tokenizer: LLMTokenizer, captions: list[str]) -> None:
        self.ids, self.mask = tokenizer.encode_batch(captions)
        self.sampler = Sampler(len(captions), cfg.llm_batch, cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = self.sampler.batch(step)
        return [self._batch(rows, [rows[i] for i in own]) for own in deal(len(rows), rank, ranks, accumulate)]

    def _batch(self, rows: list[int], own: list[int]) -> Batch:
        longest = int(self.mask[own].sum(1).max())
        tokens = {"tokens": self.ids[own, :longest], "mask": self.mask[own, :longest]}
        # the loss is a mean over predicted tokens, so shares count those
        share = float(self.mask[own, 1:].sum() / self.mask[rows, 1:].sum())
        return {**tokens, "share": share, "ids": [f"caption {i}" for i in own]}


class LLMModule(StageModule):
    """Next-token prediction on captions."""

    def __init__(self, cfg: TextConfig, source: CaptionTokens) -> None:
        super().__init__(cfg.optim, cfg.llm_steps)
        self.net, self.source = StepLLM(cfg.step_llm), source
        _init(self.net, cfg.seed)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        net = self.net
        assert isinstance(net, StepLLM)
        return next_token_loss(net, batch["tokens"], batch["mask"]), {}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, subsets; captions, if there are.

    Output: step_llm/, hunyuan_clip/ with tokenizers and lengths, loss curves.
    """
    cfg: TextConfig = ctx.config
    ids = [load_ids(ctx.inputs["subsets"] / f"{name}.parquet") for name in ("s1", "images")]
    known = captioned(load_catalog(ctx.inputs["curate"], [i for part in ids for i in part]), ctx.inputs.get("captions"))
    clips = [c for c in known[: len(ids[0])] if c.captions]
    captions = [c.caption_list() for c in clips]
    corpus = sorted({text for c in known for text in c.caption_list()})
    llm_tokenizer = LLMTokenizer.train(corpus, cfg.llm_vocab, cfg.llm_length)
    clip_tokenizer = CLIPTokenizer.train(corpus, length=cfg.clip_length)
    cfg.clip_text.vocab_size = _round_up(clip_tokenizer.vocab_size)
    cfg.step_llm.padded_vocab_size = _round_up(llm_tokenizer.vocab_size)

    frames = np.stack([_frames(ctx.inputs["curate"], c, cfg.clip_image.frames, cfg.image_size) for c in clips])
    clip = CLIPModule(cfg, CaptionedFrames(cfg, clip_tokenizer, captions, frames))
    towers = fit(clip, ctx, name="clip")
    llm = LLMModule(cfg, CaptionTokens(cfg, llm_tokenizer, corpus))
    trained = fit(llm, ctx, name="llm")
    if ctx.rank:
        return {}
    both, step_llm = towers["net"], trained["net"]
    assert isinstance(both, CLIP) and isinstance(step_llm, StepLLM)
    save_text_encoders(TextEncoders(step_llm, llm_tokenizer, both.text, clip_tokenizer), ctx.out)
    save_clip_image(both.image, ctx.out)
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
    for module in net.children() if isinstance(net, CLIP) else [net]:
        module.init_weights(generator)  # type: ignore[operator]


def _round_up(n: int, multiple: int = 64) -> int:
    """Padded vocabulary, as released models have it: matrix sizes that hardware likes."""
    return -(-n // multiple) * multiple
