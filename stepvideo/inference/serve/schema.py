"""The bodies of requests. Names are those of `StepVideoPipeline.__call__`; unknown fields are errors."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepvideo.inference.serve.errors import Refused
from stepvideo.inference.serve.limits import Limits

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class VideoRequest(Body):
    """What is left out, the model's own defaults say (`GET /v1/model`)."""

    prompt: str
    negative_prompt: str | None = None
    positive_suffix: str | None = None
    image: str | None = Field(None, description="first frame, for an image-to-video model: base64 of an image file")
    motion_score: float | None = Field(None, ge=0, le=1000, description="2 is stable, 5 usual, 10 to 20 intense")
    height: Count | None = None
    width: Count | None = None
    num_frames: Count | None = None
    num_inference_steps: Count | None = None
    guidance_scale: float | None = Field(None, ge=0, le=1000)
    guidance_schedule: Literal["constant", "diminishing"] | None = None
    time_shift: float | None = Field(None, ge=0.01, le=1000)
    seed: int = Field(0, ge=0, le=2**53 - 1, description="no more than a JSON number holds exactly")
    num_videos_per_prompt: Count = 1
    fps: float = Field(25, ge=0.1, le=240)

    def options(self) -> dict[str, str | int | float]:
        """What was given, without the image."""
        return self.model_dump(exclude={"image"}, exclude_none=True)

    def image_bytes(self) -> bytes:
        """The image file; empty if there is none. A `data:` URL is taken too."""
        if self.image is None:
            return b""
        text = self.image.partition(",")[2] if self.image.startswith("data:") else self.image
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as e:
            raise Refused(f"image is no base64: {e}") from e
        if not data:
            raise Refused("image is empty; leave it out, or give the base64 of an image file")
        return data

    def check(self, limits: Limits) -> None:
        """Raises Refused for what can be told before the request is resolved."""
        for name in ("prompt", "negative_prompt", "positive_suffix"):
            check_text(name, getattr(self, name) or "", limits)
        if self.num_videos_per_prompt > limits.max_videos:
            raise Refused(
                f"num_videos_per_prompt={self.num_videos_per_prompt}: this server makes at most {limits.max_videos}"
            )


class TextRequest(Body):
    prompts: list[str] = Field(min_length=1)
    allow_unk: bool | None = None  # the vocabulary's own policy

    def check(self, limits: Limits) -> None:
        if len(self.prompts) > limits.max_prompts:
            raise Refused(f"{len(self.prompts)} prompts; this server encodes at most {limits.max_prompts} at a time")
        for i, text in enumerate(self.prompts):
            check_text(f"prompts[{i}]", text, limits)


def check_text(name: str, text: str, limits: Limits) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):  # JSON can spell it, UTF-8 and the tokenizers cannot
        raise Refused(f"{name} holds half of a character (a lone surrogate); send it whole")
    if len(text) > limits.max_prompt:
        raise Refused(f"{name} has {len(text)} characters; this server takes at most {limits.max_prompt}")
