"""One source file → tagged clips. Runs in a pool worker; pure but for the media files it writes.

One decoding pass feeds health, cut detection and border profiles. A second one, from memory when the file is small,
feeds tags and the encoder, clip by clip. Both read from the file's beginning and count frames, so that no container
can shift a cut, and every file that was cut is looked at again (`verify`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.curation import captions as said
from stepvideo.curation import tags
from stepvideo.curation.config import CurateConfig
from stepvideo.curation.probe import FrameReader, Health, Unfit, check
from stepvideo.curation.records import Result, Row, Source, clip_id, file_row, media_name, quarantined, to_json
from stepvideo.curation.segment import CutDetector, Span, trimmed
from stepvideo.curation.verify import Ends, WrongCut
from stepvideo.data.video_io import VideoWriter, frame_array, read_image
from stepvideo.errors import ArtifactError

KEEP_BYTES = 256 << 20  # decoded frames up to this much stay in memory between the passes
PROFILE_EVERY = 4  # frames between two border profiles; they cost half as much as decoding


def process(source: Source, config: CurateConfig, root: Path) -> Result:
    """Clips of one file; their encoded media go below `root`. A file that is not fit ends in quarantine, not here.

    Raises:
        ArtifactError: `root` cannot be written (the file is not to blame).
    """
    if source.error:
        return quarantined(source, "unreadable", source.error)
    try:
        return _image(source, config) if source.kind == "image" else _video(source, config, root)
    except Unfit as e:
        return quarantined(source, e.reason, e.detail)
    except ArtifactError:
        raise
    except MemoryError:
        return quarantined(source, "memory", f"needs more than {config.health.memory_limit_mb} MB to decode")
    except Exception as e:  # one odd file must not stop the others
        # Where the file lies must not get into the artifact: equal content gives equal bytes.
        return quarantined(source, "error", f"{type(e).__name__}: {e}".replace(str(source.path), source.file))


def _video(source: Source, config: CurateConfig, root: Path) -> Result:
    reader = FrameReader(source.path)
    kept: list[Any] | None = []
    kept_bytes = 0
    detector = CutDetector(config.segment)
    profiles: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for i, picture in enumerate(reader.pictures()):
        detector.add(picture)
        if i % PROFILE_EVERY == 0:
            profiles[i] = tags.bright_shares(frame_array(picture, "bgr24"), config.border.limit)
        kept_bytes += sum(plane.buffer_size for plane in picture.planes)
        if kept is not None and kept_bytes > KEEP_BYTES:
            kept = None
        if kept is not None:
            kept.append(picture)
    detector.finish()
    health = reader.health
    measured: Row = {k: v for k, v in asdict(health).items() if k != "exact"}
    measured |= {"cuts": detector.cuts, "transitions": [[t.start, t.end] for t in detector.transitions]}
    try:
        ails = check(health, config.health)
        found = detector.shots(reader.unsound() if ails else ())
        spans = [s for s in (trimmed(shot, config.segment) for shot in found) if s]
        measured |= {"shots": len(found), "clips": 0, "dropped_shots": len(found) - len(spans), "failed_cuts": 0}
        if not spans:
            longest = max((b - a for a, b in found), default=0)
            rule = f"{config.segment.min_frames} frames after {config.segment.trim} are dropped at each end"
            raise Unfit("too_short", f"its longest shot has {longest} frames; a clip needs {rule}")
    except Unfit as e:
        return quarantined(source, e.reason, e.detail, measured)
    crops = [tags.border_crop([profiles[i] for i in range(*s) if i in profiles], config.border) for s in spans]
    second = (frame_array(p, "bgr24") for p in kept) if kept is not None else FrameReader(source.path).frames()
    wrong: list[str] = []
    rows = [r for c in _clips(second, spans, crops, source, health, config, root, wrong) for r in c]
    measured |= {"clips": len(spans) - len(wrong), "failed_cuts": len(wrong)}
    detail = "; ".join([f"recovered, {ails}"] * bool(ails) + wrong)
    if not rows:
        return quarantined(source, "wrong_cut", detail, measured)
    return Result(file_row(source, "accepted", detail=detail, measured=measured), rows)


def _clips(
    frames: Iterable[np.ndarray],
    spans: list[Span],
    crops: list[tags.Box | None],
    source: Source,
    health: Health,
    config: CurateConfig,
    root: Path,
    wrong: list[str],
) -> Iterator[list[Row]]:
    """Rows of every clip, in one pass over the file's frames; clips whose file proves wrong are named in `wrong`."""
    whole = len(spans) == 1 and crops[0] is None and _plays_everywhere(health, source) and config.encode.keep_source
    todo = iter(zip(spans, crops))
    span, crop = next(todo)
    maker: _ClipMaker | None = None
    before: np.ndarray | None = None
    n = 0

    def finished(made: _ClipMaker, after: np.ndarray | None) -> list[Row]:
        try:
            return made.finish(after)
        except WrongCut as e:
            wrong.append(f"frames {made.span[0]} to {made.span[1] - 1} were cut wrongly: {e}")
            return []

    try:
        for n, frame in enumerate(frames):
            if maker and n == span[1]:
                yield finished(maker, frame)
                maker = None
                following = next(todo, None)
                if following is None:
                    return
                span, crop = following
            if n >= span[0]:
                maker = maker or _ClipMaker(source, health, span, crop, config, None if whole else root, before)
                maker.add(frame)
            before = frame
        if maker and n + 1 == span[1]:  # the last clip ends with the file
            made, maker = maker, None
            yield finished(made, None)
            if next(todo, None) is None:
                return
    finally:
        if maker:
            maker.abort()
    raise Unfit("unstable", "the file gave fewer frames when it was read a second time; is it being written to?")


