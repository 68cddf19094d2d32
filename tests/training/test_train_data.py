"""What a DiT stage refuses of a latent cache before its first step."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from latent_cache import CLIPS, DIT, TRAIN, fake_cache

from stepvideo.config import load
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.training.config import TrainConfig
from stepvideo.training.train_data import TrainData

CONFIG = {**TRAIN, "subset": "s1", "held_out": 0.0}


def opened(inputs, **changes):
    return TrainData.open(load(TrainConfig, {**CONFIG, **changes}), inputs)


@pytest.fixture
def inputs(tmp_path, subsets):
    cache = fake_cache(tmp_path / "cache", lengths=(17, 34), low=("32x48", "48x32"))
    return {"latents": cache, "subsets": subsets}


def test_a_bucket_of_the_cache_without_a_clip_is_named(inputs):
    dit = load(DiTConfig, DIT)
    assert opened(inputs).plan(dit).sizes == dict.fromkeys(("17x32x48", "17x48x32", "34x32x48", "34x48x32"), CLIPS // 4)
    path = inputs["latents"] / "video_low.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter([b != "34x48x32" for b in table["bucket"].to_pylist()]), path)
    with pytest.raises(ConfigError, match="no clip is in bucket 34x48x32 .*17x32x48: 6"):
        opened(inputs).plan(dit)


def test_clips_are_not_encoded_by_another_vae_than_the_caches(inputs, tiny_models):
    settings = inputs["latents"] / "cache.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"on_the_fly": True}))
    with pytest.raises(ArtifactError, match="was made with vae=toy, this needs vae="):
        opened(inputs | {"curate": inputs["subsets"], "vae": tiny_models})


def test_missing_and_torn_shards_are_named_before_the_first_step(inputs, tmp_path):
    torn = tmp_path / "torn"
    shutil.copytree(inputs["latents"], torn)
    shard = torn / "video_low" / "17x32x48-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    (torn / "image_low" / "1x32x48-00000.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"1x32x48-00000.safetensors \(missing\).*17x32x48-00000.* bytes instead"):
        opened(inputs | {"latents": torn})


def test_a_copy_of_the_cache_elsewhere_must_be_one(inputs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(inputs["latents"], copy)
    elsewhere = {"runtime": {"latents_url": str(copy)}}
    assert opened(inputs, **elsewhere).cache.root == str(copy)
    settings = copy / "cache.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"vae": "other"}))
    with pytest.raises(ArtifactError, match=r"copy is not a copy of .*cache.*runtime\.latents_url"):
        opened(inputs, **elsewhere)


def test_images_of_a_set_of_their_own(inputs, tmp_path):
    every = opened(inputs, media="images").images
    few = every.ids()[:3]
    sets = tmp_path / "sets"
    shutil.copytree(inputs["subsets"], sets)
    pq.write_table(pa.table({"clip_id": few}), sets / "images_2.parquet")
    found = opened(inputs | {"subsets": sets}, media="images", images="images_2").images
    assert sorted(found.ids()) == sorted(few)


def test_rare_concepts_are_shown_more_often_and_held_out_clips_once(inputs, tmp_path):
    sets = tmp_path / "sets"
    shutil.copytree(inputs["subsets"], sets)
    plain = opened(inputs, held_out=0.3)
    assert plain.videos is not None and plain.held_out is not None
    every = pq.read_table(sets / "s1.parquet")["clip_id"].to_pylist()
    weights = [3.0 if i % 4 == 0 else 1.0 for i in range(len(every))]  # all of one bucket
    pq.write_table(pa.table({"clip_id": every, "weight": weights}), sets / "s1.parquet")
    found = opened(inputs | {"subsets": sets}, held_out=0.3)
    assert found.videos is not None and found.held_out is not None
    assert found.held_out.ids() == plain.held_out.ids()
    times = dict(zip(every, weights))
    assert Counter(found.videos.ids()) == {i: times[i] for i in plain.videos.ids()}
    plan = found.plan(load(DiTConfig, DIT))
    packs = [pack for step in range(plan.epoch_packs) for pack in plan.packs(step)]
    shown = Counter(found.videos.id(int(found.videos.buckets[p.bucket][v])) for p in packs for v in p.videos)
    assert shown == {i: times[i] for i in plain.videos.ids()}  # one epoch
