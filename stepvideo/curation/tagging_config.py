"""Configuration of the stage `tags` (torch-free), and every backend there is."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig
from stepvideo.curation.config import HealthConfig, PartsRuntime

BACKENDS: dict[str, tuple[str, ...]] = {  # side table: names of the backends that can fill it
    "aesthetic": ("laion",),
    "camera": ("flow",),
    "copies": ("dct",),
    "embedding": ("clip", "small"),
    "light": ("grey",),
    "nsfw": ("nudenet", "laion"),
    "still": ("difference",),
    "text": ("rapidocr",),
    "watermark": ("overlay", "efficientnet"),
}


OFF = ("aesthetic", "embedding")  # they need weights
HUB = "hub:"  # before OWNER/NAME: weights of the Hugging Face hub


@dataclass
class TaggingRuntime(PartsRuntime):
    """Where weights lie is not part of the key: what they are is (`contents`)."""

    weights: dict[str, str] = field(
        default_factory=lambda: dict.fromkeys(BACKENDS, "")
    )  # side table: folder or file of its backend's weights


@dataclass
class TaggingConfig(StageConfig):
    """The `tags` stage: side tables of the catalog, each from a backend (report §7.1)."""

    backends: dict[str, str] = field(
        default_factory=lambda: {table: "" if table in OFF else names[0] for table, names in BACKENDS.items()}
    )  # side table: backend; "" leaves the table out
    contents: dict[str, str] = field(default_factory=dict)  # side table: digest of its weights, which the key follows
    kinds: list[str] = field(default_factory=lambda: ["clip", "image"])  # rows of the catalog; also: frame
    samples: int = 8  # frames of a clip that single pictures' tags see
    chunk: int = 16  # clips that are done, and kept, together, at most
    health: HealthConfig = field(default_factory=HealthConfig)  # time and memory of a worker
    runtime: TaggingRuntime = field(default_factory=TaggingRuntime)

    def __post_init__(self) -> None:
        for table, name in self.backends.items():
            if table not in BACKENDS:
                raise ValueError(f"backends: no table {table!r}; there are {', '.join(BACKENDS)}")
            if name and name not in BACKENDS[table]:
                raise ValueError(f"backends.{table}={name!r}: give one of {', '.join(BACKENDS[table])}, or '' for none")
        if unknown := sorted({t for t, w in self.runtime.weights.items() if w and not self.backends.get(t)}):
            raise ValueError(
                f"runtime.weights.{unknown[0]}: backends has no table {unknown[0]!r} that they could be for"
            )
        if unknown := sorted(set(self.kinds) - {"clip", "image", "frame"}):
            raise ValueError(f"kinds: {unknown[0]!r} is none of clip, image, frame")
        for name in ("samples", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")
