"""The Video-VAE over ranks inside a clip: each holds a share of the frames, of the rows, or of both (report §6.2.3,
"Multi-GPUs VAE").

Layers that read beyond their own position fetch just the frames or rows that they need from the ranks that hold them;
statistics of a GroupNorm over divided rows are summed; the causal attention at the lowest resolution gathers keys and
values. From the encoder's (decoder's) first layer to its last a rank computes and stores its share only; moments and
videos, which are small, are gathered at the end, so that `VideoVAE`'s methods give every rank the whole result.

Works by hooks and attributes on an unmodified VideoVAE and differentiates. As with the other plans, the gradient of
what every rank holds counts once a rank: averaged over the ranks, parameter gradients are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.attention.bias import causal_lower_right

from stepvideo.models.vae_blocks import (
    AttnBlock,
    CausalConv3d,
    Downsample2D,
    GroupNorm,
    PixelShuffle3d,
    PixelUnshuffle3d,
    UpsampledCausalConv3d,
    UpsampledConv2d,
    UpsampleRes,
)
from stepvideo.models.video_vae import Decoder, Encoder, VideoVAE
from stepvideo.parallel.halo import ROWS, TIME, Axis, Cuts, Window


def split_vae(vae: VideoVAE, time: ProcessGroup | None = None, height: ProcessGroup | None = None) -> None:
    """Divide the frames over the ranks of `time` and the rows over those of `height`, in place.

    Shares are whole latents and may be uneven. A chunk of fewer latents than ranks of `time`, such as an image, is
    computed by all of them.

    Raises:
        ValueError: when called with fewer rows of latents than ranks of `height`.
    """
    groups = {dim: group for dim, group in ((TIME, time), (ROWS, height)) if group is not None and group.size() > 1}
    if groups:
        _divide_encoder(vae.encoder, groups)
        _divide_decoder(vae.decoder, groups)


class _Division:
    """The axes of one network, and how its layers use them."""

    def __init__(self, groups: dict[int, ProcessGroup]) -> None:
        self.axes = {dim: Axis(dim, group) for dim, group in groups.items()}

    def attach(self, module: nn.Module, level: int) -> None:
        """Let the layers of a module at a resolution see their neighbours' values."""
        upsampled = {unit.conv2 for unit in module.modules() if isinstance(unit, UpsampleRes)}
        for layer in module.modules():
            if isinstance(layer, GroupNorm):
                layer.total = partial(self.total, (ROWS,) if layer.per_frame else (TIME, ROWS))
            elif isinstance(layer, AttnBlock):
                layer.attend = partial(self.attend, level)
            elif isinstance(layer, PixelShuffle3d) and TIME in self.axes:
                layer.register_forward_pre_hook(partial(self.drop, level))
            elif windows := _windows(layer):
                for dim in self.axes.keys() & windows.keys():
                    _pad_nothing(layer, dim)
                self.fetch(layer, level + (layer in upsampled), windows)

    def fetch(self, layer: nn.Module, level: int, windows: dict[int, Window]) -> None:
        used = [(axis, windows[dim]) for dim, axis in self.axes.items() if dim in windows]

        def bring(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0]
            for axis, window in used:
                x = axis.bring(x, level, window)
            return (x,)

        layer.register_forward_pre_hook(bring)

    def total(self, dims: tuple[int, ...], x: Tensor) -> Tensor:
        """Sum over the ranks that hold parts of what is normalised together, in place."""
        for axis in (self.axes[d] for d in dims if d in self.axes):
            if axis.divided:
                dist.all_reduce(x, group=axis.group)
        return x

    def drop(self, level: int, layer: PixelShuffle3d, _: Any) -> None:
        """Only the rank with the first latent has a frame from before the first one."""
        layer.drop = int(self.axes[TIME].span(level)[0] == 0)

    def attend(self, level: int, q_BCTHW: Tensor, k_BCTHW: Tensor, v_BCTHW: Tensor) -> Tensor:
        """`AttnBlock.attend` of this rank's queries over the keys of all ranks."""
        kv = torch.cat([k_BCTHW, v_BCTHW], dim=1)
        for axis in self.axes.values():
            kv = axis.whole(kv, axis.cuts[level])
        k, v = (x.flatten(2).transpose(1, 2).unsqueeze(1) for x in kv.chunk(2, dim=1))
        frames, rows, width = q_BCTHW.shape[2:]
        first = self.axes[TIME].span(level)[0] if TIME in self.axes else 0
        last_row = self.axes[ROWS].span(level)[1] if ROWS in self.axes else rows
        # In raster order some rows of one frame are neighbours, and so are whole frames.
        together = frames if rows == kv.shape[3] else 1
        read = []
        for i in range(0, frames, together):
            q = q_BCTHW[:, :, i : i + together].flatten(2).transpose(1, 2).unsqueeze(1)
            seen = ((first + i + together - 1) * kv.shape[3] + last_row) * width
            mask = causal_lower_right(q.shape[2], seen)
            h = F.scaled_dot_product_attention(q, k[:, :, :seen], v[:, :, :seen], attn_mask=mask)
            read.append(h.squeeze(1).unflatten(1, (together, rows, width)))
        return torch.cat(read, dim=1).movedim(-1, 1)


