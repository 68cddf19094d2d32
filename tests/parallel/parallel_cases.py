"""What the ranks do: compute the same thing alone and together, and return how far apart the results are."""

from __future__ import annotations

import time
from math import ceil
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.guidance import sample
from stepvideo.diffusion.schedule import sigmas
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE
from stepvideo.parallel import vae as by_chunk
from stepvideo.parallel.apply import ParallelContext
from stepvideo.parallel.config import ParallelConfig

TEXT = 7  # Step-LLM tokens; the CLIP stream has 3
Inputs = dict[str, Tensor]


def network(cfg: DiTConfig) -> DiT:
    """Weights of which none is zero or one: what a plan does wrong must show."""
    draw = torch.Generator().manual_seed(0)
    dit = DiT(cfg)
    with torch.no_grad():
        for name, p in dit.named_parameters():
            p.normal_(0, 0.5 if p.ndim == 1 else p.shape[-1] ** -0.5, generator=draw)
            p += 1.0 * ("norm" in name and name.endswith("weight"))
    return dit


def inputs(cfg: DiTConfig, size: tuple[int, int, int], batch: int) -> Inputs:
    """Arguments of the DiT for a latent of (frames, height, width); every sample has a text of another length."""
    draw = torch.Generator().manual_seed(1)
    frames, height, width = size
    made = {"hidden_states": torch.randn(batch, frames, cfg.in_channels, height, width, generator=draw)}
    made["timestep"] = torch.linspace(0.1, 0.9, batch)
    made["encoder_hidden_states"] = torch.randn(batch, TEXT, cfg.caption_channels[0], generator=draw)
    made["encoder_hidden_states_2"] = torch.randn(batch, 3, cfg.caption_channels[-1], generator=draw)
    used = torch.tensor([3 + 1 + i % TEXT for i in range(batch)])
    made["encoder_attention_mask"] = (torch.arange(3 + TEXT) < used[:, None]).float()
    if cfg.use_additional_conditions:
        made["condition_hidden_states"] = torch.randn(made["hidden_states"].shape, generator=draw)
        made["motion_score"] = torch.linspace(2, 5, batch)
    return made


def gap(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def forward(
    cfg: DiTConfig, plan: ParallelConfig, size: tuple[int, int, int], batch: int, dtype: torch.dtype = torch.float32
) -> tuple[float, int]:
    """The gap, and how many tokens of how many samples this rank took through a block."""
    args = inputs(cfg, size, batch)
    expected = network(cfg).to(dtype)(**args)
    context = ParallelContext.start(plan, cfg, "cpu", 30)
    dit = context.divide(network(cfg).to(dtype))
    velocity = context.velocity(dit)
    velocity(**inputs(cfg, (1, 2, 2), 2))  # another size before: nothing may stay behind
    seen = []
    dit.transformer_blocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2].numel()))
    found = velocity(**args)
    return gap(found, expected), seen[0]


def guided(cfg: DiTConfig, plan: ParallelConfig, steps: int) -> float:
    """A whole denoising loop, from guidance to none of it."""
    args = inputs(cfg, (3, 2, 2), 2)
    noise, _ = args.pop("hidden_states"), args.pop("timestep")
    uncond = {k: v.flip(0) for k, v in args.items()}
    run = [noise, sigmas(steps, 2.0), args, uncond, GuidanceConfig("diminishing", 3.0)]
    expected = sample(network(cfg), *run).latents
    context = ParallelContext.start(plan, cfg, "cpu", 30)
    return gap(sample(context.velocity(context.divide(network(cfg))), *run).latents, expected)


def whole(x: Tensor | None) -> Tensor:
    assert x is not None
    return x.full_tensor() if isinstance(x, DTensor) else x


def loaded(root: Path, plan: ParallelConfig) -> tuple[float, int, int]:
    """From files: the gap, the bytes that this rank holds, and those of the whole model."""
    alone = load_dit(root)
    args = inputs(alone.cfg, (2, 2, 2), 1)
    context = ParallelContext.start(plan, alone.cfg, "cpu", 30)
    dit = context.load_dit(root, "cpu")
    full = {k: whole(v) for k, v in dit.state_dict().items()}
    assert all(torch.equal(full[k], v) for k, v in alone.state_dict().items())
    held = [p.to_local() if isinstance(p, DTensor) else p for p in dit.parameters()]
    with torch.no_grad():
        found = gap(dit(**args), alone(**args))
    return found, sum(p.untyped_storage().nbytes() for p in held), sum(p.nbytes for p in alone.parameters())


@torch.no_grad()
def video(frames: list[int], plan: ParallelConfig) -> list[float]:
    """Encoding and decoding of clips of these lengths."""
    ones = [1, 1, 1, 1]
    torch.manual_seed(0)
    vae = VideoVAE(VAEConfig(3, 4, 8, ones, 8, ones, num_groups=4))
    context = ParallelContext.start(plan, DiTConfig(8, 8, 1), "cpu", 30)
    world = torch.distributed.group.WORLD
    gaps = []
    for n in frames:
        x = torch.randn(1, n, 3, 16, 16)
        moments = vae.encode_moments(x)
        gaps.append(gap(by_chunk.encode_moments(vae, x, world), moments))
        z = moments.chunk(2, 2)[0]
        chunks: list[Tensor] = []

        def decoder(vae: VideoVAE, chunk: Tensor, taken: list[Tensor] = chunks) -> Tensor:
            taken.append(chunk)
            return vae.decode(chunk)

        gaps.append(gap(context.decode(vae, z, decoder), vae.decode(z)))
        assert len(chunks) <= ceil(n / 17 / plan.world_size)
    return gaps


def refused(cfg: DiTConfig, plan: ParallelConfig) -> str:
    try:
        ParallelContext.start(plan, cfg, "cpu", 30).divide(network(cfg))
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def hang(timeout_s: float, sleep_s: float) -> tuple[str, float]:
    """Rank 1 comes late to a collective of the mesh: what rank 0 was told, and after how long."""
    context = ParallelContext.start(ParallelConfig(ulysses=2), DiTConfig(2, 8, 1), "cpu", timeout_s)
    start = time.monotonic()
    if context.rank:
        time.sleep(sleep_s)
        return "", sleep_s
    try:
        torch.distributed.all_reduce(torch.ones(1), group=context.mesh.get_group("ulysses"))
    except RuntimeError as e:
        return str(e), time.monotonic() - start
    return "", 0.0
