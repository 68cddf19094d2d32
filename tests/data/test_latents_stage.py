"""Stage `latents` on real clips with tiny models: buckets, resuming, clips that fail; encoding on the fly agrees."""

from __future__ import annotations

import contextlib
import json
import operator
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clip_catalog import BROKEN, clip_id
from latent_cache import context

from stepvideo import storage
from stepvideo.curation.records import write_table
from stepvideo.data import latents
from stepvideo.data.balance import Pack, Plan
from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.buckets import Bucket
from stepvideo.data.captions import caption_schema
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.data.encoding import encode_pixels
from stepvideo.data.flow_draws import Draws, gaussian
from stepvideo.data.flow_source import FlowSource
from stepvideo.data.frames import cover
from stepvideo.data.latent_cache import LatentCache, LatentSet, vae_digest
from stepvideo.data.loader import step_loader
from stepvideo.data.pixel_set import PixelSet, clip_set, prepare
from stepvideo.data.text_cache import TextCache
from stepvideo.diffusion.config import TimestepConfig
from stepvideo.errors import ArtifactError, ConfigError, Preempted, StepVideoError
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.text_encoders import load_text_encoders

CONFIG = {
    "lengths": [17, 34],
    "resolutions": {"low": ["32x32", "32x64", "64x32"], "high": ["48x48"]},
    "batch_size": 2,
    "text_batch_size": 7,
    "max_failed": 0.1,
    "precision": "32-true",
    "runtime": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def inputs(curated, tiny_models) -> dict[str, Path]:
    return {**curated, "vae": tiny_models, "text": tiny_models}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory) -> Path:
    ctx = context("latents", inputs, CONFIG, tmp_path_factory.mktemp("made"))
    assert latents.run(ctx) == {"videos": 7, "images": 4, "captions": 23, "failed": 1, "unreadable": 0}
    return ctx.out


