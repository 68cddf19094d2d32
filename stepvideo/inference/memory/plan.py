"""What a generation will need, before anything is loaded: predicted peaks, and the fastest options that fit a card.

Torch-free: reads configurations alone. All figures are bytes of tensors; GiB = 2^30. A "24 GB" card is taken as 24 GiB,
of which HEADROOM is left to the driver, error correction, the allocator's gaps and kernels' workspaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from stepvideo.emulator import memory
from stepvideo.emulator.flops import flops
from stepvideo.emulator.memory import Job, Networks
from stepvideo.inference.memory.config import OFFLOAD, TEXT, MemoryConfig

GIB = 2**30
HEADROOM = 0.06
FLOPS = 300e12  # assumed of a card for the choice between options; not a promise of speed
HOST_LINK = 20e9  # assumed bytes a second from host memory to the card
TILES = (0, 512, 384, 256, 192, 128)  # pixels
PHASES = ("text encoding", "image encoding", "denoising", "decoding")
PROMPTS = 2  # encoded together: the prompt and the negative one


@dataclass(frozen=True)
class Phase:
    """One part of a generation, in bytes."""

    name: str
    weights: int  # on the device, of the network that computes
    beside: int  # of the others
    activations: int  # at the worst moment of the forward
    where: str  # that moment

    @property
    def total(self) -> int:
        return self.weights + self.beside + self.activations


@dataclass(frozen=True)
class Plan:
    """The prediction for one job and one set of options."""

    memory: MemoryConfig
    phases: tuple[Phase, ...]
    host: int  # bytes of weights that wait in host memory
    seconds: float  # of denoising, under the assumed FLOPS and HOST_LINK; only for comparison

    @property
    def worst(self) -> Phase:
        return max(self.phases, key=lambda p: p.total)

    @property
    def peak(self) -> int:
        return self.worst.total

    def fits(self, gpu_bytes: int) -> bool:
        return self.peak <= gpu_bytes * (1 - HEADROOM)


def predict(nets: Networks, job: Job, options: MemoryConfig | None = None) -> Plan:
    """The plan of a generation with these options.

    Raises:
        ValueError: a size that the VAE cannot code.
    """
    options = options or MemoryConfig()
    dit, vae, text = (weights(nets, job, options) for weights in (_dit, _vae, _text))
    # Freed encoders encode all texts first; the other networks are read afterwards.
    beside_text = 0 if options.text == "free" else dit.resting + vae.resting
    denoising = memory.denoising(nets, job, options.cfg_batched, options.quantization)
    parts = [
        (text.active, beside_text, memory.text_encoding(nets, job, PROMPTS)),
        (vae.active, dit.resting + text.resting, memory.image_encoding(nets, job)),
        (dit.active, vae.resting + text.resting, denoising),
        (vae.active, dit.resting + text.resting, memory.decoding(nets, job, options.vae_tile)),
    ]
    absent = set()
    if nets.step_llm is None or options.text == "process":
        absent.add(PHASES[0])
    if not nets.dit.use_additional_conditions:
        absent.add(PHASES[1])
    phases = [
        Phase(name, weights, beside, need.size, need.where)
        for name, (weights, beside, need) in zip(PHASES, parts)
        if name not in absent
    ]
    return Plan(options, tuple(phases), dit.host + vae.host + text.host, _seconds(nets, job, options))


@dataclass(frozen=True)
class _Weights:
    """Bytes of one network: on the device in its phase, on the device in the others, in host memory."""

    active: int
    resting: int
    host: int

    @classmethod
    def whole(cls, total: int, options: MemoryConfig) -> _Weights:
        return cls(total, total, 0) if options.offload == "none" else cls(total, 0, total)

    @classmethod
    def layers(cls, outside: int, layer: int, number: int, options: MemoryConfig) -> _Weights:
        ahead = min(options.prefetch, number - 1)
        return cls(outside + (ahead + 1) * layer, outside + ahead * layer, outside + number * layer)


def _dit(nets: Networks, job: Job, options: MemoryConfig) -> _Weights:
    block = memory.dit_block_weights(nets, job, options.quantization)
    outside, number = memory.dit_outside_weights(nets, job), nets.dit.num_layers
    if options.offload == "layer":
        return _Weights.layers(outside, block, number, options)
    return _Weights.whole(outside + number * block, options)


def _vae(nets: Networks, job: Job, options: MemoryConfig) -> _Weights:
    return _Weights.whole(memory.vae_weights(nets, job), options)


def _text(nets: Networks, job: Job, options: MemoryConfig) -> _Weights:
    total = memory.text_weights(nets, job)
    if options.text == "process":
        return _Weights(0, 0, total)
    if options.offload == "layer" and nets.step_llm is not None:
        layer, outside = memory.step_llm_layer_weights(nets, job)
        used = _Weights.layers(outside, layer, nets.step_llm.num_layers, options)
    else:
        used = _Weights.whole(total, options)
    return _Weights(used.active, 0, 0) if options.text == "free" else used


def _seconds(nets: Networks, job: Job, options: MemoryConfig) -> float:
    """Denoising: computing, or copying the blocks where that takes longer and hides behind it."""
    f, h, w = job.latent(nets.vae)
    calls = 2 if job.guided and not options.cfg_batched else 1
    clip = job.clip_length if len(nets.dit.caption_channels) == 2 else 0
    samples = job.batch * (2 if job.guided else 1)
    compute = samples * flops(nets.dit, f, h, w, job.text_length + clip, clip) / FLOPS
    compute *= 1.02 if options.quantization != "none" else 1.0
    copying = 0.0
    if options.offload == "layer":
        block = memory.dit_block_weights(nets, job, options.quantization)
        copying = calls * nets.dit.num_layers * block / HOST_LINK
    step = max(compute, copying) if options.prefetch else compute + copying
    return job.sampling.steps * step


def candidates(nets: Networks, job: Job) -> Iterator[MemoryConfig]:
    """Every sensible set of options; fp8 is left to the user, since int8 takes the same memory and is nearer."""
    batched = (True, False) if job.guided else (True,)
    tiles = [t for t in TILES if t < max(job.sampling.height, job.sampling.width)]
    for offload, text, quantization, cfg_batched, tile in product(OFFLOAD, TEXT, ("none", "int8"), batched, tiles):
        yield MemoryConfig(
            offload=offload,
            prefetch=1,
            quantization=quantization,
            vae_tile=tile,
            vae_overlap=min(64, tile // 4),
            text=text,
            cfg_batched=cfg_batched,
        )


def survey(nets: Networks, job: Job) -> list[Plan]:
    """The plans of all candidates."""
    return [predict(nets, job, c) for c in candidates(nets, job)]


def choose(plans: Sequence[Plan], gpu_bytes: int) -> Plan | None:
    """The fastest plan that fits; of those within 5 %, an exact one, then the one that departs least from the defaults.

    None when nothing fits: `smallest` tells by how much.
    """
    fitting = [p for p in plans if p.fits(gpu_bytes)]
    if not fitting:
        return None
    limit = 1.05 * min(p.seconds for p in fitting)
    return min((p for p in fitting if p.seconds <= limit), key=_departure)


def smallest(plans: Sequence[Plan]) -> Plan:
    """The plan that needs least."""
    return min(plans, key=lambda p: (p.peak, *_departure(p)))


def _departure(plan: Plan) -> tuple[int, ...]:
    """Lossy options first, larger tiles before smaller ones, then how much is moved around."""
    m = plan.memory
    tile = TILES.index(m.vae_tile)
    return (
        int(m.quantization != "none"),
        tile,
        OFFLOAD.index(m.offload),
        TEXT.index(m.text),
        int(not m.cfg_batched),
    )


def without_text(nets: Networks) -> Networks:
    """The same job with precomputed embeddings."""
    return replace(nets, step_llm=None, clip=None)
