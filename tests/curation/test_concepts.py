"""Clusters of clips against known mixtures, balancing against what it promises, and the stage as a whole."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gaussian_mixture import adjusted_rand_index, mixture

from stepvideo import storage
from stepvideo.curation.concepts import outliers, run, weights
from stepvideo.curation.concepts_cells import apportion, cluster, duplicates
from stepvideo.curation.concepts_config import ConceptsConfig
from stepvideo.curation.concepts_kmeans import assign, kmeans, ward_centres
from stepvideo.errors import ArtifactError, Preempted, StepVideoError
from stepvideo.stage import StageContext


def test_kmeans_finds_a_mixture_that_plain_seeding_does_not():
    import faiss

    x, truth = mixture(10_000, 128, 100)
    assert adjusted_rand_index(truth, assign(x, kmeans(x, 100, seed=0))[0]) >= 0.97
    plain = faiss.Kmeans(128, 100, niter=20, spherical=True, seed=0)
    plain.train(x)
    assert adjusted_rand_index(truth, assign(x, plain.centroids)[0]) < 0.95


@pytest.mark.soak
def test_a_hundred_thousand_clips_in_twenty_seconds():
    """The bars of `benchmarks/kmeans.py`, whole."""
    x, truth = mixture(100_000, 512, 1_000)
    start = time.process_time()
    labels, _ = assign(x, kmeans(x, 1_000, seed=0))
    assert time.process_time() - start <= 20
    assert adjusted_rand_index(truth, labels) >= 0.97


def test_rand_index_is_one_for_renamed_and_near_zero_for_unrelated_labels():
    rng = np.random.default_rng(0)
    a = rng.integers(20, size=2000)
    assert adjusted_rand_index(a, rng.permutation(20)[a]) == 1
    assert abs(adjusted_rand_index(a, rng.integers(20, size=2000))) < 0.01


def test_ward_joins_what_scipy_would_at_any_number_of_groups():
    x, truth = mixture(60, 32, 6, noise=0.5)
    found = ward_centres(x, 6)
    assert adjusted_rand_index(truth, assign(x, found)[0]) == 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(ward_centres(x, 60), x)
    same = np.repeat(x[:1], 50, axis=0)  # all distances are equal
    assert ward_centres(same, 7).shape == (7, 32)


def test_kmeans_is_the_same_again_and_refuses_the_impossible():
    x, _ = mixture(500, 16, 10)
    np.testing.assert_array_equal(kmeans(x, 10, seed=3), kmeans(x, 10, seed=3))
    mean = x.sum(0) / np.linalg.norm(x.sum(0))
    np.testing.assert_allclose(kmeans(x, 1, seed=0, sample=500), mean[None], atol=1e-5)
    with pytest.raises(ValueError, match="600 clusters of 500 vectors"):
        kmeans(x, 600, seed=0)


def test_cells_find_the_mixture_too(tmp_path):
    """Concepts that lie in families, as real ones do, so that coarse cells do not cut through them."""
    families, _ = mixture(8, 128, 8, noise=5.0, seed=1)
    own, truth = mixture(4000, 128, 80, noise=0.7)
    x = own + 2 * families[truth % 8]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    config = ConceptsConfig(cell=10)
    found = cluster(x.astype(np.float16), 80, config, tmp_path)
    assert len(list(tmp_path.glob("cell-*.npz"))) == 8
    assert adjusted_rand_index(truth, found.labels) >= 0.97
    counts = np.bincount(found.labels)
    assert counts.min() > 0 and (np.diff(counts) <= 0).all()
    sims = (x * found.centres[found.labels]).sum(1)
    np.testing.assert_allclose(found.sims, sims, atol=2e-3)


@pytest.mark.parametrize(("sizes", "k"), [([10, 30, 60], 10), ([1, 1, 98], 7), ([5, 5], 10), ([3, 1000], 4)])
def test_clusters_are_dealt_to_cells_by_size(sizes, k):
    given = apportion(sizes, k)
    assert sum(given) == k and all(1 <= g <= s for g, s in zip(given, sizes))
    for (g, s), (h, t) in itertools.combinations(zip(given, sizes), 2):
        assert (g - h) * (s - t) >= 0


@pytest.mark.parametrize("pairs", [2**26, 90])
def test_near_duplicates_name_the_first_that_is_kept(pairs):
    x, _ = mixture(30, 64, 30, noise=5.0)
    again = x[[4, 9, 4]] + np.float32(0.005)
    all_of_them = np.concatenate([x, again / np.linalg.norm(again, axis=1, keepdims=True)])
    found = duplicates(all_of_them, 0.98, pairs)
    assert found[-3:].tolist() == [4, 9, 4] and (found[:-3] == -1).all()


def test_a_chain_of_near_duplicates_keeps_one_of_each_that_differ():
    angles = np.radians([0, 8, 16, 24])  # cos 8° = .990, cos 16° = .961
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert duplicates(x, 0.98).tolist() == [-1, 0, -1, 2]


def test_outliers_are_far_from_a_centre_that_others_are_near_to():
    labels = np.repeat([0, 1], [20, 3])
    distances = np.concatenate([np.linspace(0.1, 0.2, 19), [0.6], [0.1, 0.1, 0.7]])
    assert np.flatnonzero(outliers(labels, distances, ConceptsConfig())).tolist() == [19]
    assert np.flatnonzero(outliers(labels, distances, ConceptsConfig(max_distance=0.65))).tolist() == [19, 22]
    assert not outliers(labels, distances, ConceptsConfig(outlier_mads=0)).any()


def test_rare_concepts_weigh_more_and_clips_that_are_left_out_nothing():
    labels = np.repeat([0, 1, 2], [64, 16, 1])
    kept = np.ones(81, bool)
    kept[:4] = False
    found = weights(labels, kept, ConceptsConfig(rare_power=0.5, max_weight=4))
    assert (found[:4] == 0).all() and (found[4:64] == 1).all()
    np.testing.assert_allclose(found[64:80], np.sqrt(60 / 16))
    assert found[80] == 4
    assert (weights(labels, kept, ConceptsConfig(rare_power=0))[4:] == 1).all()
    assert not weights(labels, np.zeros(81, bool), ConceptsConfig()).any()


def write_embeddings(folder, x, ids, absent=""):
    (folder / "tables").mkdir(parents=True)
    column = pa.array([None if v is None else list(map(float, v)) for v in x], pa.list_(pa.float32()))
    schema = pa.schema([("clip_id", pa.string()), ("embedding", column.type)], metadata={"absent": absent})
    pq.write_table(pa.table([pa.array(ids, pa.string()), column], schema=schema), folder / "tables/embedding.parquet")
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """400 clips of 20 concepts, one of them twice, one without an embedding, one that is like no other."""
    x, truth = mixture(400, 64, 20, noise=0.6)
    rows = [*x, x[7] + 1e-4, None, -x[3]]
    ids = [f"{i:032x}" for i in range(len(rows))]
    return write_embeddings(tmp_path_factory.mktemp("tags"), rows, ids), ids, truth


def context(tables, out, **config):
    out.mkdir(parents=True)
    config = {"clusters": 20, "cell": 10, "min_clips": 8, **config}
    return StageContext(ConceptsConfig(**config), {"tables": tables}, out / "out", out / "work")


def finished(ctx):
    ctx.out.mkdir(exist_ok=True)
    return run(ctx)


def test_every_clip_has_its_cluster_its_count_and_its_similarity(tables, tmp_path):
    folder, ids, truth = tables
    ctx = context(folder, tmp_path / "a", cell=1024)
    metrics = finished(ctx)
    table = pq.read_table(ctx.out / "concepts.parquet").to_pydict()
    assert table["clip_id"] == ids
    assert adjusted_rand_index(truth, np.array(table["cluster"][:400])) >= 0.97
    assert table["duplicate_of"][400] == ids[7] and table["weight"][400] == 0
    assert table["weight"][402] == 0 and table["duplicate_of"][402] is None  # an outlier
    unknown = [table[name][401] for name in ("cluster", "cluster_cnt", "center_sim", "duplicate_of", "weight")]
    assert unknown == [None, None, None, None, 1.0]
    known = [c for c in table["cluster"] if c is not None]
    assert all(n == known.count(c) for c, n in zip(table["cluster"], table["cluster_cnt"]) if c is not None)
    centres = np.load(ctx.out / "centres.npy")
    x, _ = mixture(400, 64, 20, noise=0.6)
    expected = (x * centres[table["cluster"][:400]]).sum(1)
    np.testing.assert_allclose(table["center_sim"][:400], expected, atol=2e-3)
    said = storage.read_json(ctx.out / "clusters.json")
    assert sum(c["clips"] for c in said["each"]) == 402 == said["clips"]
    for number, each in enumerate(said["each"]):
        own = [i for i, c in enumerate(table["cluster"]) if c == number]
        assert each["nearest"] == ids[max(own, key=lambda i: table["center_sim"][i])]
        assert each["kept"] == sum(table["weight"][i] > 0 for i in own)
    assert metrics["clips"] == 403 and metrics["without_embedding"] == 1 and metrics["duplicates"] == 1
    assert metrics["kept"] == sum(w > 0 for w in table["weight"]) - 1


def test_equal_bytes_whether_it_was_interrupted_or_not(tables, tmp_path):
    whole = context(tables[0], tmp_path / "whole")
    finished(whole)
    halves = context(tables[0], tmp_path / "halves")
    halves.stop = threading.Event()
    halves.stop.set()
    attempts = 0
    while attempts < 10:
        attempts += 1
        try:
            finished(halves)
            break
        except Preempted:
            finished_cells = len(list((halves.work / "cells").glob("cell-*.npz")))
            assert finished_cells == 1 and not any(halves.out.iterdir())
            halves.stop.clear()
    assert attempts == 2
    names = sorted(p.name for p in whole.out.iterdir())
    assert names == ["centres.npy", "clusters.json", "concepts.parquet"]
    for name in names:
        assert (whole.out / name).read_bytes() == (halves.out / name).read_bytes(), name


def test_few_clips_give_few_clusters(tmp_path):
    x, _ = mixture(20, 16, 3)
    ctx = context(write_embeddings(tmp_path / "t", x, [str(i) for i in range(20)]), tmp_path / "a", clusters=120_000)
    assert finished(ctx)["clusters"] == 2
    one = context(write_embeddings(tmp_path / "u", x[:1], ["a"]), tmp_path / "b")
    assert finished(one) | {"clusters": 1.0, "kept": 1.0} == finished(one)


def test_embeddings_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="0 of the inputs tables hold tables/embedding.parquet"):
        finished(context(tmp_path, tmp_path / "a"))
    nothing = write_embeddings(tmp_path / "n", [None, None], ["a", "b"], "no weights were given")
    with pytest.raises(StepVideoError, match="no clip has an embedding \\(no weights were given\\)"):
        finished(context(nothing, tmp_path / "b"))
    for i, bad in enumerate(([1.0, 2.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 1.0])):
        folder = write_embeddings(tmp_path / f"bad{i}", [[1.0, 2.0, 3.0], bad], ["a", "b"])
        with pytest.raises(ArtifactError, match="not of 3 finite numbers, or all zeros"):
            finished(context(folder, tmp_path / f"c{i}"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("clusters", 0), ("cell", 1), ("sample", 2), ("max_distance", 3.0), ("duplicate_sim", 0.0), ("max_weight", 0.5)],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"):
        ConceptsConfig(**{field: value})
