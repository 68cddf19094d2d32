"""The adversarial end of VAE training (report §4.1.4): when it begins, and how much it weighs.

Legend: b samples of a micro-batch, t frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.grad import conv3d_weight

from stepvideo.models.video_vae import VideoVAE


def converged_at(losses: Sequence[float], window: int, gain: float) -> int | None:
    """The first step before which the losses have converged; None: they have not.

    That is: the mean of the last `window` losses is less than the share `gain` below the mean of the `window` before
    them. Later losses do not change the answer.
    """
    if len(losses) < 2 * window:
        return None
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    means = (sums[window:] - sums[:-window]) / window
    flat = means[window:] > (1 - gain) * means[:-window]
    return 2 * window + int(flat.argmax()) if flat.any() else None


class LastLayer:
    """Gradients of the decoder's last convolution from its input and the gradient of its output.

    They need no backward through the network, and none of its weights, which may be divided over ranks.
    """

    def __init__(self, vae: VideoVAE) -> None:
        out = vae.decoder.conv_out
        self.conv = out if isinstance(out, nn.Conv3d) else out.conv
        self.shape = self.conv.weight.shape
        self.inputs: list[Tensor] = []  # of the chunks

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember what the layer is given within."""
        self.inputs = []
        handle = self.conv.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].detach()))
        try:
            yield
        finally:
            handle.remove()

    def gradient(self, grad_btchw: Tensor) -> Tensor:
        """Of the weight, float32, for the gradient of the video that was decoded last (boundaries not mixed)."""
        taps, padding = self.shape[2], self.conv.padding
        chunks = grad_btchw.transpose(1, 2).split([x.shape[2] - taps + 1 for x in self.inputs], dim=2)
        pairs = zip(self.inputs, chunks, strict=True)
        parts = [conv3d_weight(x, self.shape, g.to(x), padding=padding).float() for x, g in pairs]  # type: ignore[arg-type]
        return torch.stack(parts).sum(0)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Ratio of the norms of two losses' gradients at the last layer (VQGAN's rule), so that neither drowns the other.

    The gradients are those of the whole batch.
    """
    return (reconstruction.norm() / (adversarial.norm() + 1e-6)).clamp(0, 1e3)
