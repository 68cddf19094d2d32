"""Layer-wise offload: which layers are on the device when, and the same output bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stepvideo.emulator.tracker import LiveBytes
from stepvideo.inference.memory.offload import LayerOffload, inside, offload_layers
from stepvideo.inference.memory.quantize import quantizer
from stepvideo.models.config import DiTConfig, StepLLMConfig
from stepvideo.models.dit import DiT
from stepvideo.models.step_llm import StepLLM


def make_dit(layers=5):
    dit = DiT(DiTConfig(4, 32, layers, caption_channels=[48, 24]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in dit.parameters():
            p.normal_(0, 0.05, generator=generator)
    return dit.requires_grad_(False).eval()


def dit_inputs():
    g = torch.Generator().manual_seed(1)
    shapes = [(1, 3, 64, 4, 6), (1, 10, 48), (1, 5, 24)]
    return [*(torch.randn(s, generator=g) for s in shapes), torch.tensor([0.3])]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
@torch.no_grad()
def test_dit_gives_the_same_with_at_most_prefetch_plus_one_blocks_resident(prefetch):
    dit, inputs = make_dit(), dit_inputs()
    expected = dit(*inputs)
    offload = offload_layers(dit, dit.transformer_blocks, "cpu", prefetch)
    for _ in range(3):
        assert torch.equal(dit(*inputs), expected)
    assert offload.peak == min(prefetch, 4) + 1
    assert list(offload.resident) == list(range(min(prefetch, 4)))  # the next step's first blocks are on their way
    assert offload.copies == 3 * 5 + len(offload.resident)  # each once a step
    offload.release()
    assert not offload.resident
    offload.remove()
    assert torch.equal(dit(*inputs), expected)


@torch.no_grad()
def test_step_llm_gives_the_same():
    llm = StepLLM(StepLLMConfig(64, 4, 4, 2, 128, padded_vocab_size=100)).requires_grad_(False)
    llm.init_weights(torch.Generator().manual_seed(0))
    ids = torch.arange(12).view(2, 6)
    expected = llm(ids)
    offload = offload_layers(llm, llm.transformer.layers, "cpu", 1)
    assert torch.equal(llm(ids), expected)
    assert offload.peak == 2


@torch.no_grad()
def test_memory_of_the_device_is_that_of_prefetch_plus_one_layers():
    layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(6))
    x = torch.zeros(1, 512)
    offload = LayerOffload(layers, "cpu", prefetch=1)
    with LiveBytes(layers.parameters()) as live:
        waiting = live.now
        for layer in layers:
            x = layer(x)
    assert 2 * 512 * 512 * 4 <= live.peak - waiting < 2 * 512 * 512 * 4 + 10_000
    assert offload.peak == 2


@torch.no_grad()
def test_a_failing_layer_leaves_the_device():
    dit, inputs = make_dit(), dit_inputs()
    offload = LayerOffload(dit.transformer_blocks, "cpu", 1)
    handle = dit.transformer_blocks[2].ff.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dit(*inputs)
    assert 2 not in offload.resident
    handle.remove()
    assert torch.equal(dit(*inputs), make_dit()(*inputs))
    assert offload.peak == 2


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@torch.no_grad()
def test_quantized_blocks_are_offloaded_too(kind):
    pytest.importorskip("torchao")
    dit, inputs = make_dit().bfloat16(), dit_inputs()
    quantizer(kind)(dit.transformer_blocks)
    expected = copy.deepcopy(dit)(*inputs)
    weight = dit.transformer_blocks[0].attn1.wqkv.weight
    assert torch.equal(inside(weight, torch.clone).dequantize(), weight.dequantize())  # as pinning does it
    offload_layers(dit, dit.transformer_blocks, "cpu", 1)
    assert torch.equal(dit(*inputs), expected)


class Recorder:
    """A stream that writes down what it is asked for."""

    def __init__(self, name, log):
        self.name, self.log, self.events = name, log, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self):
        self.events += 1
        self.log.append(f"copy {self.events}")
        return self.events

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for copy {event}")


@torch.no_grad()
def test_copies_wait_for_what_has_computed_and_layers_for_their_copy(monkeypatch):
    """The order on a CUDA device, where copies run beside the computation: its streams are imitated here."""
    log: list[str] = []
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    offload = LayerOffload(layers, "cpu", prefetch=1)
    compute = Recorder("compute", log)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda _device: compute)
    offload._side = Recorder("side", log)  # type: ignore[assignment]
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, i=i: log.append(f"layer {i}"))
        layer(torch.zeros(1, 4))
    assert log == [
        *("side waits for compute", "copy 1", "copy 2", "compute waits for copy 1", "layer 0"),
        *("side waits for compute", "copy 3", "compute waits for copy 2", "layer 1"),
        *("side waits for compute", "copy 4", "compute waits for copy 3", "layer 2"),
    ]
