"""Configuration of the stage `captions` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import Runtime, StageConfig
from stepvideo.curation.config import HealthConfig
from stepvideo.data.caption_kinds import CAPTION_KINDS, LANGUAGES, SOURCES

FORMATS = ("json_schema", "json_object", "none")


@dataclass
class ModelConfig:
    """The vision-language model that is asked, and how. Without a name no server is asked."""

    name: str = ""  # as its server calls it
    frames: int = 8  # pictures of a clip, evenly spread (§7.1)
    side: int = 512  # longer side of the pictures that are sent, in pixels; smaller ones as they are
    jpeg_quality: int = 85
    hints: bool = True  # tell the model the measured camera motion and the text found
    response_format: str = "json_schema"  # what the server can enforce; answers are checked in any case
    temperature: float = 0.0
    max_tokens: int = 1024
    price_in: float = 0.0  # money for a million tokens of prompts, in any currency
    price_out: float = 0.0  # the same for answers

    def __post_init__(self) -> None:
        if self.response_format not in FORMATS:
            raise ValueError(f"model.response_format={self.response_format!r}: give one of {', '.join(FORMATS)}")
        for name, least in (("frames", 1), ("side", 16), ("max_tokens", 1), ("price_in", 0), ("price_out", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.{name}={getattr(self, name)}: give {least} or more")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"model.jpeg_quality={self.jpeg_quality}: give 1 to 100")


@dataclass
class ChecksConfig:
    """Thresholds of the caption checks; they flag, and remove nothing."""

    grey_below: float = 10.0  # mean saturation, 0 to 255; colour words are doubted below
    colour_above: float = 50.0  # "black and white" is doubted above
    text_match: float = 0.8  # share of a quotation that must be in the text found in the picture
    repeats: int = 5  # a model that says the same of so many clips did not look
    short_words: list[int] = field(default_factory=lambda: [3, 40])  # least and most; Chinese counts characters / 1.5
    dense_words: list[int] = field(default_factory=lambda: [25, 250])
    clip_score: float = 0.15  # lower CLIP Scores are flagged, where a released CLIP gives them


@dataclass
class CaptionsRuntime(Runtime):
    """Where the model is, and how hard to try. The same model at another address gives the same captions."""

    clip: str = ""  # weights of the CLIP that the table `embedding` is from, for CLIP Scores; "": none are made
    url: str = ""  # OpenAI-compatible base, such as http://node7:8000/v1; nothing is sent without it
    key_variable: str = "STEPVIDEO_VLM_KEY"  # environment variable with the API key; it is kept nowhere else
    in_flight: int = 32  # requests at once
    request_timeout_s: float = 120.0
    retries: int = 5  # after the first attempt, for 408, 429, 5xx, lost connections and timeouts
    backoff_s: float = 1.0  # before the first retry; doubled for each further one, and spread by chance
    max_wait_s: float = 300.0  # the longest wait, also where the server's Retry-After asks for more
    max_unanswered: float = 0.05  # share of requests; with more of them the stage fails, to be run again
    give_up_after: int = 8  # requests in a row that failed in spite of their retries: the server is gone

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"runtime.url={self.url!r}: give a base such as http://node7:8000/v1")
        for name, least in (("in_flight", 1), ("retries", 0), ("give_up_after", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"runtime.{name}={getattr(self, name)}: give {least} or more")
        for name in ("request_timeout_s", "backoff_s", "max_wait_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"runtime.{name}={getattr(self, name)}: give seconds > 0")
        if not 0 <= self.max_unanswered <= 1:
            raise ValueError(f"runtime.max_unanswered={self.max_unanswered}: give a share between 0 and 1")


@dataclass
class CaptionsConfig(StageConfig):
    """The `captions` stage: short and dense captions in Chinese and English, and titles (§7.1).

    A source is used only for what the sources before it in `order` do not give.
    """

    order: list[str] = field(default_factory=lambda: list(SOURCES))  # leave one out to do without it
    kinds: list[str] = field(default_factory=lambda: ["short", "dense"])  # asked of model and rules; also: title
    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    model: ModelConfig = field(default_factory=ModelConfig)
    clip_content: str = ""  # digest of the weights at `runtime.clip`, which the key follows
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    health: HealthConfig = field(default_factory=HealthConfig)  # time and memory of a decoder
    runtime: CaptionsRuntime = field(default_factory=CaptionsRuntime)

    def __post_init__(self) -> None:
        for name, known in (("order", SOURCES), ("kinds", CAPTION_KINDS), ("languages", LANGUAGES)):
            given = list(getattr(self, name))
            if not given or len(set(given)) < len(given) or set(given) - set(known):
                raise ValueError(f"{name}={given}: give some of {', '.join(known)}, none twice")
