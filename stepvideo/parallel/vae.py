"""The Video-VAE over ranks by chunk: chunks are coded independently, so each rank takes some, in their order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from stepvideo.models.video_vae import VideoVAE, mix_boundaries
from stepvideo.parallel.collectives import gather, own_share, spans

Code = Callable[[VideoVAE, Tensor], Tensor]


def decode(vae: VideoVAE, z_BTCHW: Tensor, group: ProcessGroup, decoder: Code = VideoVAE.decode) -> Tensor:
    """`VideoVAE.decode` shared by the ranks of `group`, which hold the same latents and all get the video.

    `decoder` decodes one chunk, whole or in tiles.
    """
    video = _by_chunk(vae, decoder, z_BTCHW, vae.cfg.latent_len, lambda n: 1 + (n - 1) * vae.cfg.temporal_factor, group)
    return mix_boundaries(video, vae.cfg.frame_len)


def encode_moments(vae: VideoVAE, x_BTCHW: Tensor, group: ProcessGroup) -> Tensor:
    """`VideoVAE.encode_moments` shared by the ranks of `group`, which hold the same video and all get the moments."""
    vae.num_latents(x_BTCHW.shape[1])
    return _by_chunk(vae, VideoVAE.encode_moments, x_BTCHW, vae.cfg.frame_len, vae.num_latents, group)


def _by_chunk(
    vae: VideoVAE, code: Code, x_BTCHW: Tensor, length: int, coded: Callable[[int], int], group: ProcessGroup
) -> Tensor:
    """`code` of every chunk of `length` frames, in order; a chunk of n frames becomes `coded(n)`."""
    chunks = x_BTCHW.split(length or x_BTCHW.shape[1], dim=1)
    sizes = [coded(c.shape[1]) for c in chunks]
    done = [code(vae, c) for c in chunks[own_share(len(chunks), group)]]
    # A rank without a chunk codes the first one for nothing, rather than guess the form and dtype of what others send.
    own = torch.cat(done, dim=1) if done else code(vae, chunks[0])[:, :0]
    return gather(own, 1, [sum(sizes[span]) for span in spans(len(chunks), group.size())], group)
