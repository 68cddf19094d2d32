"""A tiny DiT that learns flow matching on latents drawn from numbers: seconds, without files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stepvideo.data.flow_draws import gaussian
from stepvideo.data.source import Batch, deal
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.sink import JsonlSink, NullSink
from stepvideo.stage import StageContext
from stepvideo.training.config import OptimConfig, TrainStageConfig
from stepvideo.training.flow import flow_loss
from stepvideo.training.module import StageModule

WIDTH, SHAPE, BATCH = 16, (3, 4, 2, 2), 8  # text width; f, z, h, w
CONFIG = DiTConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    caption_channels=[WIDTH, WIDTH],
)


@dataclass
class ToyFlowConfig(TrainStageConfig):
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-3, warmup=2, ema=0.8))


def clip(i: int, shape: tuple[int, ...] = SHAPE) -> Batch:
    """Clip i with its text, [1, …]; what it shows follows from the text."""
    text = gaussian((1, 3, WIDTH), "text", i)
    return {
        "x1": gaussian((1, *shape), "clip", i) * 0.2 + text.mean() * 2,
        "encoder_hidden_states": text,
        "encoder_hidden_states_2": gaussian((1, 2, WIDTH), "clip text", i),
        "encoder_attention_mask": torch.ones(1, 5, dtype=torch.int64),
    }


class ToyClips:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __call__(self, i: int) -> Batch:
        return clip(1000 + i)


class ToyFlowSource:
    """Eight samples a step; in the steps of `bad`, the loss of one is multiplied."""

    def __init__(self, bad: dict[int, float]) -> None:
        self.bad = bad

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        return [self._batch(step, rows) for rows in deal(BATCH, rank, ranks, accumulate)]

    def _batch(self, step: int, rows: list[int]) -> Batch:
        clips = [clip(step * BATCH + i) for i in rows]
        factor = torch.tensor([self.bad.get(step, 1.0) if i == 5 else 1.0 for i in rows])
        return {
            **{k: torch.cat([c[k] for c in clips]) for k in clips[0]},
            "x0": torch.cat([gaussian((1, *SHAPE), "noise", step, i) for i in rows]),
            "t": torch.tensor([(i + 0.5) / BATCH for i in rows]),
            "factor": factor,
            "share": len(rows) / BATCH,
            "ids": [f"clip-{step}-{i}" for i in rows],
        }


class ToyFlow(StageModule):
    def __init__(self, steps: int = 12, bad: dict[int, float] | None = None, optim: OptimConfig | None = None) -> None:
        super().__init__(optim or ToyFlowConfig().optim, steps)
        self.net = DiT(CONFIG)
        self.net.init_weights(torch.Generator().manual_seed(0))
        self.source = ToyFlowSource(bad or {})

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        each = flow_loss(self.net, batch) * batch["factor"]
        batch["each"] = each.detach()
        return each.mean(), {}


def flow_context(folder: Path, rank: int = 0, ranks: int = 1, **settings: Any) -> StageContext:
    """A stage's context; `settings` are "guard" or "monitor" configs, and fields of its runtime."""
    config = ToyFlowConfig()
    config.runtime.checkpoint_every, config.runtime.log_every, config.runtime.device = 4, 1, "cpu"
    for name, value in settings.items():
        owner = config if name == "guard" else config.runtime
        assert hasattr(owner, name)
        setattr(owner, name, value)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    sink = NullSink() if rank else JsonlSink(folder / "events.jsonl")
    return StageContext(config, {}, folder / "out", folder / "work", sink, rank, ranks)
