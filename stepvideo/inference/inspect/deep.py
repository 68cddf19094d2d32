"""Every tensor read once: checksums, and what is not a number."""

from __future__ import annotations

import hashlib
import sys
import time

import torch
from torch import Tensor

from stepvideo.errors import ArtifactError
from stepvideo.inference.inspect.survey import Survey, networks
from stepvideo.models.tensor_files import read

CLEAR = "\x1b[K"  # the rest of a terminal's line


def look(found: Survey) -> None:
    """Adds to every network's part: the sha256 of each tensor, one of all, and the tensors with NaN or Inf; those are
    problems."""
    total, progress = sum(p.size for p in found.parts), _Progress()
    for (_, network), part in zip(networks(found.root), found.parts):
        if part.problems:
            continue
        held, _ = network.held(found.root, network.config(found.root))
        sums: dict[str, str] = {}
        try:
            for name, tensor in read(held):
                sums[name] = hashlib.sha256(_bytes(tensor)).hexdigest()
                if bad := _not_finite(tensor):
                    part.problems.append(f"{held[name].file.name}: tensor {name} has {bad}")
                progress.add(held[name].nbytes, total)
        except ArtifactError as e:
            part.problems.append(str(e))
        whole = hashlib.sha256("".join(f"{k} {held[k].dtype} {v}\n" for k, v in sorted(sums.items())).encode())
        part.deep = {"sha256": whole.hexdigest(), "tensors": sums}
        found.problems += [f"{part.name}: {problem}" for problem in part.problems]
    progress.end()
    if found.problems:
        found.usable = []


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def _not_finite(tensor: Tensor) -> str:
    if not tensor.is_floating_point():
        return ""
    counts = {"NaN": int(tensor.isnan().sum()), "Inf": int(tensor.isinf().sum())}
    return " and ".join(f"{n} {kind}" for kind, n in counts.items() if n)


class _Progress:
    """A line on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.done, self.start, self.shown = 0, time.monotonic(), 0.0

    def add(self, size: int, total: int) -> None:
        self.done += size
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - self.shown < 0.2 and self.done < total):
            return
        self.shown = now
        left = (now - self.start) * (total - self.done) / max(self.done, 1)
        print(
            f"\r{CLEAR}read {self.done / 1e9:.1f} of {total / 1e9:.1f} GB, {left:.0f} s left ", end="", file=sys.stderr
        )

    def end(self) -> None:
        if self.shown:
            print(f"\r{CLEAR}", end="", file=sys.stderr, flush=True)
