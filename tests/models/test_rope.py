"""RoPE-3D, QK-norm, GELU and attention: exact angles in bf16, and fast paths equal to their definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stepvideo.inference.parity.golden import read_case
from stepvideo.models import qk_norm as module
from stepvideo.models.attention import attention, key_bias, plain_attention
from stepvideo.models.gelu import gelu_tanh
from stepvideo.models.qk_norm import plain_qk_norm, qk_norm, qk_norm_
from stepvideo.models.rope import apply_rope, rope_tables, swap_halves

CPU = torch.device("cpu")


def test_rope_in_bf16_keeps_exact_angles():
    """The released code rounds the angles in bf16, so we are near its output, and nearer to the truth."""
    case = read_case(Path(__file__).parents[1] / "data" / "golden" / "rope3d.json")
    split = (64, 32, 32)
    tables = rope_tables(2, 3, 7, split, CPU)
    out = apply_rope(case.inputs["q2"].bfloat16(), *tables, split).float()
    truth = apply_rope(case.inputs["q2"].double().float(), *tables, split)
    assert (out - case.outputs["q2"].float()).abs().max() < 0.1
    assert (out - truth).abs().max() < (case.outputs["q2"].float() - truth).abs().max()


def test_scores_depend_on_relative_positions_only():
    split = (16, 8, 8)
    cos, sin = (x.view(5, 6, 7, 32) for x in rope_tables(5, 6, 7, split, CPU))
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=draw)

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        at = [apply_rope(x, cos[p].view(1, -1), sin[p].view(1, -1), split).flatten() for x, p in ((q, a), (k, b))]
        return float(at[0] @ at[1])

    assert score((3, 4, 5), (1, 2, 6)) == pytest.approx(score((2, 2, 4), (0, 0, 5)), abs=1e-5)
    assert score((3, 4, 5), (1, 2, 6)) != pytest.approx(score((3, 4, 5), (2, 2, 6)), abs=1e-3)


def test_tables_made_in_inference_mode_serve_training():
    split = (8, 4, 4)
    with torch.inference_mode():
        tables = rope_tables(2, 3, 5, split, CPU)
    x = torch.randn(1, 30, 2, 16, requires_grad=True)
    apply_rope(x, *tables, split).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps lengths


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contiguous", [False, True])
def test_qk_norm_and_its_gradients_equal_the_definition(rotate, dtype, contiguous):
    split = (16, 8, 8)
    rope = rope_tables(2, 3, 4, split, CPU) if rotate else None
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 24, 4, 2, 32, generator=draw).to(dtype).permute(3, 0, 2, 1, 4)
    x = (x.contiguous() if contiguous else x).requires_grad_()
    weight = torch.randn(2, 32, generator=draw).requires_grad_()
    grad = torch.randn(2, 3, 4, 24, 32, generator=draw)
    before = x.detach().clone()
    fast = qk_norm(x, weight, 1e-6, rope, split)
    slow = plain_qk_norm(x, weight[:, None, None, None], 1e-6, rope, split)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, (x, weight), grad), torch.autograd.grad(slow, (x, weight), grad)):
        torch.testing.assert_close(a, b, atol=2e-4 if dtype == torch.float32 else 2e-2, rtol=1e-4)
    assert torch.equal(x, before)


def test_swap_halves_is_its_own_inverse():
    x = torch.randn(3, 32)
    assert torch.equal(swap_halves(swap_halves(x, (16, 8, 8)), (16, 8, 8)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gelu_and_its_gradient_equal_torch(dtype):
    x = torch.linspace(-12, 12, 4001).to(dtype).requires_grad_()
    reference = F.gelu(x.float(), approximate="tanh")
    out = gelu_tanh(x)
    assert out.dtype == dtype
    tolerance = {"atol": 1e-2, "rtol": 1e-2} if dtype == torch.bfloat16 else {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(out.float(), reference, **tolerance)
    ours, theirs = (torch.autograd.grad(y.sum(), x)[0].float() for y in (out, reference))
    torch.testing.assert_close(ours, theirs, **(tolerance | {"atol": max(tolerance["atol"], 1e-5)}))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gelu_without_gradients_is_the_same_in_place(dtype, monkeypatch):
    monkeypatch.setattr("stepvideo.models.gelu.CHUNK", 100)
    x = torch.linspace(-12, 12, 4001).to(dtype).view(1, -1)
    with torch.enable_grad():
        expected = gelu_tanh(x.clone())
    assert gelu_tanh(x) is x
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=1e-6)  # ends of chunks are not vectorised


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_equals_the_fused_kernel(groups, masked):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 6, 8, generator=draw, requires_grad=True)
    k, v = (torch.randn(2, groups, 5, 8, generator=draw, requires_grad=True) for _ in range(2))
    bias = key_bias(torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])) if masked else None
    plain = plain_attention(q, k, v, bias)
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=groups != 4)
    torch.testing.assert_close(plain, fused)
    ours, theirs = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (plain, fused))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(attention(q, k, v, bias), plain.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("gradients", "limit"), [(True, 0), (False, 2**22)])
def test_attention_of_many_tokens_or_without_gradients_takes_the_fused_kernel(monkeypatch, gradients, limit):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 8, generator=draw) for _ in range(3))
    plain = attention(q, k, v)
    monkeypatch.setattr("stepvideo.models.attention.PLAIN_LOGITS", limit)
    monkeypatch.setattr("stepvideo.models.attention.plain_attention", None)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(attention(q, k, v), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qk_norm_in_place_equals_the_definition_bit_for_bit(dtype, monkeypatch):
    monkeypatch.setattr(module, "IN_PLACE_ELEMENTS", 2 * 2 * 12 * 16)  # one head at a time
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 12, 5, 3, 16, generator=g).to(dtype).permute(3, 0, 2, 1, 4)
    weight, rope = torch.randn(2, 1, 1, 1, 16, generator=g), rope_tables(3, 2, 2, (8, 4, 4), torch.device("cpu"))
    expected, values = plain_qk_norm(qkv[:2], weight, 1e-6, rope, (8, 4, 4)).to(dtype), qkv[2].clone()
    assert qk_norm_(qkv[:2], weight, 1e-6, rope, (8, 4, 4)).data_ptr() == qkv.data_ptr()
    assert torch.equal(qkv[:2], expected) and torch.equal(qkv[2], values)
