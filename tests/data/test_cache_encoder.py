"""Latents and embeddings that are encoded when they are asked for are those of the cache, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from clip_catalog import BROKEN, clip_id
from latent_cache import context

from stepvideo.data import config, encoding, latents
from stepvideo.data.cache_encoder import CacheEncoder
from stepvideo.data.latent_cache import LatentCache, LatentSet
from stepvideo.data.shards import shard_name
from stepvideo.data.text_cache import TextCache
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.text_encoders import load_text_encoders

CONFIG = {
    "resolutions": {"low": ["32x32", "32x64", "64x32"], "high": ["48x48"]},
    "batch_size": 3,
    "text_batch_size": 7,
    "max_failed": 0.1,
    "runtime": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def sources(curated, tiny_models):
    return {**curated, "vae": tiny_models, "text": tiny_models}


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    """(the cache, the index without latents)."""
    found = []
    for on_the_fly in (False, True):
        ctx = context("latents", sources, {**CONFIG, "on_the_fly": on_the_fly}, tmp_path_factory.mktemp("made"))
        latents.run(ctx)
        found.append(LatentCache(ctx.out))
    return found


@pytest.fixture
def asked(made, sources):
    """What encodes when it is asked."""
    with ThreadPoolExecutor(2) as pool:
        vae, text = load_vae(sources["vae"]).requires_grad_(False), load_text_encoders(sources["text"])
        yield CacheEncoder(made[1], sources["curate"], vae, text, pool, 10**9)


def moments(data: LatentSet, i: int) -> torch.Tensor:
    shard = shard_name(f"{data.kind}_{data.resolution}/{data.bucket(i)}", int(data._shard[i]))
    return data.cache.shards.read(shard, "moments", int(data._row[i]), int(data._row[i]) + 1)[0]


@pytest.mark.parametrize("at_once", [None, 2])
def test_every_clip_and_caption_is_the_caches(made, asked, monkeypatch, at_once, sources, tmp_path):
    cached = made[0]
    if at_once:  # as large clips are: few at a time within a batch
        for module in (encoding, config):
            monkeypatch.setattr(module, "clips_at_once", lambda *_: at_once)
        ctx = context("latents", sources, CONFIG, tmp_path / "again")
        latents.run(ctx)
        cached = LatentCache(ctx.out)
    for kind in ("video", "image"):
        for resolution in ("low", "high"):
            data = LatentSet(cached, kind, resolution)
            for i in reversed(range(len(data))):
                assert torch.equal(asked.moments(kind, resolution, data.id(i)), moments(data, i)), data.id(i)
    text = TextCache(cached)
    for number in (22, 0, 8, 7):
        for ours, theirs in zip(asked.embedding(number), (text._read(number, "llm"), text._read(number, "clip"))):
            assert torch.equal(ours, theirs)


def test_a_batch_is_encoded_once_as_long_as_it_is_kept(asked):
    for _ in range(2):
        for name in (0, 4):  # of one bucket and batch
            asked.moments("video", "low", clip_id(name))
    assert asked.batches == 1 and asked.samples == 3
    asked._keep_bytes = 0
    asked.moments("video", "low", clip_id(1))
    asked.moments("video", "low", clip_id(0))
    assert asked.batches == 3


def test_a_clip_that_cannot_be_decoded_is_named_and_its_batch_is_not_lost(asked):
    with pytest.raises(ArtifactError, match=f"{BROKEN}.mp4 cannot be read"):
        asked.moments("video", "low", clip_id(BROKEN))
    assert asked.batches == 1 and asked.moments("video", "low", clip_id(0)).dtype == torch.bfloat16
    assert asked.batches == 1


def test_large_clips_go_one_at_a_time():
    assert config.clips_at_once(17, 544, 992, 17) == 1 and config.clips_at_once(17, 192, 320, 17) == 16
