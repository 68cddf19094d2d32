"""A pipeline's networks, read and placed as memory and parallel options say; the networks know nothing of either."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from stepvideo.diffusion.component import Component
from stepvideo.diffusion.pipeline import Pipeline, best_device
from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.memory import Job
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.decode import decode, decode_tiled
from stepvideo.inference.memory.offload import offload_layers
from stepvideo.inference.memory.plan import GIB, choose, smallest, survey
from stepvideo.inference.memory.quantize import load_quantized_dit
from stepvideo.inference.memory.report import read_networks
from stepvideo.inference.memory.text import TextProcess, read_text_by_layer
from stepvideo.inference.remote.networks import RemoteTextEncoders, RemoteVAE
from stepvideo.inference.remote.token import TOKEN_VARIABLE
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.config import VAEConfig
from stepvideo.models.config_files import dit_config
from stepvideo.models.dit import DiT
from stepvideo.models.text_encoders import TextEncoders
from stepvideo.models.video_vae import VideoVAE
from stepvideo.parallel.apply import ParallelContext
from stepvideo.parallel.config import ParallelConfig

CPU = torch.device("cpu")
Text = Component[list[int], TextEncoders]


def build(
    dit: Path,
    vae: Path | str,
    text: Path | str | None,
    device: str,
    precision: str,
    memory: MemoryConfig,
    ranks: ParallelContext | None,
) -> Pipeline:
    """`Pipeline.prepare`, with the networks placed by `memory` and divided over `ranks`.

    Args:
        vae, text: folders, or http addresses of `stepvideo serve`; no `text` where features of all texts are given.

    Raises:
        ArtifactError: see `Pipeline.prepare`.
        ConfigError: options that exclude each other.
    """
    if ranks is not None and ranks.config.tensor > 1 and memory.quantization != "none":
        raise ConfigError(
            f"memory.quantization={memory.quantization} and parallel.tensor={ranks.config.tensor}: quantized matrices "
            "cannot be divided; use parallel.ulysses or parallel.cfg, or give up one of the two"
        )
    where = ranks.device if ranks else best_device(device)
    engine = Pipeline.prepare(dit, _remote_vae(vae, where), _remote_text(text, where, dit), str(where), precision)
    dtype = torch.float32 if engine.precision == "fp32" else None
    by_layer = memory.offload == "layer"
    rest = "device" if memory.offload == "none" else "host"
    read = partial(load_dit if ranks is None else ranks.load_dit, dit, dtype=dtype)
    if memory.quantization != "none":
        read = partial(load_quantized_dit, dit, kind=memory.quantization, work=engine.device, dtype=dtype)
    read = _finish_dit(read, memory, ranks, engine.device)
    engine.dit = Component(engine.dit.cfg, read, engine.device, "device" if by_layer else rest)
    engine.vae.rest = rest if not is_url(vae) else "device"
    if text and not is_url(text):
        engine.text = _place_text(engine.text, Path(text), memory, engine.device)
    # ranks that share the halves of guidance hold one each, which takes no more than both in turn
    engine.batched_guidance = memory.cfg_batched or (ranks is not None and ranks.config.cfg > 1)
    tiles = {"tile": memory.vae_tile, "overlap": memory.vae_overlap}
    if ranks is None:
        engine.decoder = partial(decode, **tiles)
    else:
        engine.velocity = ranks.velocity
        engine.decoder = partial(ranks.decode, decoder=partial(decode_tiled, **tiles) if tiles["tile"] else _whole)
    return engine


def _whole(vae: VideoVAE, z: torch.Tensor) -> torch.Tensor:
    return vae.decode(z, boundary_mix=False)


def _finish_dit(
    read: Callable[[torch.device], DiT], memory: MemoryConfig, ranks: ParallelContext | None, device: torch.device
) -> Callable[[torch.device], DiT]:
    """`read`, then divided and its blocks' weights sent to where they wait."""

    def finish(wanted: torch.device) -> DiT:
        by_layer = memory.offload == "layer"
        dit = read(CPU if by_layer else wanted).requires_grad_(False)
        if ranks is not None and memory.quantization != "none":  # else it was read divided
            ranks.divide(dit)
        if by_layer:
            offload_layers(dit, list(dit.transformer_blocks), device, memory.prefetch)
            return dit
        return dit.to(wanted)

    return finish


def _place_text(plain: Text, folder: Path, memory: MemoryConfig, device: torch.device) -> Text:
    if memory.text == "free":
        plain.rest = "nowhere"
    elif memory.offload == "component":
        plain.rest = "host"
    if memory.text == "process":
        apart = Component(plain.cfg, lambda d: TextProcess(folder).to(d), device, origin=plain.origin)
        return cast(Text, apart)
    if memory.offload != "layer":
        return plain
    read = partial(read_text_by_layer, folder, prefetch=memory.prefetch)
    return Component(plain.cfg, read, device, plain.rest, plain.origin)


def is_url(source: Path | str) -> bool:
    return str(source).startswith(("http://", "https://"))


def _remote_vae(source: Path | str, device: torch.device) -> Path | Component[VAEConfig, VideoVAE]:
    if not is_url(source):
        return Path(source)
    remote = RemoteVAE(str(source), os.environ.get(TOKEN_VARIABLE, ""))
    return Component(remote.cfg, cast(Any, remote.to), device, origin=source)


def _remote_text(source: Path | str | None, device: torch.device, dit: Path) -> Path | Text:
    if source is None:
        return Component(list(dit_config(dit).caption_channels), _no_encoders, device)
    if not is_url(source):
        return Path(source)
    remote = RemoteTextEncoders(str(source), os.environ.get(TOKEN_VARIABLE, ""))
    return Component(remote.widths, cast(Any, remote.to), device, origin=source)


def _no_encoders(_: torch.device) -> TextEncoders:
    raise StepVideoError("this model was opened without its text encoders; give the features of all texts")


def choose_memory(
    dit: Path, vae: Path | str, text: Path | str | None, sampling: Sampling, device: str, precision: str
) -> tuple[MemoryConfig, str]:
    """The fastest options that fit the device by prediction, exact ones if any do; and a notice when they are not the
    defaults.

    Raises:
        StepVideoError: nothing fits; says what the least would be.
    """
    where = best_device(device)
    if where.type != "cuda":
        return MemoryConfig(), ""
    given = {"vae": vae, "text": text}
    here = {role: None if f is None or is_url(f) else Path(f) for role, f in given.items()}
    nets = read_networks(dit, **here, embedded=here["text"] is None)
    plans = survey(nets, Job(sampling, precision=precision))
    total = torch.cuda.get_device_properties(where).total_memory
    found = choose([p for p in plans if p.memory.exact], total) or choose(plans, total)
    if found is None:
        least = smallest(plans)
        raise StepVideoError(
            f"{sampling.frames} frames of {sampling.height}x{sampling.width} need {least.peak / GIB:.1f} GiB at least "
            f"({least.memory.describe()}), this card has {total / GIB:.1f}; choose fewer frames, a smaller size, or "
            "several cards (--nproc)"
        )
    if found.memory == MemoryConfig():
        return found.memory, ""
    exact = "" if found.memory.exact else "; the result changes slightly"
    return found.memory, f"memory: {found.memory.describe()} ({found.peak / GIB:.1f} GiB predicted{exact})"


def start_ranks(config: ParallelConfig | None, dit: Path, device: str) -> ParallelContext | None:
    """Meet the other ranks of this run, if the configuration asks for any."""
    if config is None or config.world_size == 1:
        return None
    return ParallelContext.start(config, dit_config(dit), device)