def test_every_clip_lies_in_its_bucket_as_the_vae_codes_it(made, inputs):
    vae = load_vae(inputs["vae"])
    clips = {c.clip_id: c for c in load_catalog(inputs["curate"])}
    videos, images = LatentSet(made, "video", "low"), LatentSet(made, "image", "low")
    where = {c: b for s in (videos, images) for b in s.buckets for c in s.ids(b)}
    assert where == {
        **{clip_id(0): "17x32x32", clip_id(1): "17x32x64", clip_id(2): "34x64x32", clip_id(4): "34x32x32"},
        **{clip_id(5): "17x32x64", clip_id(7): "17x32x32"},  # c3 is damaged, c6 too short
        **{clip_id("a0"): "1x32x32", clip_id("a1"): "1x64x32", clip_id("a2"): "1x32x32", clip_id("b0"): "1x32x32"},
    }
    for data in (videos, images):
        for i, name in enumerate(data.ids()):
            bucket, clip = Bucket.parse(data.bucket(i)), clips[name]
            frames = read_clip(inputs["curate"], clip, (clip.frames - bucket.frames) // 2, bucket.frames)
            pixels = torch.from_numpy(cover(frames, bucket.height, bucket.width))[None]
            mean = encode_pixels(vae, pixels, "32-true").float().chunk(2, 2)[0]
            expected = data.stats.normalise(mean)[0]
            assert expected.shape == data.shape(str(bucket))
            assert torch.allclose(data.latent(i), expected, atol=0.02, rtol=0.01), name
    assert {b for b in LatentSet(made, "video", "high").buckets} == {"17x48x48", "34x48x48"}


def test_statistics_are_those_of_the_videos(made):
    both = [LatentSet(made, "video", r) for r in ("low", "high")]
    values, weights = [], []
    for data in both:
        for i in range(len(data)):
            x = data.latent(i, gaussian(data.shape(data.bucket(i)), 0, "test", i)).movedim(1, 0).flatten(1)
            values.append(x.sum(1))
            weights.append(x.shape[1])
    assert torch.allclose(torch.stack(values).sum(0) / sum(weights), torch.zeros(4), atol=0.15)


def test_captions_come_back_as_the_encoders_make_them(made, inputs):
    text, encoders = TextCache(made), load_text_encoders(inputs["text"])
    numbers = [0, 3, 20, 8]  # from several shards, and the empty one
    ours, fresh = text.batch(numbers), encoders.encode([text.texts[n] for n in numbers])
    longest = ours["encoder_hidden_states"].shape[1]  # the encoders pad to their whole length
    real = fresh["encoder_attention_mask"][:, text.clip_length :].bool()
    assert longest == real.sum(1).max()
    assert torch.equal(ours["encoder_attention_mask"], fresh["encoder_attention_mask"][:, : text.clip_length + longest])
    assert torch.allclose(ours["encoder_hidden_states_2"], fresh["encoder_hidden_states_2"], atol=0.02, rtol=0.01)
    a, b = ours["encoder_hidden_states"][real[:, :longest]], fresh["encoder_hidden_states"][real]
    assert torch.allclose(a, b, atol=0.02, rtol=0.01)
    clip = LatentSet(made, "video", "low", [clip_id(1)])
    known = load_catalog(inputs["curate"], [clip_id(1)])[0].captions
    assert text.texts[clip.caption(0, 0.0, 0.0, {"short": 1.0})] == known["short"]["en"][0]


def test_settings_name_the_vae_and_a_damaged_clip_is_reported(made, inputs):
    cache = LatentCache(made)
    cache.require(vae=vae_digest(inputs["vae"]), lengths=[17, 34], resolutions={"high": ["48x48"]})
    failed = json.loads((made / "failed.json").read_text())
    assert list(failed) == [clip_id(BROKEN)] and failed[clip_id(BROKEN)].startswith(f"{BROKEN}.mp4 cannot be read")
    assert "runtime" not in cache.settings and cache.settings["seed"] == 0


def test_clips_train_with_the_captions_of_their_stage_and_what_cannot_be_read_is_left_out(inputs, tmp_path):
    """Clip 0 comes without captions, clip 1 with others than the catalog's, clip 2 with words that nobody taught."""
    curate, captions = tmp_path / "curate", tmp_path / "captions"
    shutil.copytree(inputs["curate"], curate)
    rows = pq.read_table(curate / "catalog.parquet").to_pylist()
    rows[0] |= {"captions": "{}", "caption_source": "none"}
    pq.write_table(pa.Table.from_pylist(rows), curate / "catalog.parquet")
    short, dense = (json.loads(rows[6]["captions"])[kind]["en"][0] for kind in ("short", "dense"))
    said = [(0, "rule", "short", short), (1, "vlm", "dense", dense), (2, "rule", "short", "一条龙")]
    made = [dict.fromkeys(caption_schema().names) | {"clip_id": clip_id(i), "source": s} for i, s, *_ in said]
    for row, (_, _, kind, text) in zip(made, said, strict=True):
        row |= {"kind": kind, "language": "en", "text": text, "flags": []}
    write_table(made, caption_schema(), captions / "captions.parquet")
    pq.write_table(pa.table({"clip_id": [clip_id(i) for i in (0, 1, 2)]}), captions / "clips.parquet")
    sources = {**inputs, "curate": curate}
    without = context("latents", sources, CONFIG, tmp_path / "without")
    assert latents.run(without)["videos"] == 6
    ctx = context("latents", {**sources, "captions": captions}, CONFIG, tmp_path / "with")
    metrics = latents.run(ctx)
    assert (metrics["videos"], metrics["unreadable"]) == (6, 1)
    assert json.loads((ctx.out / "unreadable.json").read_text()) == ["一条龙"]
    text, clips = TextCache(ctx.out), LatentSet(ctx.out, "video", "low")
    numbers = {name: [n for k in clips.kinds for n in clips.table[k][i].as_py()] for i, name in enumerate(clips.ids())}
    texts = {name: [text.texts[n] for n in own] for name, own in numbers.items()}
    assert clip_id(2) not in texts
    assert (texts[clip_id(0)], texts[clip_id(1)]) == ([short], [dense])
    assert set(texts[clip_id(4)]) <= set(load_catalog(curate, [clip_id(4)])[0].caption_list())
    batch = FlowSource(clips, None, text, _Alone(clips), Draws(0, TimestepConfig(), {"short": 1.0}, 0.0))
    assert batch.micro_batches(0, 0, 1, 1)[0]["ids"] == [clip_id(0)]


class _Alone:
    """A plan with clip 0 in every step."""

    def __init__(self, clips: LatentSet) -> None:
        bucket = clips.bucket(0)
        self.pack = Pack(bucket, [int(np.flatnonzero(clips.buckets[bucket] == 0)[0])], [])

    def packs(self, step: int) -> list[Pack]:
        return [self.pack]


def test_a_killed_run_continues_to_the_same_bytes(made, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "STATS_ROWS", 3)
    ctx = context("latents", inputs, CONFIG, tmp_path)
    stops = 0
    while not (ctx.out / "cache.json").exists():
        parts = len(list(ctx.work.rglob("*.json")))
        ctx.should_stop = lambda parts=parts: len(list(ctx.work.rglob("*.json"))) > parts + 1  # after two more
        storage.remove(ctx.out)
        ctx.out.mkdir()
        with contextlib.suppress(Preempted):
            latents.run(ctx)
            break
        stops += 1
    assert stops > 3
    assert storage.checksums(ctx.out) == storage.checksums(made)


@pytest.mark.soak
def test_small_shards_hold_the_same(made, inputs, tmp_path, monkeypatch):
    config = {**CONFIG, "shard_mb": 1}
    ctx = context("latents", inputs, config, tmp_path)
    ctx.config.shard_mb = 0.003
    latents.run(ctx)
    assert len(LatentCache(ctx.out).shards.index) > len(LatentCache(made).shards.index)
    one, two = (LatentSet(root, "video", "low") for root in (made, ctx.out))
    assert one.ids() == two.ids() and all(torch.equal(one.latent(i), two.latent(i)) for i in range(len(one)))
    text, small = TextCache(made), TextCache(ctx.out)
    a, b = text.batch(range(23)), small.batch(range(23))
    assert all(torch.equal(a[k], b[k]) for k in a) and small.shard[-1] > 0


def test_too_many_damaged_clips_stop_the_stage(inputs, tmp_path):
    ctx = context("latents", inputs, {**CONFIG, "max_failed": 0.05}, tmp_path)
    with pytest.raises(StepVideoError, match=r"1 of 11 clips cannot be decoded, more than max_failed=0.05: 0+3: 3.mp4"):
        latents.run(ctx)


def test_a_size_that_the_vae_cannot_code_is_refused(inputs, tmp_path):
    config = {**CONFIG, "resolutions": {"low": ["32x40"], "high": ["48x48"]}}
    with pytest.raises(StepVideoError, match="bucket 17x32x40: height and width must be multiples of 16"):
        latents.run(context("latents", inputs, config, tmp_path))
    with pytest.raises(StepVideoError, match="bucket 22x32x32: a video of 22 frames cannot be coded"):
        latents.run(context("latents", inputs, {**CONFIG, "lengths": [22]}, tmp_path / "22"))


def test_latents_made_on_the_fly_equal_cached_ones(made, inputs, tmp_path):
    ctx = context("latents", inputs, {**CONFIG, "on_the_fly": True, "stats_clips": 2}, tmp_path)
    latents.run(ctx)
    assert not list(ctx.out.glob("video_*/*")) and list(ctx.out.glob("text/*"))
    with pytest.raises(ArtifactError, match="on_the_fly=True, this needs on_the_fly=False"):
        LatentSet(ctx.out, "video", "low")
    vae, cached = load_vae(inputs["vae"]), clip_set(LatentCache(made), "video", "low", None)
    assert isinstance(cached, LatentSet)
    pixels = clip_set(LatentCache(ctx.out), "video", "low", inputs["curate"], cached.ids())
    with pytest.raises(ConfigError, match="needs the curated clips and the VAE"):
        clip_set(LatentCache(ctx.out), "video", "low", None)
    for i in range(len(cached)):
        eps = gaussian(cached.shape(cached.bucket(i)), 0, "posterior", i)
        row, sample, failed = pixels.sample(i, eps)
        batch = {"kind": "video", **{k: v[None] for k, v in sample.items()}}
        x1 = prepare(batch, vae, cached.stats, "32-true")["x1"][0]
        assert row == i and not failed and pixels.bucket(i) == cached.bucket(i)
        assert torch.allclose(x1, cached.latent(i, eps), atol=0.02, rtol=0.01)
    assert prepare({"x1": 1}, vae, cached.stats, "32-true") == {"x1": 1}


def test_batches_encoded_on_the_fly_equal_cached_ones(made, inputs):
    """Decoded by a loader process, encoded here: the same clips, draws and captions."""
    vae, text = load_vae(inputs["vae"]), TextCache(made)
    cached, stills = (LatentSet(made, kind, "low") for kind in ("video", "image"))
    ids = cached.ids()
    pixels = PixelSet(made, "video", "low", inputs["curate"], ids), PixelSet(made, "image", "low", inputs["curate"])
    sizes = {b: len(rows) for b, rows in cached.buckets.items()}
    balance = BalanceConfig(packs=2, batch_size=2, video_to_image=1.0)
    plan = Plan({**dict.fromkeys(sizes, 2.0), "1x32x32": 1.0}, sizes, len(stills), balance, 0)
    draws = Draws(0, TimestepConfig(), {"short": 0.5, "dense": 0.5})
    known = step_loader(FlowSource(cached, stills, text, plan, draws), range(3))
    fresh = step_loader(FlowSource(*pixels, text, plan, draws), range(3), workers=1)
    for a, b in zip(known, fresh, strict=True):
        for one, raw in zip(a["micro"], b["micro"], strict=True):
            assert raw["pixels"].dtype == torch.uint8 and "x1" not in raw
            two = prepare(raw, vae, cached.stats, "32-true")
            assert one.keys() == two.keys()
            assert torch.allclose(one["x1"], two["x1"], atol=0.02, rtol=0.01)
            for name in one.keys() - {"x1"}:
                same = torch.equal if isinstance(one[name], torch.Tensor) else operator.eq
                assert same(one[name], two[name]), name


def test_others_stand_in_for_damaged_clips(made, inputs, tmp_path):
    ctx = context("latents", inputs, {**CONFIG, "on_the_fly": True, "max_failed": 0.5, "stats_clips": 1}, tmp_path)
    latents.run(ctx)
    data = PixelSet(ctx.out, "video", "low", inputs["curate"])
    assert data.ids("17x32x32") == [clip_id(i) for i in (0, 3, 7)]
    broken = int(data.buckets["17x32x32"][1])
    row, sample, failed = data.sample(broken, None)
    assert data.id(row) == clip_id(7) and sample["pixels"].shape == (17, 32, 32, 3)
    assert [name for name, _ in failed] == [clip_id(3)] and "3.mp4 cannot be read" in failed[0][1]
    twice = data.weighted({clip_id(3): 3.0})
    assert len(twice) == len(data) + 2
    row, _, again = twice.sample(int(twice.buckets["17x32x32"][1]), None)
    assert twice.id(row) == clip_id(7) and again == failed
    alone = PixelSet(ctx.out, "video", "low", inputs["curate"], [clip_id(3)])
    with pytest.raises(ArtifactError, match="1 clips of bucket 17x32x32 in a row cannot be decoded"):
        alone.sample(0, None)


def test_cover_fills_any_shape():
    video = np.arange(2 * 20 * 30 * 3, dtype=np.uint8).reshape(2, 20, 30, 3)
    for size in ((16, 48), (48, 16), (20, 30), (7, 5)):
        assert cover(video, *size).shape == (2, *size, 3)
    assert cover(video, 20, 30) is video
    assert np.array_equal(cover(video, 20, 10), video[:, :, 10:20])
