"""A graph whose first stage counts as the catalog, so that the gate stands behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

from toy_stages import KINDS as TOYS
from toy_stages import NoiseConfig, noise

from flows.graph import Row
from stepvideo import storage
from stepvideo.stage import StageContext

STAGES = {"clips": "curate", "fit": "toy-fit"}
KINDS = f"{TOYS};curate=toy_gated:clips,toy_gated:ClipsConfig"


@dataclass
class Segment:
    min_frames: int = 17


@dataclass
class ClipsConfig(NoiseConfig):
    segment: Segment = field(default_factory=Segment)


def rows(cfg) -> list[Row]:
    return [Row("clips", "curate"), Row("fit", "toy-fit", {"data": "clips"})]


def clips(ctx: StageContext) -> dict[str, float]:
    about = {"files": 2, "accepted": 1, "quarantined": {"no_video": 1}, "shots": 3, "dropped_shots": 0}
    storage.write_json(ctx.out / "funnel.json", about | {"kinds": {"clip": 3}})
    return noise(ctx)
