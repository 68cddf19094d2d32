"""Container health: what a file promises against what its decoder gives (§7.1; damaged files must not end silently).

Runs in a worker that can be killed: a decoder may hang, abort or eat the memory on an untrusted file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo.curation.config import HealthConfig
from stepvideo.curation.damage import Damage
from stepvideo.data.video_io import frame_array

if TYPE_CHECKING:
    import av

HDR_TRANSFERS = (16, 18)  # PQ (SMPTE ST 2084) and HLG (ARIB STD-B67), as numbered in ITU-T H.273


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
    bad_packets: int = 0  # refused by the decoder, or flagged by the demuxer
    corrupt_frames: int = 0  # decoded, but flagged by the decoder
    fps: float = 0.0
    width: int = 0  # upright
    height: int = 0
    rotation: int = 0  # degrees, counter-clockwise
    codec: str = ""
    pix_fmt: str = ""
    container: str = ""
    vfr: bool = False
    bits: int = 0  # a sample; 10 and more are reduced to 8 when read
    hdr: bool = False  # PQ or HLG transfer
    audio: str = ""  # codec of the first sound stream; "": silent
    duration: float = 0.0  # seconds that the container promises; 0: it does not say
    last_time: float = 0.0  # seconds at which the last frame is shown, from the first
    keyframes: list[int] = field(default_factory=list)  # frame numbers


class FrameReader:
    """Decodes a file packet by packet; a packet that cannot be decoded is counted and skipped, not the end.

    It never seeks: positions count decoded frames from the file's beginning, where no container can lie. Iterate
    `pictures()` or `frames()` to its end, then read `health` and `unsound()`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.health = Health()
        self._damage = Damage()

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame that can be decoded, upright, uint8 [H, W, 3] BGR. Raises Unfit if there can be none."""
        return (frame_array(picture, "bgr24") for picture in self.pictures())

    def unsound(self) -> list[tuple[int, int]]:
        """Frames [start, end) that damage may have reached, and empty ranges where frames are missing."""
        return self._damage.spans()

    def pictures(self) -> Iterator[av.VideoFrame]:
        """The same frames as the decoder gives them. Raises Unfit if there can be none."""
        import av

        health, damage = Health(), Damage()
        self.health, self._damage = health, damage
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
            first_pts, last_pts, steps = None, None, set()
            for packet in _packets(container, stream):
                if packet is None:
                    health.bad_packets += 1
                    damage.to_the_end()
                else:
                    health.bad_packets += packet.is_corrupt
                    damage.packet(packet.pts, packet.dts, packet.is_corrupt)
                try:
                    decoded = stream.decode(packet)
                except MemoryError:
                    raise
                except (av.FFmpegError, OSError):
                    health.bad_packets += not (packet and packet.is_corrupt)
                    if packet is not None:
                        damage.refused(packet.pts)
                    continue
                for frame in decoded:
                    if frame.pts is not None:
                        if last_pts is not None:
                            steps.add(frame.pts - last_pts)
                        first_pts, last_pts = frame.pts if first_pts is None else first_pts, frame.pts
                    if frame.key_frame:
                        health.keyframes.append(health.frames)
                    health.frames += 1
                    health.corrupt_frames += bool(frame.is_corrupt)
                    damage.frame(frame.pts, bool(frame.key_frame), bool(frame.is_corrupt))
                    health.rotation = round(frame.rotation) % 360
                    sides = (frame.width, frame.height)
                    health.width, health.height = sides[::-1] if health.rotation % 180 else sides
                    yield frame
            if first_pts is not None and last_pts is not None:
                health.last_time = float((last_pts - first_pts) * (stream.time_base or 0))
            # Millisecond clocks (webm) round a constant step up and down by one tick.
            health.vfr = bool(steps) and max(steps) - min(steps) > 1


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """A stream's packets, the empty one at its end included; None, once, where the demuxer cannot go on."""
    import av

    try:
        yield from container.demux(stream)
    except MemoryError:
        raise
    except (av.FFmpegError, OSError):
        yield None  # what the decoder still holds comes out of it all the same


def check(health: Health, config: HealthConfig) -> str:
    """Raises Unfit if the file is not sound enough to cut; with `config.recover` it returns what ails it instead."""
    if health.frames == 0:
        raise Unfit("undecodable", f"no frame could be decoded; {health.bad_packets} bad packets")
    try:
        _judge(health, config)
    except Unfit as e:
        if not config.recover:
            raise
        return str(e)
    return ""


def _judge(health: Health, config: HealthConfig) -> None:
    share = config.min_frame_share if health.exact else config.min_duration_share
    # A refused packet is damage inside the file; what never came is missing from its end.
    present = health.frames + health.bad_packets
    found = f"{health.frames} of {health.expected} frames decoded, {health.bad_packets} bad packets"
    lost = health.expected and present < share * health.expected
    if lost and health.last_time + 1 / max(health.fps, 1.0) < share * health.duration:
        raise Unfit("truncated", found)
    if lost or health.bad_packets > config.max_bad_packets or health.corrupt_frames > config.max_corrupt_frames:
        raise Unfit("damaged", f"{found}, {health.corrupt_frames} frames patched up by the decoder")


def _promises(container: Any, stream: Any, health: Health) -> None:
    """Fill in what the headers say."""
    rate = stream.average_rate or stream.guessed_rate
    health.fps = float(rate or 0)
    health.codec = stream.codec_context.name
    health.pix_fmt = stream.codec_context.pix_fmt or ""
    health.container = container.format.name
    health.bits = max((c.bits for c in stream.codec_context.format.components), default=0) if health.pix_fmt else 0
    health.hdr = stream.codec_context.color_trc in HDR_TRANSFERS
    health.audio = container.streams.audio[0].codec_context.name if container.streams.audio else ""
    if stream.duration:
        health.duration = float(stream.duration * stream.time_base)
    elif container.duration and not container.streams.audio:
        # With sound the container's duration may be that of the sound.
        health.duration = container.duration / 1e6
    if stream.frames:
        health.expected, health.exact = stream.frames, True
        return
    health.expected = round(health.duration * health.fps)


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
