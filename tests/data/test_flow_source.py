"""Batches of flow matching: the same samples and draws however they are dealt, read by any number of processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_cache import fake_cache

from stepvideo.data.balance import Pack, Plan
from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.flow_draws import Draws, gaussian
from stepvideo.data.flow_source import FlowSource
from stepvideo.data.latent_cache import LatentSet
from stepvideo.data.loader import step_loader
from stepvideo.data.text_cache import EMPTY, TextCache
from stepvideo.diffusion.config import TimestepConfig
from stepvideo.errors import ConfigError, StepVideoError

DRAWS = Draws(0, TimestepConfig(), {"short": 0.6, "dense": 0.4}, drop_captions=0.25)
PER_SAMPLE = ("x0", "x1", "t")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("mixed") / "cache", lengths=(17, 34), low=("32x48", "48x32"))


def source(root: Path, media: str = "joint", draws: Draws = DRAWS) -> FlowSource:
    videos = LatentSet(root, "video", "low") if media != "images" else None
    images = LatentSet(root, "image", "low") if media != "videos" else None
    sizes = {b: len(rows) for b, rows in videos.buckets.items()} if videos else {}
    cost = {b: float(np.prod(videos.shape(b))) for b in sizes} if videos else {}
    cfg = BalanceConfig(packs=4, batch_size=3, image_batch_size=5, video_to_image=1.5 if media == "joint" else 0.0)
    still = {next(iter(images.buckets)): 24.0} if images else {}
    return FlowSource(videos, images, TextCache(root), Plan(cost | still, sizes, len(images or []), cfg, 0), draws)


def samples(batches) -> dict:
    """(kind, bucket, clip) → its tensors and its share, of micro-batches that count."""
    found = {}
    for batch in batches:
        assert batch["x0"].shape == batch["x1"].shape and len(batch["t"]) == len(batch["ids"])
        for i, name in enumerate(batch["ids"] if batch["share"] else []):
            text = batch["encoder_attention_mask"][i].sum()
            key = (batch["kind"], batch["bucket"], name, float(batch["x0"][i].flatten()[0]))
            found[key] = [*(batch[k][i] for k in PER_SAMPLE), text, batch["encoder_hidden_states"][i].sum()]
    return found


@pytest.mark.parametrize("media", ["joint", "videos", "images"])
def test_ranks_and_accumulation_only_deal_the_batch_out(mixed, media):
    data = source(mixed, media)
    for step in range(8):
        whole = samples(data.micro_batches(step, 0, 1, 1))
        assert {kind for kind, *_ in whole} <= {"joint": {"video", "image"}}.get(media, {media[:-1]})
        for ranks, accumulate in ((2, 1), (4, 1), (1, 2), (2, 3)):
            parts = [data.micro_batches(step, r, ranks, accumulate) for r in range(ranks)]
            assert len({len(p) for p in parts}) == 1, "every rank computes equally many"
            every = [b for p in parts for b in p]
            assert sum(b["share"] for b in every) == pytest.approx(1)
            dealt = samples(every)
            assert dealt.keys() == whole.keys()
            for key, values in whole.items():
                assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(values, dealt[key], strict=True))
                assert torch.equal(values[1], dealt[key][1])


def test_an_epoch_has_every_video_once(mixed):
    data = source(mixed, "videos")
    epoch = data.plan.epoch_packs
    seen = [name for step in range(epoch) for b in data.micro_batches(step, 0, 1, 1) for name in b["ids"]]
    assert sorted(seen) == sorted(data.videos.ids() * 4), "four packs a step, so four epochs"


def test_a_rank_without_images_computes_a_dummy_that_does_not_count(mixed):
    data = source(mixed)
    packs = [Pack("17x32x48", [0, 1], [5]), Pack("34x48x32", [2], [])]
    data.plan = type("Fixed", (), {"packs": lambda self, step: packs})()
    a, b = (data.micro_batches(0, r, 2, 1) for r in range(2))
    assert [(m["kind"], m["share"]) for m in a] == [("video", 0.5), ("image", 0.25)]
    assert [(m["kind"], m["share"]) for m in b] == [("video", 0.25), ("image", 0.0)]
    assert b[1]["x1"].shape[0] == 1 and b[1]["x1"].isfinite().all()
    assert a[0]["bucket"] == "17x32x48" and a[0]["ids"] == [
        data.videos.id(i) for i in data.videos.buckets["17x32x48"][:2]
    ]
    assert a[1]["ids"] == [data.images.id(5)]
    assert torch.equal(a[1]["x0"][0], gaussian(a[1]["x0"].shape[1:], 0, "noise", 0, 3)), "images count after all videos"
    with pytest.raises(ConfigError, match="2 packs a step cannot be dealt to 3"):
        data.micro_batches(0, 0, 3, 1)
    data.images = None
    with pytest.raises(ConfigError, match="a kind that is not trained on"):
        data.micro_batches(0, 0, 2, 1)


def test_latents_noise_and_captions_are_what_was_asked_for(mixed):
    data = source(mixed, "videos")
    lengths = [len(data.text.batch([n])["encoder_hidden_states"][0]) for n in range(len(data.text.texts))]
    assert data.text.tokens.tolist() == lengths
    empty, total = data.text.batch([EMPTY])["encoder_hidden_states_2"][0], 0
    for step in range(40):
        (batch,) = data.micro_batches(step, 0, 1, 1)[:1]
        total += sum(torch.equal(c, empty) for c in batch["encoder_hidden_states_2"])
    mean = source(mixed, "videos", Draws(0, TimestepConfig(), {"short": 1.0}, 0.0, sample_posterior=False))
    (batch, *_) = mean.micro_batches(3, 0, 1, 1)
    where = {name: i for i, name in enumerate(mean.videos.ids())}
    for i, name in enumerate(batch["ids"]):
        row = where[name]
        assert torch.equal(batch["x1"][i], mean.videos.latent(row))
        number = mean.videos.caption(row, 0.0, 0.0, {"short": 1.0})
        assert torch.equal(batch["encoder_hidden_states_2"][i], mean.text.batch([number])["encoder_hidden_states_2"][0])
    assert 0 < total < 80


def test_timesteps_are_spread_over_the_whole_step(mixed):
    data = source(mixed, draws=Draws(0, TimestepConfig(law="uniform"), {"short": 1.0}))
    for step in range(5):
        t = torch.cat([b["t"] for r in range(2) for b in data.micro_batches(step, r, 2, 1) if b["share"]])
        slices = (t.double() * len(t)).floor().long().sort().values
        assert slices.tolist() == list(range(len(t)))


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_in_order(mixed, workers):
    data = source(mixed)
    here = list(step_loader(data, range(0, 7), rank=1, ranks=2))
    assert [b["step"] for b in here] == list(range(7))
    before = torch.get_rng_state()
    there = list(step_loader(data, range(3, 7), rank=1, ranks=2, workers=workers))  # as after a restart at step 3
    assert torch.equal(torch.get_rng_state(), before)
    assert len(there) == 4 and equal(here[3:], there)


def test_workers_do_not_run_what_their_parent_does_at_its_exit(mixed, monkeypatch):
    """As Prefect's services register it: run in a forked worker, it fails, and so does the worker."""
    monkeypatch.setattr(threading, "_threading_atexits", [lambda: 1 / 0])
    loader = step_loader(source(mixed), range(0, 2), workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert [b["step"] for b in batches] == [1]
    worker.join()
    assert worker.exitcode == 0


def read_elsewhere(file: Path) -> list[float]:
    data = pickle.loads(file.read_bytes())
    return [float(b["x1"].sum() + b["x0"].sum()) for b in data.micro_batches(5, 0, 2, 2)]


def test_sources_travel_to_fresh_processes(ranks, mixed, tmp_path):
    """What a forkserver does once CUDA is in use: no memory is shared."""
    data = source(mixed)
    raw = pickle.dumps(data)
    assert len(raw) < 60_000
    (tmp_path / "source").write_bytes(raw)
    here = [float(b["x1"].sum() + b["x0"].sum()) for b in data.micro_batches(5, 0, 2, 2)]
    assert ranks(1, read_elsewhere, tmp_path / "source") == [here]


class Broken:
    """Gives plain batches until step 2."""

    def __init__(self, how: str) -> None:
        self.how = how

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int):
        if step == 2 and self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 2 and self.how == "fails":
            raise StepVideoError("shard 7 is gone; copy it again")
        failed = [("c1", "torn")] if self.how == "clips" else []
        return [{"ids": ["c"] * 4, "share": 1.0, "failed": failed}]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_reach_the_trainer_as_they_are(workers):
    with pytest.raises(StepVideoError, match="^shard 7 is gone; copy it again$"):
        list(step_loader(Broken("fails"), range(5), workers=workers))


def test_a_dead_worker_is_a_clear_error():
    done = []
    with pytest.raises(StepVideoError, match=r"a loader process died before step \d+: .*lower runtime.workers"):
        done += list(step_loader(Broken("dies"), range(5), workers=1))


def test_clips_that_fail_are_counted_until_there_are_too_many():
    loader = step_loader(Broken("clips"), range(200), max_failed=0.3)
    assert sum(1 for _ in loader) == 200
    assert (loader.seen, loader.times, loader.failed) == (800, 200, {"c1": "torn"})
    with pytest.raises(
        StepVideoError, match=r"21 of 84 samples could not be decoded, more than max_failed=0.2: c1: torn"
    ):
        list(step_loader(Broken("clips"), range(200), max_failed=0.2))
