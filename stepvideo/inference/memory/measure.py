"""What the phases of a generation really allocate, at any size and without a GPU: the networks, the sampler, the
offload, quantization and decoding of this library run on the meta device, and the bytes alive there are counted.

The meta device stands for the accelerator: models take their accelerator's code path on it. Weights that wait in host
memory are CPU tensors of one element, seen at full size. Not seen: kernels' workspaces and the allocator's gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.guidance import sample
from stepvideo.emulator.memory import Job, Networks
from stepvideo.emulator.tracker import FusedKernels, LiveBytes
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.decode import decode_chunks
from stepvideo.inference.memory.offload import inside, offload_layers
from stepvideo.inference.memory.plan import PHASES, PROMPTS
from stepvideo.inference.memory.quantize import quantizer
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.dit import DiT
from stepvideo.models.rope import rope_tables
from stepvideo.models.step_llm import StepLLM, sqrt_alibi
from stepvideo.models.video_vae import VideoVAE
from stepvideo.models.weights import without_memory

META = torch.device("meta")
M = TypeVar("M", bound=nn.Module)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure(nets: Networks, job: Job, options: MemoryConfig) -> dict[str, int]:
    """Greatest number of bytes alive on the device in each phase, for the network of that phase alone.

    What `plan.predict` predicts for a phase, but for the other networks beside it.
    """
    phases: dict[str, Callable[[Networks, Job, MemoryConfig], int]] = {
        PHASES[0]: _text_encoding,
        PHASES[1]: _image_encoding,
        PHASES[2]: _denoising,
        PHASES[3]: _decoding,
    }
    if nets.step_llm is None:
        del phases[PHASES[0]]
    if not nets.dit.use_additional_conditions:
        del phases[PHASES[1]]
    return {name: phase(nets, job, options) for name, phase in phases.items()}


def _build(network: Callable[[], M], dtype: torch.dtype) -> M:
    with without_memory():
        return network().to(dtype).requires_grad_(False).eval()


def _peak(run: Callable[[], object], *held: Tensor) -> int:
    for cache in (rope_tables, sqrt_alibi):
        cache.cache_clear()
    with LiveBytes(held, device="meta") as live, FusedKernels(), torch.no_grad():
        run()
    return live.peak


def _on_device(network: nn.Module) -> list[Tensor]:
    return [p for p in network.parameters() if p.device == META]


def _to_host(layers: nn.ModuleList) -> None:
    """Weights on the meta device become CPU tensors that show one element at every place."""
    for module in layers.modules():
        for name, p in module._parameters.items():
            if p is not None:
                shown = inside(p.detach(), lambda t: torch.zeros((), dtype=t.dtype).expand(t.shape))
                module._parameters[name] = nn.Parameter(shown, requires_grad=False)


def _denoising(nets: Networks, job: Job, options: MemoryConfig) -> int:
    dtype, batch = DTYPES[job.precision], job.batch
    dit = _build(lambda: DiT(nets.dit), dtype)
    if options.quantization != "none":
        quantizer(options.quantization)(dit.transformer_blocks)
    if options.offload == "layer":
        _to_host(dit.transformer_blocks)
        offload_layers(dit, list(dit.transformer_blocks), META, options.prefetch)
    llm = torch.zeros(batch, job.text_length, nets.dit.caption_channels[0], dtype=dtype, device=META)
    clip = torch.zeros(batch, job.clip_length, nets.dit.caption_channels[-1], device=META)
    streams = {"encoder_hidden_states": llm, "encoder_hidden_states_2": clip}
    length = job.text_length + job.clip_length
    if len(nets.dit.caption_channels) == 1:
        streams, length = {"encoder_hidden_states": llm, "encoder_hidden_states_2": None}, job.text_length
    cond = streams | {"encoder_attention_mask": torch.ones(batch, length, device=META)}
    f, h, w = job.latent(nets.vae)
    noise = torch.zeros(batch, f, nets.vae.z_channels, h, w, device=META)
    if nets.dit.use_additional_conditions:
        cond |= {"condition_hidden_states": noise.clone(), "motion_score": 5.0}
    uncond = {k: v.clone() if isinstance(v, Tensor) else v for k, v in cond.items()}
    held = [*_on_device(dit), noise, *(x for c in (cond, uncond) for x in c.values() if isinstance(x, Tensor))]
    guidance = GuidanceConfig("constant", job.sampling.cfg)
    times = torch.tensor([0.0, 1.0])
    return _peak(
        lambda: sample(dit, noise, times, cond, uncond if job.guided else None, guidance, batched=options.cfg_batched),
        *held,
    )


def _decoding(nets: Networks, job: Job, options: MemoryConfig) -> int:
    dtype = DTYPES[job.precision]
    vae = _build(lambda: VideoVAE(nets.vae), dtype)
    f, h, w = job.latent(nets.vae)
    z = torch.zeros(job.batch, f, nets.vae.z_channels, h, w, dtype=dtype, device=META)

    def run() -> None:
        for chunk in decode_chunks(vae, z, options.vae_tile, options.vae_overlap):
            del chunk

    return _peak(run, *_on_device(vae), z)


def _image_encoding(nets: Networks, job: Job, options: MemoryConfig) -> int:
    dtype, s = DTYPES[job.precision], job.sampling
    vae = _build(lambda: VideoVAE(nets.vae), dtype)
    image = torch.zeros(job.batch, 1, nets.vae.in_channels, s.height, s.width, dtype=dtype, device=META)
    return _peak(lambda: vae.encode_moments(image), *_on_device(vae), image)


def _text_encoding(nets: Networks, job: Job, options: MemoryConfig) -> int:
    assert nets.step_llm is not None and nets.clip is not None
    llm_cfg, clip_cfg = nets.step_llm, nets.clip
    llm = _build(lambda: StepLLM(llm_cfg), DTYPES[job.precision])
    clip = _build(lambda: CLIPTextEncoder(clip_cfg), torch.float32)
    if options.offload == "layer":
        _to_host(llm.transformer.layers)
        offload_layers(llm, list(llm.transformer.layers), META, options.prefetch)
    ids = torch.zeros(PROMPTS, job.text_length, dtype=torch.long, device=META)

    def run() -> None:
        features = llm(ids)
        clip(ids[:, : job.clip_length])
        del features

    return _peak(run, *_on_device(llm), *_on_device(clip), ids)
