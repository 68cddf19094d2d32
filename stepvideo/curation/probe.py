"""Container health: what a file promises against what its decoder gives (§7.1; damaged files must not end silently).

Runs in a worker that can be killed: a decoder may hang, abort or eat the memory on an untrusted file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.curation.config import HealthConfig
from stepvideo.data.video_io import frame_array


class Unfit(Exception):
    """This file goes to quarantine: `reason` is one word, `detail` says what was measured."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass
class Health:
    """What was found in a file. Counts are of the first video stream."""

    frames: int = 0  # decoded
    expected: int = 0  # promised by the container; 0: it does not say
    exact: bool = False  # `expected` is a count, not duration × rate
    bad_packets: int = 0
    corrupt_frames: int = 0  # decoded, but flagged by the decoder
    fps: float = 0.0
    width: int = 0  # upright
    height: int = 0
    rotation: int = 0  # degrees, counter-clockwise
    codec: str = ""
    pix_fmt: str = ""
    container: str = ""
    vfr: bool = False


class FrameReader:
    """Decodes a file packet by packet; a packet that cannot be decoded is counted and skipped, not the end.

    Iterate `frames()` to its end, then read `health`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.health = Health()

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame that can be decoded, upright, uint8 [H, W, 3] BGR. Raises Unfit if there can be none."""
        import av

        health = self.health = Health()
        try:
            container = av.open(str(self.path))
        except MemoryError:  # PyAV's own is an FFmpegError, too
            raise
        except (av.FFmpegError, OSError) as e:
            raise _unreadable(self.path, e) from e
        with container:
            if not container.streams.video:
                kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
                raise Unfit("no_video", f"no video stream; the file holds {kinds}")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            _promises(container, stream, health)
            last_pts, steps = None, set()
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except (av.FFmpegError, OSError):  # the demuxer cannot go on
                    health.bad_packets += 1
                    break
                try:
                    decoded = packet.decode()
                except MemoryError:
                    raise
                except (av.FFmpegError, OSError):
                    health.bad_packets += 1
                    continue
                for frame in decoded:
                    if frame.pts is not None and last_pts is not None:
                        steps.add(frame.pts - last_pts)
                    last_pts = frame.pts
                    array = frame_array(frame, "bgr24")
                    health.frames += 1
                    health.corrupt_frames += bool(frame.is_corrupt)
                    health.rotation = round(frame.rotation) % 360
                    health.height, health.width = array.shape[:2]
                    yield array
            # Millisecond clocks (webm) round a constant step up and down by one tick.
            health.vfr = bool(steps) and max(steps) - min(steps) > 1


def check(health: Health, config: HealthConfig) -> None:
    """Raises Unfit if the file is not sound enough to cut."""
    if health.frames == 0:
        raise Unfit("undecodable", f"no frame could be decoded; {health.bad_packets} bad packets")
    share = config.min_frame_share if health.exact else config.min_duration_share
    # A refused packet is damage inside the file; what never came is missing from its end.
    present = health.frames + health.bad_packets
    found = f"{health.frames} of {health.expected} frames decoded, {health.bad_packets} bad packets"
    if health.expected and present < share * health.expected:
        raise Unfit("truncated", found)
    if health.bad_packets > config.max_bad_packets or health.corrupt_frames > config.max_corrupt_frames:
        raise Unfit("damaged", f"{found}, {health.corrupt_frames} frames patched up by the decoder")


def _promises(container: Any, stream: Any, health: Health) -> None:
    """Fill in what the headers say."""
    rate = stream.average_rate or stream.guessed_rate
    health.fps = float(rate or 0)
    health.codec = stream.codec_context.name
    health.pix_fmt = stream.codec_context.pix_fmt or ""
    health.container = container.format.name
    if stream.frames:
        health.expected, health.exact = stream.frames, True
        return
    seconds = 0.0
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration and not container.streams.audio:
        # With sound the container's duration may be that of the sound.
        seconds = container.duration / 1e6
    health.expected = round(seconds * health.fps)


def _unreadable(path: Path, error: Exception) -> Unfit:
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return Unfit("empty", "0 bytes")
    missing = _missing_index(path)
    if missing:
        return Unfit("truncated", missing)
    return Unfit("unreadable", f"not a video that FFmpeg can open: {getattr(error, 'strerror', None) or error}")


def _missing_index(path: Path) -> str:
    """Says so if this is an mp4 whose `moov` box never came; empty otherwise."""
    size = path.stat().st_size
    names = []
    with path.open("rb") as f:
        position = 0
        while position + 8 <= size and len(names) < 1000:
            f.seek(position)
            head = f.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1 and len(head) == 16:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:
                length = size - position
            names.append(name)
            if length < 8 or name == b"moov":
                break
            position += length
    if names[:1] == [b"ftyp"] and b"moov" not in names:
        return f"the mp4 index (moov box) is missing; the file ends after {size} bytes, before it was written"
    return ""
