"""What checkpoints remember of a stream of samples."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from stepvideo.data.streamed import StreamedSource
from stepvideo.errors import ConfigError


class Watermark(Callback):
    """In every checkpoint: up to which sample the stream was used. The plan makes it one number for all ranks: each
    sample of an earlier step was used once, and a resumed job asks for those from there on.
    """

    def __init__(self, source: StreamedSource) -> None:
        self.source = source

    @property
    def state_key(self) -> str:
        return "stream"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.module = pl_module

    def state_dict(self) -> dict[str, Any]:
        plan: Any = self.source.plan
        return {"step": self.module.done, "samples": plan.samples(self.module.done), "plan": self.source.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["plan"] != self.source.digest:
            raise ConfigError(
                f"the checkpoint has used {state_dict['samples']} samples of plan {state_dict['plan']}, and this job's "
                f"is {self.source.digest}: its clips or its balance changed; remove the stage's work folder"
            )
