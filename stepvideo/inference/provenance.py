"""Which weights made a video: a digest that takes milliseconds on 100 GB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLE = 2**20
SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt")


def weights_digest(folders: Iterable[Path]) -> str:
    """16 hex digits from the name, the size, the first and the last MiB of every file of the networks.

    Not a checksum: a change in the middle of a large file escapes it (`stepvideo inspect --deep` reads everything). It
    tells checkpoints apart, also those of one training run.
    """
    h = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in SUFFIXES):
            size = path.stat().st_size
            h.update(f"{path.relative_to(folder)}:{size}:".encode())
            with path.open("rb") as f:
                h.update(f.read(SAMPLE))
                f.seek(max(size - SAMPLE, 0))
                h.update(f.read(SAMPLE))
    return h.hexdigest()[:16]
