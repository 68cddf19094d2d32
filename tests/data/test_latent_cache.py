"""A latents artifact as training reads it: rows on demand, subsets, buckets, other settings, damage, object stores."""

from __future__ import annotations

import pickle

import pytest
import torch
from latent_cache import CLIPS, Z, fake_cache
from safetensors.torch import load_file

from stepvideo import storage
from stepvideo.data.clips import held_out, lot
from stepvideo.data.latent_cache import LatentCache, LatentSet
from stepvideo.data.shards import OPEN, Shards, hand_over, pack, save
from stepvideo.data.text_cache import TextCache
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two lengths, two aspects."""
    return fake_cache(tmp_path_factory.mktemp("mixed") / "cache", lengths=(17, 34), low=("32x48", "48x32"))


def ids(*numbers):
    return [f"{i:032x}" for i in numbers]


def test_rows_are_those_of_the_shards_normalised(cache):
    data = LatentSet(cache, "video", "high", ids(23, 4, 11))
    assert data.ids() == ids(23, 4, 11) and data.shape() == (3, Z, 3, 3)
    shard = load_file(cache / "video_high" / "17x48x48-00001.safetensors")["moments"]
    mean, logvar = shard[1].float().chunk(2, 1)  # clip 11 is row 1 of the second ten
    assert torch.equal(data.latent(2), mean - 0.5)
    eps = torch.ones_like(mean)
    assert torch.allclose(data.latent(2, eps), mean + torch.exp(0.5 * logvar) - 0.5)


def test_every_clip_is_in_one_bucket(mixed):
    data = LatentSet(mixed, "video", "low", ids(*range(20)), exclude=ids(3, 4))
    assert sorted(data.buckets) == ["17x32x48", "17x48x32", "34x32x48", "34x48x32"]
    assert sorted(i for rows in data.buckets.values() for i in rows) == list(range(18))
    for bucket, rows in data.buckets.items():
        assert {data.bucket(i) for i in rows} == {bucket}
        assert data.ids(bucket) == [data.id(i) for i in rows]
        assert {tuple(data.latent(int(i)).shape) for i in rows} == {data.shape(bucket)}
    assert data.shape("34x48x32") == (6, Z, 3, 2)
    with pytest.raises(ValueError, match="say which one"):
        data.shape()
    assert not set(ids(3, 4)) & set(data.ids())


def test_held_out_clips_are_the_same_in_every_subset(mixed):
    known = ids(*range(2000))
    out = {c for c in known if held_out(c, 0.1)}
    assert 150 < len(out) < 250 and {c for c in known if held_out(c, 0.05)} < out
    assert not any(held_out(c, 0.0) for c in known) and all(held_out(c, 1.0) for c in known)
    for subset in (None, ids(*range(0, 24, 2))):
        train, held = LatentSet(mixed, "video", "low", subset).split(0.3)
        assert train is not None and held is not None
        assert all(held_out(c, 0.3) for c in held.ids()) and not any(held_out(c, 0.3) for c in train.ids())
        assert sorted(train.ids() + held.ids()) == sorted(subset or ids(*range(CLIPS)))
        whole = LatentSet(mixed, "video", "low", held.ids())
        assert all(torch.equal(whole.latent(i), held.latent(i)) for i in range(len(held)))
    assert LatentSet(mixed, "video", "low").split(0.0)[1] is None


def test_a_clip_has_to_be_there(cache):
    with pytest.raises(StepVideoError, match="none of the subset's videos is in the latent cache"):
        LatentSet(cache, "video", "high", ["not there"])
    with pytest.raises(StepVideoError, match="or all are excluded"):
        LatentSet(cache, "image", "low", exclude=ids(*range(CLIPS)))


def test_other_settings_are_refused_with_both_values(cache, tmp_path):
    known = LatentCache(cache)
    known.require(vae="toy", resolutions={"low": ["32x32"]}, lengths=[17])
    with pytest.raises(ArtifactError, match="was made with vae=toy, this needs vae=other"):
        known.require(vae="other")
    with pytest.raises(ArtifactError, match=r"resolutions={'low': \['32x32'\]}, this needs .*64x64"):
        known.require(resolutions={"low": ["64x64"]})
    with pytest.raises(ArtifactError, match=r"lengths=\[17\], this needs lengths=\[17, 34\]"):
        known.require(lengths=[17, 34])
    for name in ("cache.json", "shards.json"):
        (tmp_path / name).write_text((cache / name).read_text())
    storage.write_json(tmp_path / "cache.json", known.settings | {"format": 1})
    with pytest.raises(ArtifactError, match="format=1, this needs format=2"):
        LatentCache(tmp_path)


def test_a_model_of_other_statistics_is_refused(cache, tmp_path):
    stats = {"mean": [0.5] * Z, "std": [1.0] * Z}
    storage.write_json(tmp_path / "transformer" / "latent_stats.json", stats)
    LatentCache(cache).require_model(tmp_path)
    stats["std"][2] = 1.5
    storage.write_json(tmp_path / "transformer" / "latent_stats.json", stats)
    with pytest.raises(ArtifactError, match=r"another std than .* \(channel 2: 1, 1.5\)"):
        LatentCache(cache).require_model(tmp_path)


def test_missing_and_torn_shards_are_found_before_the_first_step(tmp_path):
    cache = fake_cache(tmp_path / "cache")
    data = LatentSet(cache, "video", "low")
    torn = cache / "video_low" / "17x32x32-00001.safetensors"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-100])
    (cache / "image_high" / "1x48x48-00000.safetensors").unlink()
    with pytest.raises(ArtifactError) as error:
        LatentCache(cache)
    assert "image_high/1x48x48-00000.safetensors (missing)" in str(error.value)
    assert f"17x32x32-00001.safetensors ({len(whole) - 100} bytes instead of {len(whole)})" in str(error.value)
    assert "run its stage again" in str(error.value)
    data.latent(0)
    with pytest.raises(ArtifactError, match=r"17x32x32-00001.safetensors cannot be read: .* run its stage again"):
        data.latent(10)


def test_an_object_store_is_read_through_a_local_folder(cache, tmp_path):
    url = "memory://shards/latents"
    storage.upload(cache, url, sorted(storage.checksums(cache)))
    with pytest.raises(ConfigError, match="name a local folder"):
        LatentCache(url)
    remote = LatentCache(url, tmp_path / "local")
    data, here = LatentSet(remote, "video", "low"), LatentSet(cache, "video", "low")
    assert torch.equal(data.latent(12), here.latent(12))
    fetched = [p.name for p in (tmp_path / "local").rglob("*.safetensors")]
    assert fetched == ["17x32x32-00001.safetensors"], "whole shards, and only those that were asked for"
    text, near = TextCache(remote), TextCache(cache)
    assert all(torch.equal(v, near.batch([1, 5])[k]) for k, v in text.batch([1, 5]).items())

    fs = storage.filesystem(url)
    name = "/shards/latents/image_low/1x32x32-00000.safetensors"
    raw = bytearray(fs.cat_file(name))
    raw[-1] ^= 1
    fs.pipe_file(name, bytes(raw))
    with pytest.raises(ArtifactError, match="is damaged: its sha256 is"):
        LatentSet(remote, "image", "low").latent(0)
    fs.rm(name)
    with pytest.raises(ArtifactError, match=r"1x32x32-00000.safetensors \(missing\)"):
        LatentCache(url, tmp_path / "local")
    with pytest.raises(ArtifactError, match="cannot fetch memory://"):
        LatentSet(remote, "image", "low").latent(0)
    assert not [p for p in (tmp_path / "local").rglob("*") if ".tmp-" in p.name]


def test_sets_travel_to_other_processes_without_open_files(mixed):
    data, text = LatentSet(mixed, "video", "low"), TextCache(mixed)
    before, words = data.latent(7), text.batch([3])
    raw = pickle.dumps((data, text))
    assert len(raw) < 30_000
    again, texts = pickle.loads(raw)
    assert torch.equal(again.latent(7), before) and again.buckets.keys() == data.buckets.keys()
    assert all(torch.equal(words[k], v) for k, v in texts.batch([3]).items())


def test_few_files_stay_open(tmp_path):
    names = [f"s-{i:05d}.safetensors" for i in range(OPEN + 20)]
    for i, name in enumerate(names):
        save({"x": torch.tensor([[i], [i + 1]])}, tmp_path / "work" / name)
    (tmp_path / "out").mkdir()
    hand_over(tmp_path / "work", tmp_path / "out", names)
    shards = Shards(tmp_path / "out")
    assert [int(shards.read(n, "x", 1, 2)) for n in names] == list(range(1, OPEN + 21))
    assert len(shards._open) == OPEN and int(shards.read(names[0], "x", 0, 1)) == 0


def test_parts_are_packed_into_shards_of_bounded_size(tmp_path):
    made = []

    def part(i):
        made.append(i)
        return {"x": torch.full((i % 3 + 1, 25), float(i))}, i

    makes = [lambda i=i: part(i) for i in range(10)]
    placed = pack(tmp_path, "a/b", makes, limit=500, after=lambda i: None)
    assert [record for _, record in placed] == list(range(10))
    rows = [
        torch.cat([torch.full((i % 3 + 1,), float(i)) for n, i in placed if n == k]) for k in range(placed[-1][0] + 1)
    ]
    for k, expected in enumerate(rows):
        x = load_file(tmp_path / f"a/b-{k:05d}.safetensors")["x"]
        assert torch.equal(x[:, 0], expected) and x.nbytes < 500 + 300
        assert x.nbytes >= 500 or k == len(rows) - 1
    assert not list(tmp_path.rglob("*.parts/*.safetensors"))
    assert pack(tmp_path, "a/b", makes, 500, lambda i: None) == placed and made == list(range(10)), "made once"
    assert pack(tmp_path, "none", [], 500, lambda i: None) == []


def test_captions_follow_the_probabilities_and_fall_back_to_what_there_is(cache):
    data = LatentSet(cache, "video", "high")
    kinds = {"short": 0.75, "dense": 0.25}
    drawn = [data.caption(5, (i + 0.5) / 100, 0.0, kinds) for i in range(100)]
    assert drawn.count(6) == 75 and drawn.count(1) == 25  # clip 5: short is caption 6, dense caption 1
    assert data.caption(5, 0.99, 0.0, {"title": 0.9, "short": 0.1}) == 6
    with pytest.raises(StepVideoError, match="no caption of kind title"):
        data.caption(5, 0.5, 0.5, {"title": 1.0})


def test_an_epoch_shows_clips_as_often_as_they_weigh(mixed):
    data = LatentSet(mixed, "video", "low")
    assert data.weighted({}) is data
    weights = dict(zip(data.ids(), [0.0, 1.0, 2.0, 4.0] * 6))
    heavy = data.weighted({k: w for k, w in weights.items() if w != 1.0})
    rows = {name: heavy.ids().count(name) for name in data.ids()}
    assert rows == weights and heavy.ids() == sorted(heavy.ids(), key=data.ids().index)
    assert sum(map(len, heavy.buckets.values())) == len(heavy) == sum(weights.values())
    first, last = (heavy.ids().index(ids(3)[0]) + k for k in (0, 3))
    assert torch.equal(heavy.latent(first), data.latent(3)) and torch.equal(heavy.latent(last), data.latent(3))
    assert len(data) == CLIPS


def test_a_weight_between_two_numbers_holds_in_the_mean():
    times = [int(2.25 + lot("weight", name)) for name in ids(*range(4000))]
    assert set(times) == {2, 3} and sum(times) / 4000 == pytest.approx(2.25, abs=0.03)
