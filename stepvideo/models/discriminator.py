"""A 3D patch discriminator for the end of VAE training (report section 4.1.4: a GAN loss once the others converged).

The report does not describe its form; this is a PatchGAN in space and time that takes clips and single images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.config import DiscriminatorConfig


class PatchDiscriminator(nn.Module):
    """[B, T, C, H, W] in [-1, 1] -> real/fake logits of overlapping space-time patches, [B, T', H', W'].

    With n levels H' = H / 2^n, W' = W / 2^n, and T' is T halved (rounding up) n - 1 times.
    """

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_ch = cfg.in_channels
        for i, width in enumerate(cfg.widths):
            stride = (2 if i else 1, 2, 2)
            layers.append(nn.Conv3d(in_ch, width, (3, 4, 4), stride, padding=1, bias=i == 0))
            if i:  # not batch norm: a clip's logits must not depend on the rest of the batch
                layers.append(nn.GroupNorm(cfg.num_groups, width))
            layers.append(nn.LeakyReLU(0.2))
            in_ch = width
        layers.append(nn.Conv3d(in_ch, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        x_BCTHW = x_BTCHW.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        return self.layers(x_BCTHW).squeeze(1)


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of max(0, 1 - real) + max(0, 1 + fake), halved."""
    return 0.5 * (F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean())


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Minus the mean logit of what the generator made."""
    return -fake_logits.mean()
