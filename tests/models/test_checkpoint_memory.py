"""Peak host memory of reading and writing: never more than the target and a fifth more than the largest shard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peak_memory import MISSING, growth

from stepvideo.models import checkpoints
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT

MB = 2**20
SHARD = 48 * MB
CFG = DiTConfig(4, 128, 24, 16, 16, caption_channels=[64, 32])


def write(root: Path) -> int:
    with torch.device("meta"):
        model = DiT(CFG)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.ones_(p)
    return growth(lambda: checkpoints.save_dit(model, root, shard_bytes=SHARD))


def read(root: Path, device: str, dtype: torch.dtype | None) -> int:
    with torch.device("meta"):
        DiT(CFG)  # imports and allocator arenas are no part of it
    checkpoints.NETWORKS["dit"].held(root, CFG)
    return growth(lambda: checkpoints.load_dit(root, device, dtype))


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory) -> tuple[Path, int, int]:
    """A folder of several shards; bytes of all, and by how much writing them grew the peak."""
    root = tmp_path_factory.mktemp("big")
    (grown,) = ranks(1, write, root)
    files = list((root / "transformer").glob("*.safetensors"))
    assert len(files) >= 4
    return root, sum(f.stat().st_size for f in files), grown


pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_writing_takes_no_second_copy(written):
    _, total, grown = written
    assert total > 190 * MB and grown < 1.2 * SHARD


@pytest.mark.parametrize(
    ("device", "dtype", "target"),
    [("cpu", None, 1.0), ("cpu", torch.float32, 2.0), ("meta", None, 0.0)],
    ids=["host", "host in fp32", "away"],
)
def test_reading_takes_the_target_and_less_than_a_shard(ranks, written, device, dtype, target):
    """ "away": each tensor goes to another device as soon as it is read; here to one that keeps nothing."""
    root, total, _ = written
    (grown,) = ranks(1, read, root, device, dtype)
    assert grown <= 1.2 * SHARD + target * total
    assert grown >= target * total * 0.95  # what was measured is the loading
