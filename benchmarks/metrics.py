"""What the automatic metrics cost on a CPU: seconds of one core for a second of 544 × 992 video at 25 fps.

    python benchmarks/metrics.py [--json] [--check]

`--check` fails if the metrics without networks take more than `BAR` together.
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numpy as np

from stepvideo.evaluation.metrics.base import Asked
from stepvideo.evaluation.metrics.registry import metrics_of
from stepvideo.evaluation.metrics.video import Video

HEIGHT, WIDTH, FRAMES, FPS = 544, 992, 50, 25.0
PLAIN = ("flicker", "dynamic_degree", "warp_error", "smoothness", "cuts", "picture")
ASKED = Asked('a sign that reads "hello world"', "en", aux={"attrs": {
    "colour": "red", "shape": "circle", "direction": "left", "size": "large", "count": 1}})  # fmt: skip
BAR = 4.0  # CPU-seconds; the 8.2 s of a released video then take half a minute of a core


def panned() -> np.ndarray:
    """A window that moves over a texture, uint8 [F, H, W, 3]."""
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH + 2 * FRAMES, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    wide = cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([wide[:, 2 * i : 2 * i + WIDTH] for i in range(FRAMES)])


def costs() -> dict[str, float]:
    """CPU-seconds a second of video by metric; the first one that needs flow pays for it."""
    video = Video(panned(), FPS)
    found = {}
    for metric in metrics_of([*PLAIN, "oracle", "written_text"]):
        metric.score(Video(video.frames[:3], FPS), ASKED)  # imports and loads
        start = time.process_time()
        metric.score(video, ASKED)
        found[metric.name] = (time.process_time() - start) / video.seconds
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 above the bar")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    found = costs()
    plain = sum(found[name] for name in PLAIN)
    if args.json:
        print(json.dumps({"cpu_s_a_second": found, "plain": plain, "bar": BAR}))
    else:
        for name, seconds in found.items():
            print(f"{name:15} {seconds:.2f} CPU-s a second of video")
        print(f"without networks {plain:.2f}, bar {BAR}")
    return int(args.check and plain > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
