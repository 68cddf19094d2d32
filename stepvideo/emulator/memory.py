"""What each network needs on the device, in bytes: weights, and the worst moment of its forward; torch-free.

Everything here is tensors. What a driver, a caching allocator and kernels' workspaces add is the caller's headroom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.dit_memory import DiTParameters, dit_forward, dit_parameters
from stepvideo.emulator.ledger import BYTES, Ledger
from stepvideo.emulator.text_memory import clip_forward, clip_parameters, step_llm_forward, step_llm_parameters
from stepvideo.emulator.vae_memory import vae_decode_chunk, vae_encode_chunk, vae_parameters
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig

SCALE_BYTES = {"none": 0, "int8": 5, "fp8": 4}  # of one output feature, as torchao keeps it: fp32, and a zero point
MATRIX_BYTES = {"none": 0, "int8": 2, "fp8": 10}  # of a quantized weight while it multiplies, as torchao unpacks it
CLIP_BYTES = 4  # the released CLIP runs in fp32
KNOWN = 1000  # answers that a function keeps

P = ParamSpec("P")
T = TypeVar("T")


def _once(function: Callable[P, T]) -> Callable[P, T]:
    """Equal questions, of which a survey of all options has hundreds, are computed once. Configurations hold lists, so
    what they print stands for them."""
    known: dict[str, T] = {}

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        key = repr((args, kwargs))
        if key not in known:
            if len(known) == KNOWN:
                known.clear()
            known[key] = function(*args, **kwargs)
        return known[key]

    return answer


@dataclass(frozen=True)
class Networks:
    """The configurations that take part; without text encoders, embeddings are given."""

    dit: DiTConfig
    vae: VAEConfig
    step_llm: StepLLMConfig | None = None
    clip: CLIPTextConfig | None = None


@dataclass(frozen=True)
class Job:
    """One call: `batch` videos of one size at once. `precision` (bf16 | fp32) is that of weights and activations."""

    sampling: Sampling
    batch: int = 1
    precision: str = "bf16"
    text_length: int = 320
    clip_length: int = 77

    @property
    def e(self) -> int:
        return BYTES[self.precision]

    @property
    def guided(self) -> bool:
        return self.sampling.cfg != 1

    def latent(self, vae: VAEConfig) -> tuple[int, int, int]:
        """Frames, height and width of the latent video."""
        s, f = self.sampling, vae.spatial_factor
        return vae.num_latents(s.frames), s.height // f, s.width // f


@dataclass(frozen=True)
class Activations:
    """Bytes at the worst moment of a forward, and which operation that is."""

    size: int
    where: str


def _activations(m: Ledger) -> Activations:
    return Activations(m.peak, m.where)


@_once
def text_encoding(nets: Networks, job: Job, prompts: int) -> Activations:
    """Both encoders, one after the other, on `prompts` prompts at once."""
    m = Ledger()
    if nets.step_llm is not None:
        step_llm_forward(m, nets.step_llm, prompts, job.text_length, job.e)
    if nets.clip is not None:
        clip_forward(m, nets.clip, prompts, job.clip_length, CLIP_BYTES)
    return _activations(m)


@_once
def denoising(nets: Networks, job: Job, cfg_batched: bool = True, quantization: str = "none") -> Activations:
    """One evaluation of the DiT beside the sampler's own tensors."""
    f, h, w = job.latent(nets.vae)
    latents = job.batch * f * nets.vae.z_channels * h * w * 4
    texts = job.batch * (job.text_length * nets.dit.caption_channels[0] * job.e)
    if len(nets.dit.caption_channels) == 2:
        texts += job.batch * job.clip_length * nets.dit.caption_channels[1] * CLIP_BYTES
    both = 2 if job.guided else 1
    m = Ledger()
    m.add(latents * (1 + both) + texts * 2 * both, "latents and text features")
    batch = job.batch * (both if cfg_batched else 1)
    matrix = dit_parameters(nets.dit).largest_matrix * MATRIX_BYTES[quantization]
    clip = job.clip_length if len(nets.dit.caption_channels) == 2 else 0
    dit_forward(m, nets.dit, batch, (f, h, w), job.text_length, clip, job.e, matrix)
    return _activations(m)


@_once
def decoding(nets: Networks, job: Job, tile: int = 0) -> Activations:
    """One chunk, or one tile of `tile` pixels of it; chunks leave the device as they are done."""
    cfg, (frames, h, w) = nets.vae, job.latent(nets.vae)
    m = Ledger()
    m.add(job.batch * frames * cfg.z_channels * h * w * 4, "latents")
    chunk = min(frames, cfg.latent_len or frames)
    pixels = job.batch * cfg.in_channels * job.sampling.height * job.sampling.width
    pixels *= 1 + (chunk - 1) * cfg.temporal_factor
    if frames > chunk:
        m.add(2 * pixels * job.e, "chunk before")
    if tile:
        m.add(pixels * 4, "blended tiles")
        h, w = min(h, tile // cfg.spatial_factor), min(w, tile // cfg.spatial_factor)
    vae_decode_chunk(m, cfg, job.batch, (chunk, h, w), job.e)
    m.touch(3 * pixels * 4, "frames in fp32")
    return _activations(m)


@_once
def image_encoding(nets: Networks, job: Job) -> Activations:
    """The first frame of image-to-video."""
    m = Ledger()
    pixels = job.batch * nets.vae.in_channels * job.sampling.height * job.sampling.width
    m.add(pixels * (4 + job.e), "image")
    vae_encode_chunk(m, nets.vae, job.batch, (1, job.sampling.height, job.sampling.width), job.e)
    return _activations(m)


def text_weights(nets: Networks, job: Job) -> int:
    llm = step_llm_parameters(nets.step_llm) * job.e if nets.step_llm is not None else 0
    return llm + (clip_parameters(nets.clip) * CLIP_BYTES if nets.clip is not None else 0)


def step_llm_layer_weights(nets: Networks, job: Job) -> tuple[int, int]:
    """Bytes of one layer, and of all that is outside the layers, the CLIP encoder included."""
    if nets.step_llm is None:
        return 0, text_weights(nets, job)
    outside = nets.step_llm.padded_vocab_size * nets.step_llm.hidden_size * job.e
    layers = step_llm_parameters(nets.step_llm) * job.e - outside
    return layers // nets.step_llm.num_layers, text_weights(nets, job) - layers


@_once
def vae_weights(nets: Networks, job: Job) -> int:
    return sum(vae_parameters(nets.vae)) * job.e


def dit_block_weights(nets: Networks, job: Job, quantization: str = "none") -> int:
    """Bytes of one block."""
    p: DiTParameters = dit_parameters(nets.dit)
    matrix = BYTES.get(quantization, job.e)
    scales = p.matrix_rows * SCALE_BYTES[quantization]
    return p.block_matrices * matrix + scales + (p.block - p.block_matrices) * job.e


def dit_outside_weights(nets: Networks, job: Job) -> int:
    return dit_parameters(nets.dit).outside * job.e
