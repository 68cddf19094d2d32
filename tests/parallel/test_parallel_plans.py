"""Every plan on 2 to 4 ranks gives what one process gives."""

from __future__ import annotations

from math import prod

import parallel_cases as cases
import pytest
import torch

from stepvideo.models.checkpoints import save_dit
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import ParallelConfig

BASE = DiTConfig(4, 16, 3, 4, 4, caption_channels=[12, 8])
SIX_HEADS = DiTConfig(6, 8, 2, 4, 4, caption_channels=[12, 8])
PATCH_2 = DiTConfig(4, 16, 2, 4, 4, patch_size=2, caption_channels=[12, 8])
TI2V = DiTConfig(4, 16, 2, 4, 4, caption_channels=[12, 8], use_additional_conditions=True)
MMDIT = DiTConfig(4, 16, 2, 4, 4, caption_channels=[12, 8], block="mmdit", block_norm="rms_norm")
SPACE_TIME = DiTConfig(4, 16, 2, 4, 4, caption_channels=[12, 8], attention="spatial_temporal")


@pytest.mark.parametrize(
    ("cfg", "plan", "size", "batch"),
    [  # tokens: frames · height · width / patch²
        pytest.param(BASE, ParallelConfig(tensor=2), (2, 3, 2), 1, id="tensor2"),
        pytest.param(BASE, ParallelConfig(tensor=4), (2, 3, 2), 2, id="tensor4", marks=pytest.mark.soak),
        pytest.param(MMDIT, ParallelConfig(tensor=2), (2, 3, 2), 2, id="tensor2-mmdit"),
        pytest.param(SPACE_TIME, ParallelConfig(tensor=2), (2, 3, 2), 2, id="tensor2-spatial-temporal"),
        pytest.param(BASE, ParallelConfig(ulysses=2), (3, 3, 3), 1, id="ulysses2-27-tokens"),
        pytest.param(BASE, ParallelConfig(ulysses=3), (2, 2, 4), 2, id="ulysses3-16-tokens-4-heads"),
        pytest.param(
            SIX_HEADS, ParallelConfig(ulysses=4), (1, 1, 5), 1, id="ulysses4-5-tokens-6-heads", marks=pytest.mark.soak
        ),
        pytest.param(SIX_HEADS, ParallelConfig(ulysses=4), (1, 1, 3), 2, id="ulysses4-fewer-tokens-than-ranks"),
        pytest.param(BASE, ParallelConfig(cfg=2), (2, 2, 2), 4, id="cfg2", marks=pytest.mark.soak),
        pytest.param(BASE, ParallelConfig(cfg=2), (2, 2, 2), 1, id="cfg2-one-sample", marks=pytest.mark.soak),
        pytest.param(BASE, ParallelConfig(cfg=2), (2, 2, 2), 3, id="cfg2-odd-batch"),
        pytest.param(
            BASE, ParallelConfig(tensor=2, ulysses=2), (3, 3, 1), 2, id="tensor2-ulysses2", marks=pytest.mark.soak
        ),
        pytest.param(BASE, ParallelConfig(ulysses=2, cfg=2), (5, 1, 3), 2, id="ulysses2-cfg2"),
        pytest.param(BASE, ParallelConfig(tensor=2, cfg=2), (2, 1, 3), 2, id="tensor2-cfg2", marks=pytest.mark.soak),
        pytest.param(PATCH_2, ParallelConfig(tensor=2, ulysses=2), (3, 2, 6), 2, id="patch2"),
        pytest.param(TI2V, ParallelConfig(tensor=2, ulysses=2), (3, 3, 1), 2, id="ti2v"),
        pytest.param(TI2V, ParallelConfig(ulysses=2, cfg=2), (3, 3, 1), 2, id="ti2v-cfg2"),
    ],
)
def test_forward(ranks, cfg, plan, size, batch) -> None:
    answers = ranks(plan.world_size, cases.forward, cfg, plan, size, batch)
    assert max(gap for gap, _ in answers) < 1e-5, answers
    tokens = prod(size) // cfg.patch_size**2
    repeated = plan.tensor * (plan.cfg if batch % plan.cfg else 1) * (plan.ulysses if tokens < plan.ulysses else 1)
    assert sum(seen for _, seen in answers) == batch * tokens * repeated  # else divided


def test_bf16_weights(ranks) -> None:
    """Shards round as the whole does; only the sums over ranks are rounded once more."""
    for plan, bar in ((ParallelConfig(ulysses=2), 0.01), (ParallelConfig(tensor=2), 0.03)):
        answers = ranks(2, cases.forward, BASE, plan, (3, 3, 3), 1, torch.bfloat16)
        assert max(gap for gap, _ in answers) < bar, answers


@pytest.mark.parametrize(
    "plan",
    [ParallelConfig(ulysses=2, cfg=2), pytest.param(ParallelConfig(tensor=2, ulysses=2), marks=pytest.mark.soak)],
    ids=repr,
)
def test_a_whole_generation(ranks, plan) -> None:
    gaps = ranks(4, cases.guided, BASE, plan, 6)
    assert max(gaps) < 1e-5, gaps


def test_a_rank_holds_its_shards_only(ranks, tmp_path) -> None:
    save_dit(cases.network(BASE), tmp_path)
    for found, held, whole in ranks(2, cases.loaded, tmp_path, ParallelConfig(tensor=2)):
        assert found < 1e-5 and held < 0.75 * whole


@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.soak), pytest.param(3, marks=pytest.mark.soak), 4])
def test_video_by_chunks(ranks, n) -> None:
    """1, 2, 3 and 5 chunks, and a last chunk that is not whole."""
    frames = [17, 34, 51, 85, 34 + 9, 1]
    for gaps in ranks(n, cases.video, frames, ParallelConfig(ulysses=n)):
        assert max(gaps) < 1e-5, gaps


def test_refused(ranks) -> None:
    for said in ranks(3, cases.refused, DiTConfig(2, 16, 1, 4, 4, caption_channels=[8]), ParallelConfig(ulysses=3)):
        assert said.startswith("ConfigError") and "parallel.ulysses=3 exceeds the 2 heads" in said
    for said in ranks(2, cases.refused, BASE, ParallelConfig(tensor=4)):
        assert said.startswith("StepVideoError") and "4 ranks, but 2 were started" in said
    for cfg in (MMDIT, SPACE_TIME):
        for said in ranks(2, cases.refused, cfg, ParallelConfig(ulysses=2)):
            assert "parallel.ulysses=2 divides full attention" in said and "use parallel.tensor" in said


def test_a_hanging_rank_is_not_waited_for_longer_than_the_timeout(ranks) -> None:
    waited, slept = ranks(2, cases.hang, 2.0, 3.0)
    assert "imed out" in waited[0] and waited[1] < 2.9 and slept[0] == ""
