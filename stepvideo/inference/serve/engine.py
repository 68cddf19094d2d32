"""What the service asks of a model, and the one place where it meets the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from stepvideo.inference.generate import generate
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.inference.requests import Request
from stepvideo.models.config import saved

OnStep = Callable[[int, int], None]

EXAMPLES = (
    "雨后的老街，一位老人撑着油纸伞慢慢走过石板路",
    "清晨的江面上，一叶小舟穿过薄雾，镜头缓缓拉远",
    "A red fox runs through fresh snow at dawn, the camera follows it from the side",
    "Ink drops unfold in clear water, close-up, slow motion",
)
SMALL_WORLD_SIDE = 256  # pixels; models of the procedural world are trained on smaller videos than this


@dataclass(frozen=True)
class Plan:
    """A request, resolved: settings of each video, and what had to change."""

    settings: list[dict[str, Any]]
    notices: list[str]


@dataclass(frozen=True)
class Made:
    """Files beside `stem`: video j and its preview; what was said meanwhile."""

    files: list[Path]
    previews: list[Path]
    notices: list[str]


class Engine(Protocol):
    """A model as the service sees it. `generate` is called from one thread, `plan` from any."""

    def describe(self) -> dict[str, Any]:
        """Facts for people: name, device, precision, image_to_video, defaults, examples …"""
        ...

    def plan(self, options: Mapping[str, Any], image: Path | None) -> Plan:
        """Raises StepVideoError for an impossible request."""
        ...

    def generate(self, options: Mapping[str, Any], image: Path | None, stem: Path, on_step: OnStep) -> Made:
        """Make the videos of a request as `stem`-0.mp4 …; what `on_step` raises ends it."""
        ...


class PipelineEngine:
    """`StepVideoPipeline` behind the protocol.

    Args:
        lineage: names of the weights, for people and for the files' metadata.
    """

    def __init__(self, pipe: StepVideoPipeline, lineage: Mapping[str, str]) -> None:
        self.pipe, self.lineage = pipe, dict(lineage)

    def describe(self) -> dict[str, Any]:
        core = self.pipe.engine
        return {
            "name": self.lineage.get("model", ""),
            "lineage": self.lineage,
            "weights": self.pipe.digest,
            "device": str(core.device),
            "precision": core.precision,
            "notices": self.pipe.notices,
            "image_to_video": self.pipe.image_to_video,
            "size_unit": core.size_unit,
            "frame_unit": core.vae.cfg.frame_len,
            "defaults": asdict(core.defaults),
            "transformer": saved(core.dit.cfg),
            "examples": self._examples(),
        }

    def plan(self, options: Mapping[str, Any], image: Path | None) -> Plan:
        """As the pipeline resolves it, without the networks."""
        own = {k: v for k, v in options.items() if k not in ("prompt", "fps")}
        settings, notices, _ = self.pipe.plan(options["prompt"], image=image, **own)
        return Plan([s.to_dict() for s in settings], notices)

    def generate(self, options: Mapping[str, Any], image: Path | None, stem: Path, on_step: OnStep) -> Made:
        own = {k: v for k, v in options.items() if k not in ("prompt", "fps", "seed", "num_videos_per_prompt")}
        suffix = ".png" if self.plan(options, image).settings[0]["frames"] == 1 else ".mp4"
        wanted = [
            Request(
                options["prompt"],
                stem.with_name(f"{stem.name}-{j}{suffix}"),
                options["seed"] + j,
                str(image or ""),
                own,
            )
            for j in range(options["num_videos_per_prompt"])
        ]
        said: list[str] = []
        generate(
            self.pipe,
            wanted,
            fps=options["fps"],
            preview="png",
            lineage=self.lineage,
            say=said.append,
            on_step=on_step,
        )
        files = [r.out for r in wanted]
        notices = [s for s in said if not s.startswith((f"{stem}-", f"{stem.name}-"))]
        return Made(files, [f.with_suffix(".png") for f in files], notices)

    def _examples(self) -> list[str]:
        defaults = self.pipe.engine.defaults
        if max(defaults.height, defaults.width) > SMALL_WORLD_SIDE:
            return list(EXAMPLES)
        from stepvideo.world.attributes import all_combinations
        from stepvideo.world.captions import prompts

        return [p.text for p in prompts(all_combinations(), 4, seed=0)]
