"""Training configs refuse what would fail late or train wrong."""

from __future__ import annotations

import pytest

from stepvideo.config import load
from stepvideo.errors import ConfigError
from stepvideo.training.config import TextConfig, TrainConfig, TurboConfig, VAETrainConfig
from stepvideo.training.dpo_config import DPOConfig


@pytest.mark.parametrize(
    ("cls", "given", "named"),
    [
        (TrainConfig, {"runtime": {"checkpoint_every": 0}}, "checkpoint_every=0"),
        (TrainConfig, {"runtime": {"log_every": 0}}, "log_every=0"),
        (TrainConfig, {"optim": {"warmup": -5}}, r"optim\.warmup=-5"),
        (TrainConfig, {"optim": {"ema": 1.5}}, r"optim\.ema=1\.5"),
        (TrainConfig, {"optim": {"betas": [0.9]}}, r"optim\.betas=\[0\.9\]"),
        (TrainConfig, {"held_out": 1.0}, "held_out"),
        (DPOConfig, {"precision": "bf16-true"}, "precision='bf16-true'"),
        (TurboConfig, {"precision": "16-mixed"}, "precision='16-mixed'"),
        (TurboConfig, {"weight": "eq10"}, "weight='eq10'"),
        (TurboConfig, {"steps": 0}, "steps=0"),
        (TextConfig, {"llm_steps": 0}, "llm_steps=0"),
        (TrainConfig, {"balance": {"packs": 3}, "runtime": {"nproc": 2}}, r"balance\.packs=3: .* to 2 data-parallel"),
        (VAETrainConfig, {"lengths": [17, 18]}, r"lengths: 18 is not in 1 … 17"),
        (VAETrainConfig, {"lengths": [0]}, r"lengths: 0 is not in 1 … 17"),
        (VAETrainConfig, {"sizes": [64], "crop": 80}, "crop=80: .* largest size, 64"),
        (VAETrainConfig, {"sizes": [64], "crop": 24}, "crop=24: give a multiple of 16"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cls, given, named):
    with pytest.raises(ConfigError, match=named):
        load(cls, given)