def _windows(layer: nn.Module) -> dict[int, Window]:
    """What a layer reads beyond its own position."""
    if isinstance(layer, UpsampledCausalConv3d):
        return {TIME: Window(2, 1), ROWS: Window(3, 1)}
    if isinstance(layer, CausalConv3d) and layer.time_pad:
        stride = layer.conv.stride[0]
        return {TIME: Window(3, 2, stride), ROWS: Window(3, 1, stride)}
    if isinstance(layer, UpsampledConv2d):
        return {ROWS: Window(3, 1)}
    if isinstance(layer, Downsample2D):
        return {ROWS: Window(3, 0, 2)}
    if isinstance(layer, PixelUnshuffle3d):
        return {TIME: Window(2, 1, 2), ROWS: Window(2, 0, 2)}
    return {}


def _pad_nothing(layer: nn.Module, dim: int) -> None:
    """What the layer would take for zeros is brought to it."""
    if isinstance(layer, UpsampledConv2d | UpsampledCausalConv3d):
        setattr(layer, "time_border" if dim == TIME else "row_border", True)
    elif dim == TIME:
        assert isinstance(layer, CausalConv3d | PixelUnshuffle3d)
        layer.time_pad = 0
    elif isinstance(layer, CausalConv3d):
        layer.conv.padding = (0, 0, 1)
    elif isinstance(layer, Downsample2D):
        layer.row_pad = 0


def _divide_encoder(encoder: Encoder, groups: dict[int, ProcessGroup]) -> None:
    cfg, division = encoder.cfg, _Division(groups)
    halvings = {TIME: [False, True, True, cfg.dual_path], ROWS: [True, True, True, cfg.dual_path]}

    def enter(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0]
        for dim, axis in division.axes.items():
            factor, n = (cfg.temporal_factor if dim == TIME else cfg.spatial_factor), x.shape[dim]
            lead = factor - 1 if dim == TIME else 0  # the first latent is the code of the first frame alone

            def cuts(latents: Cuts, dim: int = dim, factor: int = factor, lead: int = lead, n: int = n) -> list[Cuts]:
                found = [[max(0, factor * u - lead) for u in latents[:-1]] + [n]]
                for halved in halvings[dim]:
                    found.append([-(-c // 2) if halved else c for c in found[-1]])
                return found

            axis.enter(-(-n // factor), cuts)
            x = axis.own(x)
        return (x,)

    encoder.register_forward_pre_hook(enter)
    tail = [encoder.mid, encoder.norm_out]
    if cfg.dual_path:
        tail += [encoder.conv_patchify, encoder.unshuffle]
    levels = [(encoder.conv_in, 0), *zip(encoder.down, range(4)), *((m, 3) for m in tail)]
    for module, level in [*levels, (encoder.conv_out, 4)]:
        division.attach(module, level)
    encoder.register_forward_hook(partial(_leave, division, lambda cuts, _: cuts))


def _divide_decoder(decoder: Decoder, groups: dict[int, ProcessGroup]) -> None:
    cfg, division = decoder.cfg, _Division(groups)
    up = 1 if cfg.dual_path else 0

    def enter(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0]
        for dim, axis in division.axes.items():

            def cuts(latents: Cuts, dim: int = dim) -> list[Cuts]:
                found = [latents]
                if cfg.dual_path:
                    found.append([max(0, 2 * c - (dim == TIME)) for c in latents])
                for doubled in (True, True, dim == ROWS):
                    found.append([c * (1 + doubled) for c in found[-1]])
                return found

            axis.enter(z.shape[dim], cuts)
            z = axis.own(z)
        return (z,)

    decoder.register_forward_pre_hook(enter)
    levels = [(decoder.conv_in, 0), (decoder.mid, up), *((m, up + 3 - i) for i, m in enumerate(decoder.up))]
    if cfg.dual_path:
        levels += [(decoder.conv_unpatchify, 0), (decoder.shuffle, 0)]
    for module, level in [*levels, (decoder.norm_out, up + 3)]:
        division.attach(module, level)
    last = decoder.conv_out if isinstance(decoder.conv_out, nn.Conv3d) else decoder.conv_out.conv
    if ROWS in groups:
        last.padding = (0, 0, 1)
    if TIME in groups:
        decoder.surplus = 0
    # Of 4n frames the first 3 stand for time before the first one: frame i is the convolution at i + 3.
    division.fetch(last, up + 3, {TIME: Window(3, -1, owner=3), ROWS: Window(3, 1)})
    decoder.register_forward_hook(
        partial(_leave, division, lambda cuts, dim: [max(0, c - 3 * (dim == TIME)) for c in cuts])
    )


def _leave(
    division: _Division, end: Callable[[Cuts, int], Cuts], _: nn.Module, args: tuple[Tensor], out_BCTHW: Tensor
) -> Tensor:
    """After the last layer: the shares of all ranks."""
    for dim, axis in division.axes.items():
        out_BCTHW = axis.whole(out_BCTHW, end(axis.cuts[-1], dim))
    return out_BCTHW