class _ClipMaker:
    """Tags one clip and encodes it (`root` set), or leaves it in the source file (`root` None)."""

    def __init__(
        self,
        source: Source,
        health: Health,
        span: Span,
        crop: tags.Box | None,
        config: CurateConfig,
        root: Path | None,
        before: np.ndarray | None = None,
    ) -> None:
        self.source, self.health, self.span, self.config = source, health, span, config
        self.frames = span[1] - span[0]
        self.id = clip_id("clip", source.sha256, *span)
        chroma444 = "444" in health.pix_fmt
        x, y, width, height = crop or (0, 0, health.width, health.height)
        if root and not chroma444:  # 4:2:0 needs even sides
            width, height = width - width % 2, height - height % 2
        self.box = (x, y, width, height)
        self.cropped = self.box != (0, 0, health.width, health.height)
        self.file = media_name(self.id, ".mp4") if root else media_name(source.sha256[:32], source.path.suffix.lower())
        self.first = 0 if root else span[0]
        self.writer = None
        if root:
            encode = config.encode
            self.writer = VideoWriter(
                root / self.file,
                height,
                width,
                health.fps or 25.0,
                encode.crf,
                "yuv444p" if chroma444 else "yuv420p",
                encode.preset,
            )
        self._sampled = tags.sample_positions(self.frames, config.tags.samples)
        self._stills = tags.sample_positions(self.frames, config.frames_per_clip) if config.frames_per_clip else []
        self._scores: dict[int, tuple[float, float, float]] = {}
        self._motion = tags.MotionMeter(config.tags, self.frames, health.fps)
        self._n = 0
        self._ends = Ends(self.frames)
        if before is not None:
            self._ends.add(-1, self._cropped(before))

    def _cropped(self, frame: np.ndarray) -> np.ndarray:
        x, y, width, height = self.box
        return frame[y : y + height, x : x + width]

    def add(self, frame: np.ndarray) -> None:
        frame = self._cropped(frame)
        self._ends.add(self._n, frame)
        if self._n in self._sampled or self._n in self._stills:
            self._scores[self._n] = tags.scores(frame, self.config.tags)
        self._motion.add(frame)
        if self.writer:
            self.writer.add(frame, "bgr24")
        self._n += 1

    def abort(self) -> None:
        if self.writer:
            self.writer.abort()

    def finish(self, after: np.ndarray | None) -> list[Row]:
        """The clip's row, and those of the single frames taken from it. `after`: the source's next frame.

        Raises:
            WrongCut: the file that was written does not begin or end with the clip's pictures; it is removed.
        """
        if self.writer:
            self.writer.close()
            if after is not None:
                self._ends.add(self.frames, self._cropped(after))
            try:
                self._ends.check(self.writer.path)
            except WrongCut:
                self.writer.path.unlink()
                raise
        quality = tags.quality([self._scores[i] for i in self._sampled])
        clip = self._row("clip", self.id, self.first, self.span) | _tag_columns(quality | self._motion.tags())
        rows = [clip]
        for i in self._stills:
            at = (self.span[0] + i, self.span[0] + i + 1)
            still = self._row("frame", clip_id("frame", self.source.sha256, *at), self.first + i, at)
            quality = tags.quality([self._scores[i]])
            rows.append(still | {"parent": self.id, "fps": 0.0} | _tag_columns(quality | tags.NO_MOTION))
        return rows

    def _row(self, kind: str, name: str, first: int, span: Span) -> Row:
        return {
            "clip_id": name,
            "kind": kind,
            "parent": None,
            "file": self.file,
            "stored": "encoded" if self.writer else "source",
            "first_frame": first,
            "frames": span[1] - span[0],
            "height": self.box[3],
            "width": self.box[2],
            "fps": self.health.fps,
            "crop": None,  # an encoded clip is cropped already, and a clip with a border is always encoded
            **_caption_columns(self.source, self.span, self.config),
            **_source_columns(self.source, span, self.box if self.cropped else None),
        }


