"""The small world's oracle: does a video show what its prompt says?"""

from __future__ import annotations

from stepvideo.evaluation.metrics.base import HIGHER, Asked, Computed, Null
from stepvideo.evaluation.metrics.video import Video
from stepvideo.world.attributes import NAMES, Attrs
from stepvideo.world.oracle import read, score

PREFIX = "oracle_"


class Oracle(Computed):
    """1 where the oracle reads what was asked for, else 0; `oracle_all` if every attribute is right.

    Rows of the small world have `aux["attrs"]`: colour, shape, direction (None for a still), size, count. A reading is
    worth what the gate of the stage `evaluate` says that the oracle reads right behind the same VAE.
    """

    name, version = "oracle", "1"
    values = {f"{PREFIX}{name}": HIGHER for name in (*NAMES, "all")}
    rates = tuple(values)
    needs = ("prompt",)

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if "attrs" not in asked.aux:
            return Null("not a prompt of the small world: its row has no aux.attrs")
        right = score(read(video.frames), Attrs.from_dict(dict(asked.aux["attrs"])))
        missing = Null("the prompt does not ask for it")
        return {f"{PREFIX}{name}": float(right[name]) if name in right else missing for name in (*NAMES, "all")}
