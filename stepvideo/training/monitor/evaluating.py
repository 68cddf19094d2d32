"""Looking at a network in the middle of its training without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning.pytorch import Trainer
from torch import nn

from stepvideo.training.module import StageModule


@contextmanager
def evaluating(trainer: Trainer, module: StageModule, averaged: bool = False) -> Iterator[nn.Module]:
    """`module.net` in eval mode, without gradients and in the training's precision; `averaged`: with the weights of the
    moving average. Afterwards weights, modes and random generators are what they were, bit for bit.
    """
    modes = {m: m.training for m in module.net.modules()}
    device = module.parallel.device
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    weights = module.averaged() if averaged else nullcontext()
    with generators, weights, torch.no_grad(), trainer.precision_plugin.forward_context():
        module.net.eval()
        try:
            yield module.net
        finally:
            for m, training in modes.items():
                m.training = training
