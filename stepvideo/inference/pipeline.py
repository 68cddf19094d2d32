"""`StepVideoPipeline`: text, or text and an image, to video; called like a diffusers pipeline.

    pipe = StepVideoPipeline.from_pretrained("stepvideo-t2v")
    out = pipe("一名宇航员在月球上跳跃", num_frames=204, seed=7)
    write_video(Path("moon.mp4"), out.frames[0], fps=25)

Shape legend: T frames, H height, W width, f latent frames, z latent channels, h w latent sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from stepvideo.data.video_io import read_image
from stepvideo.diffusion.conditions import FirstFrame, TextFeatures
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import default_sampling
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.build import build, choose_memory, is_url, start_ranks
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.settings import SAMPLING_NAMES, Settings, motion_score_of, resolve, unicode_of
from stepvideo.inference.unseen import unseen_notices
from stepvideo.models.layout import PARTS
from stepvideo.models.text_encoders import Tokenizers, load_tokenizers
from stepvideo.parallel.apply import ParallelContext
from stepvideo.parallel.config import ParallelConfig
from stepvideo.storage import sampled_digest

T = TypeVar("T")
OUTPUT_TYPES = ("np", "pt", "latent")
MAX_SEED = 2**63  # beyond 2^64 noise would repeat


@dataclass
class StepVideoPipelineOutput:
    """Video i was made by settings i; `nfe` network evaluations each."""

    frames: list[Any]  # uint8 [T, H, W, 3] ("np"), float [T, 3, H, W] in [0, 1] ("pt"), latents [f, z, h, w] ("latent")
    settings: list[Settings]
    nfe: int
    notices: list[str] = field(default_factory=list)


class StepVideoPipeline:
    """A whole model. Weights are read when they are first needed.

    Args:
        engine: the networks and how they are placed.
        digest: of the weights, for the metadata of what is generated.
        ranks: that share the work; all make the same calls and get the same results.

    Attributes:
        notices: what people should know of how the model was opened.
        lossy: memory options that change a video slightly; they belong to how it was made.
        tokenizers: of the text encoders; None where these are a service.
    """

    def __init__(self, engine: Pipeline, digest: str = "", ranks: ParallelContext | None = None) -> None:
        self.engine, self.digest, self.ranks = engine, digest, ranks
        self.notices: list[str] = []
        self.tokenizers: Tokenizers | None = None
        self.lossy: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: Path | str,
        *,
        vae: Path | str | None = None,
        text: Path | str | None = None,
        device: str = "auto",
        precision: str = "bf16",
        preset: str = "",
        memory: MemoryConfig | None = None,
        parallel: ParallelConfig | None = None,
        largest: Mapping[str, Any] | None = None,
        embedded: bool = False,
    ) -> StepVideoPipeline:
        """Open a model in the released layout; nothing but configurations is read yet.

        Args:
            model: folder with `transformer/`, and `vae/`, `step_llm/` and `hunyuan_clip/` unless given apart.
            vae, text: folders with these parts, or http addresses of `stepvideo serve`, whose token is in the
                environment as STEPVIDEO_TOKEN. The released Turbo has a transformer only: take the others from the
                base model.
            device: auto (CUDA where there is one) | cpu | cuda | cuda:1 …
            precision: bf16 | fp32. Where bf16 is not native, fp32 is taken.
            preset: t2v | ti2v | turbo: steps, guidance, shift and size as recommended for that released model, in place
                of the defaults that the folder holds (a released folder holds none; t2v or ti2v is seen, Turbo is not).
            memory: how speed is traded for memory; by default the fastest options that fit the device by prediction,
                exact ones if any do.
            parallel: how the ranks of this run (torchrun, or `stepvideo generate --nproc`) share the work.
            largest: fields of `Sampling` of the largest video to come, for that prediction; by default the model's.
            embedded: every call gives `prompt_embeds`, so the text encoders need not be there.

        Raises:
            ArtifactError: names the folder or file that is missing, or the two parts that do not fit each other.
        """
        folders = {"dit": Path(model), "vae": vae or model, "text": None if embedded else text or model}
        local = {role: Path(f) for role, f in folders.items() if f and not is_url(f)}
        _check_folders(local)
        notice = ""
        ranks = start_ranks(parallel, local["dit"], device)
        if memory is None:
            sampling = replace(default_sampling(local["dit"], preset), **(largest or {}))
            memory, notice = choose_memory(**folders, sampling=sampling, device=device, precision=precision)
        engine = build(**folders, device=device, precision=precision, memory=memory, ranks=ranks)
        engine.defaults = default_sampling(local["dit"], preset)
        pipe = cls(
            engine, sampled_digest(folder / part for role, folder in local.items() for part in PARTS[role]), ranks
        )
        pipe.notices = [notice] if notice else []
        pipe.lossy = memory.lossy
        pipe.tokenizers = load_tokenizers(local["text"]) if "text" in local else None
        return pipe

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.ranks is None or self.ranks.is_main

    def agree(self, found: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank: ranks must not each look at files that one of them is about to write."""
        return found() if self.ranks is None else self.ranks.agree(found)

    @property
    def image_to_video(self) -> bool:
        return self.engine.dit.cfg.use_additional_conditions

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image: Path | str | np.ndarray | Any | None = None,
        motion_score: float | None = None,
        negative_prompt: str | None = None,
        positive_suffix: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        time_shift: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int = 0,
        latents: Tensor | None = None,
        prompt_embeds: TextFeatures | None = None,
        batch_size: int = 1,
        output_type: Literal["np", "pt", "latent"] = "np",
        callback_on_step_end: Callable[[int, int], None] | None = None,
    ) -> StepVideoPipelineOutput:
        """Generate videos. What is not given, the model's own defaults say, or else the released ones.

        Args:
            prompt: any text; one or several. Too long ones are cut, with a notice.
            image: first frame of an image-to-video model: a file, uint8 [H, W, 3], or a PIL image; any size.
            motion_score: image-to-video only: 2 is stable, 5 usual and the default, 10 to 20 intense.
            negative_prompt: what to steer away from; the empty text by default.
            positive_suffix: appended to every prompt; the released settings append words of quality.
            height, width: pixels, floored to the model's unit (16); num_frames: floored to whole chunks of 17, with a
                notice. Nothing is cropped afterwards.
            guidance_scale: v_u + scale·(v_c − v_u); 1 is the prompt alone (half the cost), 0 the negative prompt alone.
            guidance_schedule: constant, or diminishing (report Eq. 11, for Turbo).
            num_videos_per_prompt, seed: video j of every prompt starts from the noise of `seed` + j, whatever else is
                generated with it.
            latents: initial noise [n, f, z, h, w] instead, for all prompts × videos.
            prompt_embeds: features of all texts, made before; the text encoders are not used.
            batch_size: videos denoised together.
            callback_on_step_end: called with (steps done, steps in all); what it raises ends the generation.

        Raises:
            StepVideoError: an impossible value, an image where none belongs or none where one does, no image file, a
                result that is not finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise StepVideoError(f"output_type={output_type!r}: choose np, pt or latent")
        plan, notices, picture = self.plan(
            prompt,
            image=image,
            motion_score=motion_score,
            negative_prompt=negative_prompt,
            positive_suffix=positive_suffix,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            time_shift=time_shift,
            num_videos_per_prompt=num_videos_per_prompt,
            seed=seed,
        )
        sampling, negative = plan[0].sampling, plan[0].negative_prompt
        if prompt_embeds is None:
            prompt_embeds = self.encode([text for s in plan for text in s.texts])
            notices += self.text_notices(plan)
        if latents is None:
            latents = torch.cat([self.engine.noise(sampling, s.seed, [0]) for s in plan])
        done = self.engine.sample(
            [s.text for s in plan],
            noise=latents,
            negative=negative,
            features=prompt_embeds,
            image=self._first_frame(picture, plan),
            batch_size=batch_size,
            on_step=callback_on_step_end,
            settings=sampling,
        )
        if not done.latents.isfinite().all():
            raise StepVideoError(
                "the result is not a finite number: damaged weights, or an overflow; try precision fp32, less guidance"
            )
        return StepVideoPipelineOutput(self._frames(done.latents, output_type), plan, done.nfe, notices)

    def plan(
        self,
        prompt: str | Sequence[str],
        *,
        image: Any = None,
        motion_score: float | None = None,
        negative_prompt: str | None = None,
        positive_suffix: str | None = None,
        num_videos_per_prompt: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> tuple[list[Settings], list[str], np.ndarray | None]:
        """What a call with these arguments would make: the settings of each video, notices, and the opened image.

        Raises:
            StepVideoError: what the call would raise before it begins.
        """
        wanted = {SAMPLING_NAMES.get(k, k): v for k, v in options.items()}
        sampling, notices = resolve(self.engine.defaults, self.engine.vae.cfg, self.engine.size_unit, **wanted)
        self.engine.check_image(image is not None)
        picture = None if image is None else open_image(image)
        motion_score = motion_score_of(motion_score, picture is not None)
        if not -MAX_SEED <= seed < MAX_SEED - num_videos_per_prompt:
            raise StepVideoError(f"seed={seed}: give a whole number of 63 bits at most")
        plan = [
            Settings(
                unicode_of(p),
                unicode_of(negative_prompt or ""),
                unicode_of(positive_suffix or ""),
                seed + j,
                sampling,
                "" if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()[:16],
                motion_score,
            )
            for p in ([prompt] if isinstance(prompt, str) else prompt)
            for j in range(num_videos_per_prompt)
        ]
        if not plan:
            raise StepVideoError("there is no video to make; give a prompt, and num_videos_per_prompt of 1 or more")
        return plan, notices, picture

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of all these texts, as `prompt_embeds` takes them (negative prompts count); the encoders run
        once."""
        distinct = list(dict.fromkeys(texts))
        return TextFeatures(distinct, self.engine.encode_prompts(distinct))

    def text_notices(self, plan: Sequence[Settings]) -> list[str]:
        """What people should know of what became of their texts: what was cut, what no token stands for, what was never
        learnt."""
        negative = [text for s in plan for text in s.texts[1:] if text.strip()]  # an empty one is usual
        texts = list(dict.fromkeys([*(s.text for s in plan), *negative]))
        if self.tokenizers is None:
            return []
        return self.tokenizers.notices(texts) + unseen_notices(self.tokenizers, texts)

    def _first_frame(self, picture: np.ndarray | None, plan: Sequence[Settings]) -> FirstFrame | None:
        if picture is None:
            return None
        of_seed = {s.seed: self.engine.encode_image(picture, s.sampling, s.seed) for s in plan}
        return FirstFrame(torch.stack([of_seed[s.seed] for s in plan]), plan[0].motion_score or 0.0)

    def _frames(self, latents: Tensor, output_type: str) -> list[Any]:
        if output_type == "latent":
            return list(latents)
        videos = list(self.engine.decode(latents, batch_size=1))
        return videos if output_type == "np" else [torch.from_numpy(v).movedim(-1, 1) / 255 for v in videos]


def open_image(image: Path | str | np.ndarray | Any) -> np.ndarray:
    """uint8 [H, W, 3] RGB from a file, an array or a PIL image, upright by its EXIF tag.

    Raises:
        ArtifactError: the file cannot be read as an image.
        StepVideoError: an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if hasattr(image, "convert"):  # PIL
        from PIL import ImageOps

        upright: Any = ImageOps.exif_transpose(image)  # pyright: ignore[reportArgumentType]
        image = np.asarray(upright.convert("RGB"))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise StepVideoError(f"an image array must be uint8 [H, W, 3], not {array.dtype} {list(array.shape)}")
    return array


def _check_folders(folders: dict[str, Path]) -> None:
    for role, folder in folders.items():
        for part in PARTS[role]:
            if not (folder / part).is_dir():
                also = "" if role == "dit" else f", or give the folder that has it as `{role}`"
                raise ArtifactError(
                    f"{folder} holds no {part}/; train a model first (make demo), or give the folder of a "
                    f"released one{also}"
                )
