"""Clips of a cache as validation wants them: always the same latent and caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from stepvideo.data.flow_source import SampleSet
from stepvideo.data.source import Batch
from stepvideo.data.text_cache import TextCache


class HeldOut:
    """`len(clips)` clips, evenly spaced over the set; `clips(i)` is x1 [1, f, z, h, w], the mean of its posterior, with
    its first caption of the most probable kind that it has. `encode` gives clips that come as pixels their latents."""

    def __init__(
        self,
        data: SampleSet,
        size: int,
        most: int,
        text: TextCache,
        captions: Mapping[str, float],
        encode: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        self.data, self.text, self.encode = data, text, encode
        self.rows = np.linspace(0, size - 1, min(size, most)).round().astype(int).tolist()
        self.kinds = sorted(captions, key=lambda kind: -captions[kind])

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, i: int) -> Batch:
        row, tensors, _ = self.data.sample(self.rows[i], None)
        caption = self.data.caption(row, 0.0, 0.0, dict.fromkeys(self.kinds, 1.0))
        x1 = self.encode({name: x[None] for name, x in tensors.items()})["x1"].cpu()
        return {"x1": x1, **self.text.batch([caption])}
