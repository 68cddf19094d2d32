"""What one server takes on; torch-free. The defaults admit the largest released video."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Upper bounds of one request, and of how many wait."""

    max_pixels: int = 768 * 768 * 204  # frames x height x width of a video
    max_steps: int = 200
    max_videos: int = 4  # of one request
    max_prompt: int = 10_000  # characters of a text
    max_prompts: int = 64  # texts of one text-encode request
    max_queue: int = 16  # requests that wait
    max_body: int = 32 << 20  # bytes of a request in JSON
    max_tensors: int = 2 << 30  # bytes of a request in safetensors
    max_image: int = 64_000_000  # pixels of a first frame

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value < 1:
                raise ValueError(f"{f.name}={value}: give 1 or more")