def _image(source: Source, config: CurateConfig) -> Result:
    """A still goes the same way as a clip of one frame; it stays in its own file, a crop is part of its row."""
    import cv2

    if source.size == 0:
        raise Unfit("empty", "0 bytes")
    try:
        image = read_image(source.path)[..., ::-1]
    except ArtifactError as e:
        raise Unfit("unreadable", f"not an image that can be decoded ({source.size} bytes)") from e
    except cv2.error as e:
        if e.code == cv2.Error.StsNoMem:
            raise MemoryError from e
        raise
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    measured: Row = {"frames": 1, "width": width, "height": height}
    if min(height, width) < config.min_image_side:
        detail = f"{width}x{height}; the shorter side needs {config.min_image_side} pixels"
        return quarantined(source, "too_small", detail, measured)
    crop = tags.border_crop([tags.bright_shares(image, config.border.limit)], config.border)
    x, y, w, h = crop or (0, 0, width, height)
    quality = tags.quality([tags.scores(image[y : y + h, x : x + w], config.tags)])
    row = {
        "clip_id": clip_id("image", source.sha256, 0, 1),
        "kind": "image",
        "parent": None,
        "file": media_name(source.sha256[:32], source.path.suffix.lower()),
        "stored": "source",
        "first_frame": 0,
        "frames": 1,
        "height": h,
        "width": w,
        "fps": 0.0,
        "crop": list(crop) if crop else None,
        **_caption_columns(source, (0, 1), config),
        **_source_columns(source, (0, 1), crop),
        **_tag_columns(quality | tags.NO_MOTION),
    }
    return Result(file_row(source, "accepted", measured=measured), [row])


def _plays_everywhere(health: Health, source: Source) -> bool:
    """Whether the file can be kept as it came: plain upright 8-bit h264 with a constant rate."""
    plain = health.codec == "h264" and health.pix_fmt in ("yuv420p", "yuvj420p", "yuv444p")
    upright = health.rotation == 0 and not health.vfr and not (health.corrupt_frames or health.bad_packets)
    return plain and upright and source.path.suffix.lower() in (".mp4", ".m4v", ".mov")


def _caption_columns(source: Source, span: Span, config: CurateConfig) -> Row:
    shot, overlap = said.look_up(source.shots, *span, config.min_caption_overlap)
    if shot is not None and shot["captions"]:
        texts, origin = shot["captions"], "sidecar"
    else:
        texts = said.title_from(source.file) if config.title_from_filename and not source.shots else {}
        origin = "filename" if texts else "none"
    return {
        "captions": to_json(texts),
        "caption_source": origin,
        "caption_overlap": overlap if origin == "sidecar" else None,
        "attributes": to_json(shot["attributes"]) if shot and shot["attributes"] else None,
    }


def _source_columns(source: Source, span: Span, crop: tags.Box | None) -> Row:
    return {
        "source_role": source.role,
        "source_file": source.file,
        "source_sha256": source.sha256,
        "source_start": span[0],
        "source_end": span[1],
        "source_crop": list(crop) if crop else None,
    }


def _tag_columns(values: dict[str, float | None]) -> Row:
    return {f"tag_{name}": value for name, value in values.items()}
