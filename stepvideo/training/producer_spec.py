"""The job of a producer, from the stage that it serves; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepvideo.artifact import Store
from stepvideo.config import dump, load
from stepvideo.data.feed_config import FeedConfig, feed_folder
from stepvideo.errors import ConfigError
from stepvideo.stage import StageSpec
from stepvideo.training.config import ProduceConfig

KIND = "produce"


def is_streamed(config: Mapping[str, Any]) -> bool:
    """Whether a stage of this config trains on samples that producers send."""
    return config.get("runtime", {}).get("data") == "streamed"


def feed_config(stage: StageSpec) -> FeedConfig:
    return load(FeedConfig, stage.config["runtime"]["feed"], "runtime.feed")


def meeting_place(stage: StageSpec) -> Path:
    """The folder where a stage meets its producers."""
    return feed_folder(feed_config(stage).folder, Store(stage.store).dir(stage.stage, stage.key) / "work")


def name_there(stage: StageSpec, name: str) -> str:
    """A producer's name where it meets jobs, some of which may have producers of their own."""
    return f"{stage.stage}-{stage.key[:8]}-{name}"


def producer_spec(stage: StageSpec, name: str, code: str) -> StageSpec:
    """What a producer of that name for that stage runs; its threads are the stage's, as rounding may follow them.

    Args:
        code: fingerprint of kind `produce`.

    Raises:
        ConfigError: the stage reads its samples itself.
    """
    if not is_streamed(stage.config):
        raise ConfigError(f"stage {stage.stage} reads its samples itself; run it with latents=streamed")
    runtime = {k: stage.config["runtime"][k] for k in ("threads", "device")}
    config = {"seed": stage.config["seed"], "train": stage.config, "folder": str(meeting_place(stage))}
    config["name"] = name_there(stage, name)
    whole = dump(load(ProduceConfig, {**config, "runtime": runtime}, f"a producer of {stage.stage}"))
    return StageSpec(f"producer.{stage.stage}", KIND, f"{stage.key}-{name}", whole, stage.inputs, stage.store, code)
