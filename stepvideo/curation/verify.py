"""Whether a cut file begins and ends with the pictures it should: looked at after the cut, in the file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH = 128  # pixels; pictures are compared at this width, in grey: 4:2:0 blurs colour
FAR = 8.0  # grey levels; what differs more is another picture, however its neighbours fit
CLOSE = 0.25  # grey levels by which a neighbour may fit better: pictures that stand still, and the encoder's noise


class WrongCut(Exception):
    """The file does not hold the frames that it was cut for; the message says what was seen."""


class Ends:
    """The pictures around both ends of a clip of `frames` frames, and their comparison with the file cut from them."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._wanted = {i for end in (0, frames - 1) for i in (end - 1, end, end + 1)}
        self._pictures: dict[int, np.ndarray] = {}

    def add(self, i: int, frame: np.ndarray) -> None:
        """Frame `i` of the clip, uint8 [H, W, 3] BGR; -1 and `frames` are its neighbours in the source."""
        if i in self._wanted:
            self._pictures[i] = _small(frame)

    def check(self, path: Path) -> None:
        """Raises WrongCut unless `path` holds as many frames, and its first and last are those of the source."""
        first, last, count = _ends_of(path)
        if count != self.frames:
            raise WrongCut(f"the file has {count} frames instead of {self.frames}")
        for name, position, seen in (("first", 0, first), ("last", self.frames - 1, last)):
            fit = {i: _apart(seen, p) for i, p in self._pictures.items() if abs(i - position) <= 1}
            best = min(fit, key=lambda i: fit[i])
            if fit[position] > FAR or fit[position] > fit[best] + CLOSE:
                raise WrongCut(
                    f"its {name} picture is {fit[position]:.1f} grey levels from frame {position} of the clip and "
                    f"{fit[best]:.1f} from frame {best}"
                )


def _ends_of(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """First and last frame of a file written here, and how many it has; decodes one frame and half of the last GOP."""
    import av

    try:
        # Opening a file decodes its first frame, to learn what x264's headers say anyway. PyAV's stub has a wrong type.
        with av.open(str(path), stream_options=[{"skip_frame": "all"}]) as container:  # type: ignore
            stream = container.streams.video[0]
            decoder = stream.codec_context
            decoder.thread_count = 1
            keyframe, gop, count = None, [], 0
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                count += 1
                if packet.is_keyframe:
                    keyframe, gop = keyframe or packet, []
                gop.append(packet)
            decoder.skip_frame = "DEFAULT"
            first = [f for p in (keyframe, None) for f in decoder.decode(p)][0]
            decoder.flush_buffers()
            decoder.skip_frame = "NONREF"  # x264 ends with a frame that others may refer to
            last = [f for p in (*gop, None) for f in decoder.decode(p)][-1]
            return (*(_small(f.reformat(format="bgr24", threads=1).to_ndarray()) for f in (first, last)), count)
    except (av.FFmpegError, OSError, IndexError, ValueError) as e:
        raise WrongCut(f"the file cannot be read back: {e}".replace(str(path), path.name)) from e


def _small(frame: np.ndarray) -> np.ndarray:
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    if width <= WIDTH:
        return grey
    return cv2.resize(grey, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float("inf") if a.shape != b.shape else float(np.abs(np.subtract(a, b, dtype=np.int16)).mean())
