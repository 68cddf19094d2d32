"""The closed-form cost equals what torch counts, and the report's Table 3."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stepvideo.emulator.flops import block_flops, flops, training_flops
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT


@pytest.mark.parametrize("variant", [{}, {"attention": "spatial_temporal"}, {"block": "mmdit"}])
@pytest.mark.parametrize("image_to_video", [False, True])
def test_equals_torchs_count(image_to_video, variant):
    cfg = DiTConfig(4, 32, 4, 8, 6, 2, caption_channels=[48, 24], use_additional_conditions=image_to_video, **variant)
    with torch.device("meta"):
        model = DiT(cfg)
        extra = {"condition_hidden_states": torch.zeros(1, 3, 8, 4, 6), "motion_score": 5.0} if image_to_video else {}
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 8, 4, 6), torch.zeros(1, 10, 48), torch.zeros(1, 5, 24), torch.zeros(1), **extra)
    assert counter.get_total_flops() == flops(cfg, 3, 4, 6, text_len=15, clip_len=5)


@pytest.mark.parametrize("variant", [{}, {"patch_size": 2}, {"attention": "spatial_temporal"}, {"block": "mmdit"}])
def test_equals_torchs_count_of_a_training_step(variant):
    """On a CPU, whose attention is plain products here; of fused ones torch counts what the backward recomputes."""
    cfg = DiTConfig(4, 32, 4, 8, 6, caption_channels=[48, 24], **variant)
    dit = DiT(cfg)
    dit.init_weights(torch.Generator().manual_seed(0))
    arguments = torch.zeros(2, 3, 8, 4, 6), torch.zeros(2, 10, 48), torch.zeros(2, 5, 24), torch.zeros(2)
    with FlopCounterMode(display=False) as counter:
        dit(*arguments).sum().backward()
    assert counter.get_total_flops() == 2 * training_flops(cfg, 3, 4, 6, text_len=15, clip_len=5)


@pytest.mark.parametrize(("frames", "tflop"), [(1, 344.0), (12, 6143.1), (24, 16809.8), (36, 32005.4)])
def test_equals_table_3_at_540p(frames, tflop):
    """Forward and backward of one 544×992 sample of 1, 68, 136 and 204 frames with 256 text tokens."""
    assert 3 * block_flops(DiTConfig(), frames, 34, 62, 256) / 1e12 == pytest.approx(tflop, abs=0.05)
