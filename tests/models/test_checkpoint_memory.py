"""Peak host memory of reading and writing: never more than the target and a fifth more than the largest shard."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MB = 2**20
SHARD = 48 * MB
PREPARE = """
    import json, sys
    from pathlib import Path
    import torch
    from stepvideo.models import checkpoints
    from stepvideo.models.config import DiTConfig
    from stepvideo.models.dit import DiT

    def peak(kind="VmHWM"):
        return int(Path("/proc/self/status").read_text().split(kind + ":")[1].split()[0]) * 1024

    def measure(job):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak("VmRSS")
        result = job()
        print(json.dumps(peak() - before))
        return result

    root = Path(sys.argv[1])
    cfg = DiTConfig(4, 128, 24, 16, 16, caption_channels=[64, 32])
"""
WRITE = """
    with torch.device("meta"):
        model = DiT(cfg)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.normal_(p)
    measure(lambda: checkpoints.save_dit(model, root, shard_bytes={shard}))
"""
READ = """
    with torch.device("meta"):
        DiT(cfg)  # imports and allocator arenas are no part of it
    checkpoints.NETWORKS["dit"].held(root, cfg)
    model = measure(lambda: checkpoints.load_dit(root, {device!r}, {dtype}))
"""


def run(body: str, root: Path, **values) -> int:
    """Growth of the peak in bytes."""
    code = textwrap.dedent(PREPARE) + textwrap.dedent(body).format(**values)
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, int, int]:
    """A folder of several shards; bytes of all, and by how much writing them grew the peak."""
    root = tmp_path_factory.mktemp("big")
    growth = run(WRITE, root, shard=SHARD)
    files = list((root / "transformer").glob("*.safetensors"))
    assert len(files) >= 4
    return root, sum(f.stat().st_size for f in files), growth


pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure")


def test_writing_takes_no_second_copy(written):
    _, total, growth = written
    assert total > 190 * MB and growth < 1.2 * SHARD


@pytest.mark.parametrize(
    ("device", "dtype", "target"),
    [("cpu", None, 1.0), ("cpu", "torch.float32", 2.0), ("meta", None, 0.0)],
    ids=["host", "host in fp32", "away"],
)
def test_reading_takes_the_target_and_less_than_a_shard(written, device, dtype, target):
    """ "away": each tensor goes to another device as soon as it is read; here to one that keeps nothing."""
    root, total, _ = written
    growth = run(READ, root, device=device, dtype=dtype)
    assert growth <= 1.2 * SHARD + target * total
    assert growth >= target * total * 0.95  # what was measured is the loading
