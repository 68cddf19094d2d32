"""From the VAE's first layer to its last, activations and gradients stay in channels-last memory.

On a CPU and as on CUDA: meta tensors take CUDA's ways through torch where a CPU has its own (GroupNorm, upsampling).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stepvideo.models.config import VAEConfig
from stepvideo.models.vae_ops import _ChannelsLastGroupNorm, upsampled
from stepvideo.models.video_vae import VideoVAE

MULTS = {"enc_ch_mult": [1, 2, 4, 4], "dec_ch_mult": [1, 2, 4, 4]}
LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """With one, torch 2.13 computes small convolutions by another algorithm, which leaves the layout."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_layout(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=LAYOUT[x.ndim])


class Conversions(TorchDispatchMode):
    """Records copies of activations and convolutions that meet another layout. `weights` are no activations."""

    def __init__(self, weights: set[torch.Size]) -> None:
        super().__init__()
        self.weights, self.found, self.convolutions = weights, [], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("clone", "copy_", "_to_copy") and out.ndim == 5 and out.shape not in self.weights:
            self.found.append((name, *out.shape))
        if not name.startswith("convolution"):
            return out
        self.convolutions += 1
        given = args[:2] if name == "convolution_backward" else args[:1]
        self.found += [(name, *x.shape) for x in given if not in_layout(x)]
        if (
            outputs(out)[0].device.type == "meta"
        ):  # cuDNN answers in the layout that it is asked in; torch's meta kernel does not say so
            first, *rest = out if isinstance(out, tuple) else (out,)
            first = None if first is None else first.contiguous(memory_format=LAYOUT[first.ndim])
            return (first, *rest) if rest else first
        self.found += [(name, "out", *x.shape) for x in outputs(out)[:1] if not in_layout(x)]
        return out


def outputs(out: Any) -> list[Tensor]:
    return [x for x in tree_leaves(out) if isinstance(x, Tensor)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"dual_path": False}, {"spatial_group_norm": False}])
def test_no_activation_changes_its_layout(monkeypatch, device, dtype, changes):
    if device == "meta":  # has no fused attention; CUDA's answers in the layout of the queries
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, is_causal: q + k + v)
    cfg = VAEConfig(z_channels=4, enc_ch=8, dec_ch=8, num_res_blocks=1, num_groups=2, **MULTS, **changes)
    vae = VideoVAE(cfg).to(dtype).to(device)
    weights = {p.shape for p in vae.parameters()}
    for net, shape in ((vae.encoder, (2, 9, 16, 32, 3)), (vae.decoder, (2, 2, 2, 3, 4))):
        x = torch.randn(shape, dtype=dtype, device=device).movedim(-1, 1).requires_grad_()
        assert in_layout(x)
        with Conversions(weights) as forward:
            y = net(x)
        assert forward.found == [] and in_layout(y)
        grad = torch.randn_like(y, memory_format=torch.preserve_format)
        with Conversions(weights) as backward:
            y.backward(grad)
        assert backward.found == []
        assert backward.convolutions == forward.convolutions > 15


def test_the_count_sees_what_it_looks_for():
    vae = VideoVAE(VAEConfig(z_channels=4, enc_ch=8, dec_ch=8, num_res_blocks=1, num_groups=2))
    with torch.no_grad(), Conversions(set()) as count:
        vae.encoder(torch.randn(2, 3, 17, 32, 48))
    assert len(count.found) >= count.convolutions


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("copies", [1, 2])
def test_group_norm_by_whole_tensor_operations(dtype, tolerance, copies):
    """As on CUDA; with two copies of the image below each other, as by two ranks of which each holds one."""
    torch.manual_seed(0)
    image, grad = (torch.randn(3, 6, 5, 8).to(dtype) * 2 + 5).movedim(-1, 1), torch.randn(3, 8, 6, 5).to(dtype)
    leaves = [x.requires_grad_() for x in (image, torch.randn(8).to(dtype), torch.randn(8).to(dtype))]
    ours = _ChannelsLastGroupNorm.apply(*leaves, 4, 1e-5, lambda sums: sums * copies)
    plain = F.group_norm(torch.cat([leaves[0]] * copies, dim=2), 4, *leaves[1:], 1e-5)
    expected = [plain[:, :, :6], *torch.autograd.grad(plain, leaves, torch.cat([grad] * copies, dim=2))]
    found = [ours, *(g * copies for g in torch.autograd.grad(ours, leaves, grad))]
    for theirs, x in zip(expected, found, strict=True):
        torch.testing.assert_close(x, theirs, atol=tolerance * float(theirs.abs().max()), rtol=0)


def test_upsampling_and_its_gradient():
    x = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    grad = torch.randn(2, 3, 8, 10, 12)
    ours, plain = upsampled(x), F.interpolate(x, scale_factor=2.0)
    assert torch.equal(ours, plain)
    for a, b in zip(torch.autograd.grad(ours, x, grad), torch.autograd.grad(plain, x, grad), strict=True):
        torch.testing.assert_close(a, b)
