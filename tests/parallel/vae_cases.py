"""What the ranks of a divided Video-VAE do: compute the same thing alone and together, and return how far apart."""

from __future__ import annotations

from unittest import mock

import torch
import torch.distributed as dist
from parallel_cases import gap
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh

from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import DiagonalGaussian, VideoVAE
from stepvideo.parallel.vae_conv import split_vae


def config(**changes: object) -> VAEConfig:
    sizes: dict[str, object] = dict(z_channels=4, enc_ch=4, dec_ch=4, num_res_blocks=1, num_groups=2)
    mults = dict(enc_ch_mult=[1, 2, 2, 4], dec_ch_mult=[1, 2, 2, 4])
    return VAEConfig(**(sizes | mults | changes))  # type: ignore[arg-type]


def network(cfg: VAEConfig) -> VideoVAE:
    """Weights of which none is zero or one."""
    draw = torch.Generator().manual_seed(0)
    vae = VideoVAE(cfg)
    with torch.no_grad():
        for name, p in vae.named_parameters():
            p.normal_(0, 0.3 if p.ndim == 1 else p.shape[1:].numel() ** -0.5, generator=draw)
            p += 1.0 * ("norm" in name and name.endswith("weight"))
    return vae


def groups(time: int, height: int) -> tuple[ProcessGroup, ProcessGroup]:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (time, height), mesh_dim_names=("time", "height"))
    return mesh.get_group("time"), mesh.get_group("height")


def video(frames: int, side: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.rand(batch, frames, 3, *side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loss(vae: VideoVAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of everything that training sees; moments and reconstruction beside it."""
    moments = vae.encode_moments(x)
    posterior = DiagonalGaussian(moments)
    y = vae.decode(posterior.sample(torch.Generator().manual_seed(2)))
    return (y - x).square().mean() + 0.1 * posterior.kl().mean(), moments, y


def divided(
    cfg: VAEConfig, frames: int, side: tuple[int, int], time: int, height: int, dtype: torch.dtype = torch.float64
) -> dict[str, float]:
    """Gaps of the moments, of the video and of every parameter's gradient."""
    x = video(frames, side).to(dtype)
    alone, together = network(cfg).to(dtype), network(cfg).to(dtype)
    value, moments, y = loss(alone, x)
    value.backward()
    split_vae(together, *groups(time, height))
    other, found_moments, found_y = loss(together, x)
    other.backward()
    gaps = {"moments": gap(found_moments.detach(), moments.detach()), "video": gap(found_y.detach(), y.detach())}
    expected = dict(alone.named_parameters())
    for name, p in together.named_parameters():
        assert p.grad is not None
        dist.all_reduce(p.grad)
        if not name.endswith("k.conv.bias"):  # softmax does not see it: its gradient is 0
            gaps[name] = gap(p.grad / dist.get_world_size(), expected[name].grad)  # type: ignore[arg-type]
    return gaps


@torch.no_grad()
def traffic(cfg: VAEConfig, frames: int, side: tuple[int, int], time: int, height: int) -> tuple[int, int, int]:
    """Bytes that this rank sends while encoding and decoding, and the largest and all of its convolutions' inputs."""
    vae, sent, held = network(cfg), [0], [0]
    split_vae(vae, *groups(time, height))
    swap = dist.all_to_all_single

    def counted(out: Tensor, x: Tensor, *sizes: object) -> None:
        sent[0] += x.nbytes
        swap(out, x, *sizes)

    for layer in vae.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            layer.register_forward_pre_hook(lambda _, args: held.append(args[0].nbytes))
    with mock.patch.object(dist, "all_to_all_single", counted):
        vae.decode(vae.encode(video(frames, side, 1), sample=False))
    return sent[0], max(held), sum(held)


def refused(cfg: VAEConfig, side: tuple[int, int], time: int, height: int) -> str:
    vae = network(cfg)
    split_vae(vae, *groups(time, height))
    try:
        vae.encode_moments(video(17, side))
    except ValueError as e:
        return str(e)
    return ""
