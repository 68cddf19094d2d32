"""Sharpness, saturation and black borders, by the functions that curation filters with (report §7.1)."""

from __future__ import annotations

from stepvideo.curation import tags
from stepvideo.curation.config import BorderConfig, TagsConfig
from stepvideo.evaluation.metrics.base import LOWER, NEITHER, Asked, Computed
from stepvideo.evaluation.metrics.video import Video

PROFILE_EVERY = 4  # frames between two border profiles


class Picture(Computed):
    """Of eight frames: `sharpness`, the mean variance of the Laplacian at 360 lines (Pech-Pacheco et al. 2000), which
    noise raises as detail does; `saturation`, 0 (grey) to 1. Of every fourth frame: `black_border`, the share of the
    picture that a black border covers."""

    name, version = "picture", "1"
    values = {"sharpness": NEITHER, "saturation": NEITHER, "black_border": LOWER}

    def score(self, video: Video, asked: Asked) -> dict[str, float]:
        found = tags.quality([tags.scores(frame, TagsConfig()) for frame in video.clip.frames])
        border = BorderConfig()
        profiles = (tags.bright_shares(f[..., ::-1], border.limit) for f in video.frames[::PROFILE_EVERY])
        crop = tags.border_crop(profiles, border)
        height, width = video.frames.shape[1:3]
        inside = crop[2] * crop[3] if crop else height * width
        return {
            "sharpness": found["blur_fixed"],
            "saturation": found["saturation_mean"] / 255,
            "black_border": 1 - inside / (height * width),
        }
