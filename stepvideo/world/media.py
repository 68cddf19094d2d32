"""Frames ↔ files: mp4 through libx264 and PNG, with bytes that depend on the frames and the settings only."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np

from stepvideo.errors import ArtifactError
from stepvideo.storage import write_atomic
from stepvideo.world.config import CodecConfig
from stepvideo.world.render import Frames


def encode_mp4(frames: Frames, fps: int, codec: CodecConfig | None = None, movflags: str = "") -> bytes:
    """An mp4 file of uint8 frames [t, h, w, 3], h and w even. `movflags` goes to the muxer (e.g. fragmented files)."""
    codec = codec or CodecConfig()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = codec.pix_fmt
        stream.codec_context.thread_count = 1  # slices of several threads would make the bytes machine dependent
        # mbtree gives different bytes from run to run with this x264 (measured: 11 of 30 clips at preset medium).
        stream.options = {
            "crf": str(codec.crf),
            "preset": codec.preset,
            "g": str(codec.gop),
            "x264-params": "mbtree=0",
        }
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format=codec.pix_fmt, threads=1)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_mp4(path: Path | str) -> Frames:
    """All frames of a video file, uint8 [t, h, w, 3]."""
    with av.open(str(path)) as container:
        frames = [f.reformat(format="rgb24", threads=1).to_ndarray() for f in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8, copy=False)


def write_mp4(path: Path, frames: Frames, fps: int, codec: CodecConfig | None = None) -> None:
    write_atomic(path, encode_mp4(frames, fps, codec))


def write_png(path: Path, image: Frames) -> None:
    """Write an RGB image uint8 [h, w, 3]."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ArtifactError(f"cannot encode {path} as PNG from an array of shape {image.shape}, {image.dtype}")
    write_atomic(path, data.tobytes())


def read_png(path: Path | str) -> Frames:
    """An image uint8 [h, w, 3], RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ArtifactError(f"{path} is missing or no image")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)
