"""Muon on filters, the learning-rate schedule, the moving average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stepvideo.training.config import OptimConfig
from stepvideo.training.optim import EMA, Muon, lr_factor, optimizers


@pytest.mark.parametrize("shape", [(6, 108), (108, 6), (32, 32)])
def test_muon_is_torchs_to_the_bit(shape):
    torch.manual_seed(0)
    ours, torchs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    with torch.no_grad():
        torchs.copy_(ours.normal_())
    optims = [Muon([ours], 0.02, 0.1), torch.optim.Muon([torchs], lr=0.02, weight_decay=0.1, momentum=0.95)]
    for _ in range(3):
        ours.grad = torch.randn(shape)
        torchs.grad = ours.grad.clone()
        for optim in optims:
            optim.step()
    assert torch.equal(ours, torchs)


def test_muon_moves_filters_as_it_moves_their_matrices():
    torch.manual_seed(0)
    conv = nn.Conv3d(4, 6, 3)
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    ours, torchs = Muon([conv.weight], 0.02, 0.0), torch.optim.Muon([matrix], lr=0.02, weight_decay=0.0)
    for _ in range(3):
        grad = torch.randn(6, 108)
        conv.weight.grad, matrix.grad = grad.view_as(conv.weight).clone(), grad.clone()
        ours.step(), torchs.step()
    assert torch.equal(conv.weight.detach().flatten(1), matrix.detach())
    ours.zero_grad()
    before = conv.weight.detach().clone()
    ours.step()  # no gradient: untouched, as for frozen parts
    assert torch.equal(conv.weight, before)


def test_every_parameter_has_one_optimizer():
    net = nn.ModuleDict({"conv_in": nn.Conv3d(3, 4, 3), "mid": nn.Conv3d(4, 4, 3), "blocks": nn.Linear(4, 4)})
    adamw, muon = optimizers(net.named_parameters(), OptimConfig(name="muon"))
    assert isinstance(muon, Muon)
    mine, rest = ({id(p) for p in o.param_groups[0]["params"]} for o in (muon, adamw))
    assert mine == {id(net["mid"].weight), id(net["blocks"].weight)}
    assert mine | rest == {id(p) for p in net.parameters()} and not mine & rest
    assert len(optimizers(net.named_parameters(), OptimConfig())) == 1


def test_schedule():
    cosine = OptimConfig(warmup=10, decay="cosine", final=0.1)
    assert lr_factor(0, 100, cosine) == pytest.approx(0.1)
    assert lr_factor(99, 100, cosine) == pytest.approx(0.1, abs=1e-3)
    assert lr_factor(50, 100, OptimConfig(warmup=10)) == 1.0


def test_moving_average_shortens_its_memory_at_first():
    layer = nn.Linear(1, 1, bias=False)
    ema = EMA(layer, 0.99)
    values = []
    for step in range(200):
        with torch.no_grad():
            layer.weight.fill_(1.0)
        ema.update(step)
        values.append(float(ema.shadow["weight"]))
    assert values[-1] == pytest.approx(1.0, abs=1e-3)
    ema.copy_to_module()
    assert float(layer.weight.detach()) == pytest.approx(values[-1])
