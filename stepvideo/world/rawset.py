"""The small raw data set that `data.dvc` versions: what a crawler would bring, with the truth known.

    python -m stepvideo.world.rawset data [--seed 0]

writes `raw/` (videos, still images and `sidecars.jsonl`, format in `sidecar`) and `world.yaml` (the config of the
`render` stage for further training clips). Single shots, hard cuts, fades, dissolves, black borders, a wide frame, a
motionless video, a blurred one, and files broken in five ways. Training combinations only. Sizes are relative to the
picture inside a border.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stepvideo.config import dump, result_part
from stepvideo.errors import ArtifactError
from stepvideo.storage import write_atomic
from stepvideo.world import media, sidecar
from stepvideo.world.attributes import Attrs, train_combinations
from stepvideo.world.config import CodecConfig, RenderConfig
from stepvideo.world.render import Frames, Scene, draw, plan

FPS = 25
SIDE = 96
CODEC = CodecConfig(preset="medium", crf=16)
MIN_STEP = 30  # difference of mean grey level (of 255) across a cut: a cut that nobody could see is no truth
COUNTS = {"single": 48, "cuts": 14, "dissolve": 3, "fade": 3, "border": 2, "wide": 2, "still": 16}
BROKEN_KINDS = ("truncated", "cut-short", "empty", "no-video", "broken-image")

Piece = tuple[Scene, Frames, list[int]]


class RawSet:
    """Draws pieces from one seed and collects files and records."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.rng = np.random.default_rng([seed, 7])
        self.drawn = 0
        self.records: list[dict[str, Any]] = []
        self.combos: list[Attrs] = []

    def attrs(self) -> Attrs:
        """The next training combination, in shuffled rounds."""
        if not self.combos:
            combos = train_combinations()
            self.combos = [combos[i] for i in self.rng.permutation(len(combos))]
        return self.combos.pop()

    def piece(self, frames: int, after: Frames | None = None, still: bool = False, **config: Any) -> Piece:
        """A scene of `frames` frames; after another one, of visibly different brightness."""
        cfg = RenderConfig(size=SIDE, frames=frames, **config)
        a = self.attrs().still() if still else self.attrs()
        while True:
            self.drawn += 1
            seed = [self.seed, 2, self.drawn]
            scene = plan(a, seed, cfg)
            pixels = draw(scene, cfg)
            if after is None or abs(float(pixels[0].mean()) - float(after[-1].mean())) >= MIN_STEP:
                return scene, pixels, seed

    def length(self) -> int:
        """Frames of a shot: enough for a 17-frame window after the curation drops 3 at each end."""
        return int(self.rng.integers(25, 37))

    def add(
        self,
        name: str,
        frames: Frames,
        spans: Sequence[tuple[Piece, int, int]],
        *,
        transitions: Sequence[dict[str, Any]] = (),
        fault: str | None = None,
        damage: Callable[[bytes], bytes] | None = None,
        movflags: str = "",
        codec: CodecConfig = CODEC,
    ) -> None:
        """Write one video (damaged if asked) and its record. `spans`: piece, first frame, end (exclusive)."""
        data = media.encode_mp4(frames, FPS, codec, movflags)
        write_atomic(self.folder / name, damage(data) if damage else data)
        shots = [sidecar.shot(p[0], start, end, p[2], 3) for p, start, end in spans]
        seed = spans[0][0][2]
        self.records.append(
            sidecar.record(name, shots, frames.shape[:3], FPS, seed, transitions=transitions, fault=fault)
        )

    def single(self, name: str, *, n: int = 0, edit: Callable[[Frames], Frames] = lambda f: f, **options: Any) -> None:
        config = {k: options.pop(k) for k in ("still", "drift", "width", "height", "backgrounds") if k in options}
        p = self.piece(n or self.length(), **config)
        self.add(name, edit(p[1]), [(p, 0, len(p[1]))], **options)

    def cuts(self, name: str, shots: int) -> None:
        """Several shots joined by hard cuts."""
        pieces, spans, transitions, at = [], [], [], 0
        for i in range(shots):
            p = self.piece(self.length(), pieces[-1][1] if pieces else None)
            pieces.append(p)
            spans.append((p, at, at + len(p[1])))
            if i:
                transitions.append({"kind": "cut", "start": at, "end": at})
            at += len(p[1])
        self.add(name, np.concatenate([p[1] for p in pieces]), spans, transitions=transitions)

    def blend(self, name: str, kind: str, overlap: int) -> None:
        """Two shots joined by a dissolve (both mixed over `overlap` frames) or a fade through black."""
        first = self.piece(25 + overlap)
        second = self.piece(25 + overlap, first[1])
        ramp = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None, None, None]
        tail, head = first[1][-overlap:].astype(np.float32), second[1][:overlap].astype(np.float32)
        if kind == "dissolve":
            middle = tail * (1 - ramp) + head * ramp
        else:
            middle = np.concatenate([tail * (1 - ramp), head * ramp])
        frames = np.concatenate([first[1][:-overlap], np.rint(middle).astype(np.uint8), second[1][overlap:]])
        a, b = 25, 25 + len(middle)
        self.add(
            name,
            frames,
            [(first, 0, a), (second, b, len(frames))],
            transitions=[{"kind": kind, "start": a, "end": b}],
        )

    def image(self, name: str, fault: str | None = None) -> None:
        p = self.piece(1, still=True)
        media.write_png(self.folder / name, p[1][0])
        if fault:
            data = (self.folder / name).read_bytes()
            write_atomic(self.folder / name, data[: len(data) // 4])
        shots = [sidecar.shot(p[0], 0, 1, p[2], 3)]
        self.records.append(sidecar.record(name, shots, (1, SIDE, SIDE), 0, p[2], fault=fault))


def _letterbox(frames: Frames) -> Frames:
    out = np.zeros((len(frames), SIDE, SIDE, 3), np.uint8)
    top = (SIDE - frames.shape[1]) // 2
    out[:, top : top + frames.shape[1]] = frames
    return out


def _blur(frames: Frames) -> Frames:
    return np.stack([cv2.GaussianBlur(f, (0, 0), 5.0) for f in frames])


def build(out: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Write the whole set below `out`; the same seed gives the same files. Returns the sidecar records.

    Raises:
        ArtifactError: `out/raw` holds something already.
    """
    folder = Path(out) / "raw"
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty; give another folder, or remove it first")
    s = RawSet(folder, seed)
    for i in range(COUNTS["single"]):
        codec = replace(CODEC, pix_fmt="yuv420p") if i % 8 == 7 else CODEC  # a crawl holds both
        s.single(f"single-{i:02d}.mp4", codec=codec)
    for i in range(COUNTS["cuts"]):
        s.cuts(f"cuts-{i:02d}.mp4", 2 + i % 3)
    for kind, overlap in (("dissolve", 10), ("fade", 8)):
        for i in range(COUNTS[kind]):
            s.blend(f"{kind}-{i:02d}.mp4", kind, overlap)
    for i in range(COUNTS["border"]):
        s.single(f"border-{i:02d}.mp4", edit=_letterbox, height=64, width=SIDE, fault="black border")
    for i in range(COUNTS["wide"]):
        s.single(f"wide-{i:02d}.mp4", height=SIDE, width=160)
    s.single("motionless-00.mp4", still=True, drift=0.0, fault="no motion")
    s.single("blurred-00.mp4", edit=_blur, fault="blurred")
    s.single("truncated-00.mp4", fault="truncated", damage=lambda b: b[: len(b) * 6 // 10])
    s.single(
        "cut-short-00.mp4", n=36, fault="cut-short", damage=lambda b: b[: len(b) * 6 // 10],
        movflags="frag_keyframe+empty_moov", codec=replace(CODEC, gop=6),
    )  # fmt: skip
    s.single("empty-00.mp4", fault="empty", damage=lambda b: b"")
    s.single("no-video-00.mp4", fault="no-video", damage=lambda b: b"<html><body>404 Not Found</body></html>\n")
    for i in range(COUNTS["still"]):
        s.image(f"still-{i:02d}.png")
    s.image("broken-image-00.png", fault="broken-image")
    sidecar.write(folder, s.records)
    write_atomic(Path(out) / "world.yaml", _yaml(training_config(seed)))
    return s.records


def training_config(seed: int = 0) -> RenderConfig:
    """The render config that the data version carries for further training clips."""
    return RenderConfig(seed=seed, n_clips=3120, size=64, frames=25, still_fraction=0.25)


def _yaml(cfg: RenderConfig) -> str:
    from omegaconf import OmegaConf

    return "# Further training clips: the `render` stage with this config gives the same files on every machine.\n" + (
        OmegaConf.to_yaml(OmegaConf.create(result_part(dump(cfg))))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the small raw data set.")
    parser.add_argument("out", type=Path, help="folder to write raw/ and world.yaml into")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    records = build(args.out, args.seed)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{len(records)} files, {size / 1e6:.2f} MB, in {args.out}")


if __name__ == "__main__":
    main()
