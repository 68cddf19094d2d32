"""The DiT of Step-Video-T2V: 3D full attention, AdaLN-single, two text streams (report §4.3), as released.

Parameter names and shapes equal the released `StepVideoModel` at any width. Where it differs from the report, the
release counts: the block norms are affine LayerNorms, and only queries and keys have an RMSNorm. The forms that the
report compares it with (§10.1) are options of `DiTConfig`.

Legend: b batch, f frames, c channels, h height, w width, s video tokens (f·h·w), l text tokens, d inner width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.attention import key_bias
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit_blocks import Block, SelfAttention, rope_split
from stepvideo.models.dit_variants import JointBlock, SpatialAttention, TemporalAttention
from stepvideo.models.layers import AdaLNSingle, PatchEmbed, TextProjection, unpatchify
from stepvideo.models.modulation import modulate, modulation
from stepvideo.models.rope import rope_tables


def blocks(cfg: DiTConfig) -> list[nn.Module]:
    """The transformer blocks; each maps (tokens, time, text, bias, rope) to new tokens, or to new (tokens, text)."""
    if cfg.block == "mmdit":
        return [JointBlock(cfg, last=i == cfg.num_layers - 1) for i in range(cfg.num_layers)]
    kinds = [SelfAttention] if cfg.attention == "full" else [SpatialAttention, TemporalAttention]
    return [Block(cfg, kinds[i % len(kinds)]) for i in range(cfg.num_layers)]


class DiT(nn.Module):
    """The released `StepVideoModel`: predicts the velocity data − noise of a noisy latent video."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d = cfg.inner_dim
        self.scale_shift_table = nn.Parameter(torch.zeros(2, d))
        self.pos_embed = PatchEmbed(cfg.patch_channels, d, cfg.patch_size)
        self.transformer_blocks = nn.ModuleList(blocks(cfg))
        self.proj_out = nn.Linear(d, cfg.patch_size**2 * cfg.out_channels)
        self.adaln_single = AdaLNSingle(d, motion=cfg.use_additional_conditions)
        self.caption_projection = TextProjection(cfg.caption_channels[0], d)
        if len(cfg.caption_channels) == 2:
            self.clip_projection = nn.Linear(cfg.caption_channels[1], d)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_2: Tensor | None,
        timestep: Tensor,
        encoder_attention_mask: Tensor | None = None,
        condition_hidden_states: Tensor | None = None,
        motion_score: Tensor | float | None = None,
    ) -> Tensor:
        """Velocity [b, f, c_out, h, w], in the dtype of the computation.

        Args:
            hidden_states: noisy latent [b, f, c, h, w]; h and w are multiples of the patch size.
            encoder_hidden_states: Step-LLM features [b, l1, caption_channels[0]].
            encoder_hidden_states_2: CLIP features [b, l2, caption_channels[1]], or None without that stream.
            timestep: [b] in [0, 1]; 0 is noise, 1 is data.
            encoder_attention_mask: [b, l2 + l1] of 0 and 1, CLIP first; None attends to every text token.
            condition_hidden_states: image-to-video only: latent of the first frame, zeros after it, same shape as
                `hidden_states`.
            motion_score: image-to-video only: one number for all samples, or [b].

        Raises:
            ValueError: on a shape or an argument that does not fit the configuration.
        """
        cfg = self.cfg
        x = self._with_condition(hidden_states, condition_hidden_states)
        b, f, _, h, w = x.shape
        h, w = h // cfg.patch_size, w // cfg.patch_size
        x = self.pos_embed(x.to(self.dtype))
        time, emb = self.adaln_single(timestep, self._motion(motion_score, b, x.device))
        text, mask = self._text(encoder_hidden_states, encoder_hidden_states_2, encoder_attention_mask)
        if mask is not None and cfg.block == "mmdit":  # its keys are the video's, all attended, then the text's
            mask = F.pad(mask, (x.shape[1], 0), value=1)
        bias = key_bias(mask)
        grids = [(f, h, w)] if cfg.attention == "full" else [(1, h, w), (f, 1, 1)]
        ropes = [rope_tables(*grid, rope_split(cfg), x.device) for grid in grids]
        for i, block in enumerate(self.transformer_blocks):
            x = block(x, time, text, bias, ropes[i % len(ropes)])
            if cfg.block == "mmdit":
                x, text = x
        shift, scale = modulation(self.scale_shift_table, emb[:, None])
        x = modulate(F.layer_norm(x, (cfg.inner_dim,), eps=cfg.norm_eps), shift, scale)
        return unpatchify(self.proj_out(x), f, h, w, cfg.patch_size)

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    def _with_condition(self, x: Tensor, condition: Tensor | None) -> Tensor:
        cfg, p = self.cfg, self.cfg.patch_size
        if x.ndim != 5 or x.shape[2] != cfg.in_channels or x.shape[3] % p or x.shape[4] % p:
            expected = f"[b, f, {cfg.in_channels}, h, w], h and w multiples of {p}"
            raise ValueError(f"hidden_states {list(x.shape)}: expected {expected}")
        if (condition is not None) != cfg.use_additional_conditions:
            state = "needs" if cfg.use_additional_conditions else "takes no"
            raise ValueError(
                f"use_additional_conditions={cfg.use_additional_conditions}: {state} condition_hidden_states"
            )
        if condition is None:
            return x
        if condition.shape != x.shape:
            raise ValueError(f"condition_hidden_states {list(condition.shape)} must have the shape {list(x.shape)}")
        return torch.cat([x, condition.to(x.dtype)], dim=2)

    def _motion(self, motion_score: Tensor | float | None, batch: int, device: torch.device) -> Tensor | None:
        if (motion_score is not None) != self.cfg.use_additional_conditions:
            state = "needs" if self.cfg.use_additional_conditions else "takes no"
            raise ValueError(f"use_additional_conditions={self.cfg.use_additional_conditions}: {state} motion_score")
        if motion_score is None:
            return None
        return torch.as_tensor(motion_score, dtype=torch.float32, device=device).expand(batch)

    def _text(self, llm: Tensor, clip: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Text tokens [b, l2 + l1, d], CLIP first as released, and their mask."""
        if (clip is not None) != (len(self.cfg.caption_channels) == 2):
            given = "given" if clip is not None else "missing"
            raise ValueError(f"caption_channels={self.cfg.caption_channels} but encoder_hidden_states_2 is {given}")
        before = 0 if clip is None else clip.shape[1]
        if mask is not None:
            if mask.shape != (llm.shape[0], before + llm.shape[1]):
                expected = [llm.shape[0], before + llm.shape[1]]
                raise ValueError(f"encoder_attention_mask {list(mask.shape)} must be {expected} (CLIP, then Step-LLM)")
            if mask.device.type == "cpu":  # elsewhere reading the mask would wait for the device
                attended = (mask[:, before:] > 0).any(0).tolist()
                used = max((i + 1 for i, a in enumerate(attended) if a), default=0)
                llm, mask = llm[:, :used], mask[:, : before + used]
        normed = F.layer_norm(llm.to(self.dtype), llm.shape[-1:], eps=self.cfg.norm_eps)
        projected = self.caption_projection(normed)
        if clip is not None:
            projected = torch.cat([self.clip_projection(clip.to(self.dtype)), projected], dim=1)
        return projected, mask

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None, gate: float = 1.0) -> None:
        """Initial weights for training from scratch; the same generator state gives the same weights.

        The output is exactly zero at first (`proj_out` is zero), the modulation does not depend on the timestep (its
        last layer is zero), cross-attention adds nothing (its `wo` is zero: it has no gate to close), and the gates
        of the other branches are `gate`, their last matrices being scaled by 1/sqrt(2·layers). `gate` 0 is
        adaLN-zero; open gates trained slightly better at equal compute in our small world, so 1 is the default.
        """
        depth = 2 * self.cfg.num_layers
        for name, p in self.named_parameters():
            if name.endswith(("attn2.wo.weight", "proj_out.weight", "adaln_single.linear.weight")) or p.ndim == 1:
                nn.init.constant_(p, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif name.endswith("scale_shift_table"):
                p.zero_()
                if p.shape[0] == 6:
                    p[2], p[5] = gate, gate
            else:
                fan_in = p.shape[1:].numel()
                residual = name.endswith((".wo.weight", ".ff.net.2.weight"))
                nn.init.trunc_normal_(
                    p, std=(depth if residual else 1) ** -0.5 * fan_in**-0.5, a=-10, b=10, generator=generator
                )
