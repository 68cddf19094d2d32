"""Sampling and judging batch by batch. A finished batch is a file in the stage's work folder and is not done again."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stepvideo.data.show import enlarge
from stepvideo.data.video_io import write_image, write_video
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import Preempted
from stepvideo.evaluation.config import EvaluateConfig
from stepvideo.evaluation.results import Row, load_rows, write_rows
from stepvideo.inference.repetition import WHOLE, repeated
from stepvideo.stage import StageContext
from stepvideo.world import oracle
from stepvideo.world.attributes import NAMES
from stepvideo.world.captions import Prompt, phrase


@dataclass
class Batches:
    """The samples of one evaluation.

    Attributes:
        asked: the prompts; sample i is of prompt i.
        kept: the samples that are written as video.
        testable: attribute → may its score be reported.
    """

    ctx: StageContext
    cfg: EvaluateConfig
    pipe: Pipeline
    asked: list[Prompt]
    kept: list[int]
    testable: dict[str, bool]

    @property
    def repeats(self) -> dict[str, str]:
        return {run.name: run.repeat for run in self.cfg.extra_runs}

    def finish(self, name: str, sampling: Sampling) -> None:
        """Do what is not done of a run. Raises Preempted between batches, with all finished ones kept."""
        seconds, fresh = 0.0, 0
        for batch in self._parts():
            if not self._file(name, batch, "jsonl").exists():
                if self.ctx.should_stop():
                    raise Preempted
                started = time.perf_counter()
                self._batch(name, sampling, batch)
                seconds, fresh = seconds + time.perf_counter() - started, fresh + len(batch)
            self.ctx.sink.progress(batch.stop, len(self.asked), f"sample ({name})")
        if fresh:
            self.ctx.sink.event("sampled", run=name, samples=fresh, seconds_per_sample=round(seconds / fresh, 4))

    def rows(self, name: str) -> list[Row]:
        """All rows of a finished run, in prompt order."""
        return [r for batch in self._parts() for r in load_rows(self._file(name, batch, "jsonl"))]

    def latents(self, name: str) -> torch.Tensor:
        """End points [n, f, z, h, w] of a finished run, fp16, normalised."""
        return torch.cat([load_file(self._file(name, b, "safetensors"))["latents"] for b in self._parts()])

    def frames(self, name: str, index: int) -> np.ndarray:
        """A kept sample as it was judged, uint8 [t, h, w, 3]."""
        return np.load(self.ctx.work / "runs" / name / f"kept-{index:06d}.npy")

    def _parts(self) -> list[range]:
        size, n = self.cfg.batch_size, len(self.asked)
        return [range(i, min(i + size, n)) for i in range(0, n, size)]

    def _file(self, name: str, batch: range, kind: str) -> Path:
        return self.ctx.work / "runs" / name / f"batch-{batch.start:06d}.{kind}"

    def _batch(self, name: str, sampling: Sampling, batch: range) -> None:
        asked = [self.asked[i] for i in batch]
        texts, seed = [worded(p, self.repeats.get(name, "")) for p in asked], self.cfg.prompt_seed
        done = self.pipe.sample(texts, seed=seed, indices=batch, batch_size=len(batch), **asdict(sampling))
        video = self.pipe.decode(done.latents, self.cfg.decode_batch_size)
        if self.cfg.save_latents:
            save_tensor(self._file(name, batch, "safetensors"), done.latents.half())
        rows = []
        for i, prompt, frames in zip(batch, asked, video, strict=True):
            sample = self._keep(name, i, frames) if i in self.kept else ""
            rows.append(self._judge(name, sampling, done.nfe, i, prompt, frames, sample))
        write_rows(self._file(name, batch, "jsonl"), rows)  # last: it marks the batch as finished

    def _keep(self, name: str, i: int, frames: np.ndarray) -> str:
        """Write a sample for eyes and its exact frames; returns its path in the artifact."""
        still = len(frames) == 1
        path = f"samples/{name}/{i:04d}.{'png' if still else 'mp4'}"
        (self.ctx.work / path).parent.mkdir(parents=True, exist_ok=True)
        if still:
            write_image(self.ctx.work / path, enlarge(frames)[0])
        else:
            write_video(self.ctx.work / path, enlarge(frames), self.cfg.fps, crf=18)
        (self.ctx.work / "runs" / name).mkdir(parents=True, exist_ok=True)
        np.save(self.ctx.work / "runs" / name / f"kept-{i:06d}.npy", frames)
        return path

    def _judge(
        self, name: str, sampling: Sampling, nfe: int, i: int, prompt: Prompt, frames: np.ndarray, sample: str
    ) -> Row:
        reading = oracle.read(frames)
        attrs = prompt.attrs.as_dict()
        return Row(
            run=name,
            index=i,
            text=prompt.text,
            lang=prompt.lang,
            held_out=prompt.held_out,
            attrs=attrs,
            seed=self.cfg.prompt_seed,
            steps=sampling.steps,
            nfe=nfe,
            right={n: bool(v) if self.testable[n] else None for n, v in oracle.score(reading, prompt.attrs).items()},
            reading={n: getattr(reading, n) for n in NAMES},
            soft={n: round(float(reading.soft[n].get(attrs[n], 0.0)), 6) for n in NAMES if attrs[n] is not None},
            steadiness=round(float(reading.details["steadiness"]), 6),
            sample=sample,
        )


def worded(prompt: Prompt, repeat: str) -> str:
    """The text that a model is given: with `repeat`, the prompt or the words of an attribute twice. A still has no
    direction to repeat."""
    if not repeat or (repeat == "direction" and prompt.attrs.direction is None):
        return prompt.text
    return repeated(prompt.text, WHOLE if repeat == "prompt" else phrase(prompt, repeat))


def save_tensor(path: Path, latents: torch.Tensor) -> None:
    """Write {"latents": …} whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    save_file({"latents": latents.contiguous()}, tmp)
    os.replace(tmp, path)
