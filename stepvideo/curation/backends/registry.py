"""The class of every backend that `tagging_config.BACKENDS` names."""

from __future__ import annotations

from typing import Any

from stepvideo.curation.backends import Backend


def backend(table: str, name: str) -> type[Backend]:
    """Imported here and by name, so that the fingerprint of the stage covers them."""
    from stepvideo.curation.backends.aesthetic import LAIONAesthetic
    from stepvideo.curation.backends.camera import CameraMotion
    from stepvideo.curation.backends.copies import Signature
    from stepvideo.curation.backends.embedding import ClipEmbedding, SmallEmbedding
    from stepvideo.curation.backends.light import Light
    from stepvideo.curation.backends.nsfw import LAIONNSFW
    from stepvideo.curation.backends.nudenet import NudeNet
    from stepvideo.curation.backends.still import Still
    from stepvideo.curation.backends.text import RapidOCR
    from stepvideo.curation.backends.watermark import EfficientNetWatermark, StaticOverlay

    classes: dict[tuple[str, str], Any] = {
        ("aesthetic", "laion"): LAIONAesthetic,
        ("camera", "flow"): CameraMotion,
        ("copies", "dct"): Signature,
        ("embedding", "clip"): ClipEmbedding,
        ("embedding", "small"): SmallEmbedding,
        ("light", "grey"): Light,
        ("nsfw", "laion"): LAIONNSFW,
        ("nsfw", "nudenet"): NudeNet,
        ("still", "difference"): Still,
        ("text", "rapidocr"): RapidOCR,
        ("watermark", "efficientnet"): EfficientNetWatermark,
        ("watermark", "overlay"): StaticOverlay,
    }
    return classes[table, name]
