"""Tars that WebDataset readers can stream: nothing lost, the same bytes every time, sample i where the index says."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo import storage
from stepvideo.data import tar_stage
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.data.tar_shards import INDEX, TarShards
from stepvideo.data.tar_shards_config import TarShardsConfig
from stepvideo.data.video_io import read_video
from stepvideo.errors import ArtifactError, ConfigError, Preempted, StepVideoError
from stepvideo.sink import NullSink
from stepvideo.stage import StageContext

BUCKETS = BucketConfig([1, 17, 34], ["32x32", "32x64", "64x32"])


def context(root: Path, inputs: dict[str, Path], **changes: object) -> StageContext:
    for name in ("out", "work"):
        (root / name).mkdir(parents=True, exist_ok=True)
    config = TarShardsConfig(**({"buckets": BUCKETS, "shard_mb": 0.012} | changes))
    return StageContext(config, inputs, root / "out", root / "work")


@pytest.fixture(scope="module")
def made(curated: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    ctx = context(tmp_path_factory.mktemp("shards"), curated)
    metrics = tar_stage.run(ctx)
    assert metrics["clips"] == metrics["samples"] + metrics["left_out"] == 12
    return ctx.out


def webdataset(tar: Path) -> list[dict[str, bytes]]:
    """Samples as the format's readers see them: neighbouring members whose names are alike up to the first dot."""
    samples: list[dict[str, bytes]] = []
    with tarfile.open(tar) as members:
        for member in members:
            key, _, extension = member.name.partition(".")
            if not samples or samples[-1]["__key__"] != key.encode():
                samples.append({"__key__": key.encode()})
            content = members.extractfile(member)
            assert content
            samples[-1][extension] = content.read()
    return samples


def test_no_clip_is_lost_and_groups_are_pure(made: Path, curated: dict[str, Path]) -> None:
    clips = {c.clip_id: c for c in load_catalog(curated["curate"])}
    left_out = storage.read_json(made / "left_out.json")
    seen = []
    groups: dict[str, set[str]] = defaultdict(set)
    for tar in sorted(made.glob("*.tar")):
        keys = []
        for sample in webdataset(tar):
            record = json.loads(sample["json"])
            clip = clips[sample["__key__"].decode()]
            assert record["captions"] == clip.captions and record["frames"] == clip.frames
            assert record["bucket"] == tar.name.rpartition("-")[0]
            assert len(sample) == 3
            if clip.kind != "frame":
                assert sample[Path(clip.file).suffix[1:]] == (curated["curate"] / clip.file).read_bytes()
            keys.append(clip.clip_id)
            groups[record["bucket"]].add(clip.kind)
        assert keys == sorted(keys)
        seen += keys
    assert sorted(seen + list(left_out)) == sorted(clips)
    assert [clips[i].frames for i in left_out] == [16] and "fits no bucket" in next(iter(left_out.values()))
    assert all(kinds <= {"clip"} or not bucket.startswith("17x") for bucket, kinds in groups.items())
    assert {b.partition("x")[0] for b, kinds in groups.items() if kinds & {"image", "frame"}} == {"1"}
    assert len(list(made.glob("17x32x32-*.tar"))) > 1  # the size bounds them
    assert all(tar.stat().st_size <= 0.012e6 + 10240 for tar in made.glob("*.tar"))


def test_random_access_equals_the_sequence(made: Path) -> None:
    shards = TarShards(made)
    order = list(dict.fromkeys(pq.read_table(made / INDEX)["tar"].to_pylist()))
    streamed = [s for tar in order for s in webdataset(made / tar)]
    assert len(shards) == len(streamed) == 11
    for i in np.random.default_rng(0).permutation(len(shards)):
        media, record = shards[int(i)]
        sample = streamed[i]
        assert sample["__key__"].decode() == record["clip_id"] == shards.index["key"][int(i)].as_py()
        assert json.loads(sample.pop("json")) == record
        assert media in sample.values()
    assert shards[-1] == shards[10] and len(list(shards)) == 11
    with pytest.raises(IndexError):
        shards[11]
    places = shards.buckets()
    assert sorted(i for rows in places.values() for i in rows) == list(range(11))
    assert all(shards[i][1]["bucket"] == name for name, rows in places.items() for i in rows)


def test_a_sample_is_what_the_catalog_shows(made: Path, curated: dict[str, Path], tmp_path: Path) -> None:
    shards = TarShards(made)
    clips = {c.clip_id: c for c in load_catalog(curated["curate"])}
    for i, (suffix, kind, key) in enumerate(zip(*(shards.index[n].to_pylist() for n in ("suffix", "kind", "key")))):
        if kind == "image" or key.endswith("3"):  # c3 is damaged, and goes in as it is
            continue
        media, record = shards[i]
        (tmp_path / f"x{suffix}").write_bytes(media)
        if kind == "frame":
            shown = cv2.imdecode(np.frombuffer(media, np.uint8), cv2.IMREAD_COLOR)[None, ..., ::-1]
        else:
            shown = read_video(tmp_path / f"x{suffix}", record["first_frame"], record["frames"])
        assert np.array_equal(shown, read_clip(curated["curate"], clips[key]))


class Killed(NullSink):
    def __init__(self, after: int) -> None:
        self.after = after

    def progress(self, done: int, total: int, unit: str) -> None:
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


def test_killed_and_resumed_it_has_the_same_bytes(made: Path, curated: dict[str, Path], tmp_path: Path) -> None:
    ctx = context(tmp_path, curated)
    ctx.sink = Killed(3)
    with pytest.raises(KeyboardInterrupt):
        tar_stage.run(ctx)
    kept = {p.name: p.stat().st_mtime_ns for p in ctx.work.glob("*.tar")}
    assert len(kept) == 3
    first = min(kept)
    (ctx.work / f"{first}.json").unlink()  # as if it was killed between the tar and its mark
    (ctx.work / "half.tmp").write_bytes(b"half")
    ctx.sink = NullSink()
    ctx.stop.set()
    with pytest.raises(Preempted):
        tar_stage.run(ctx)
    ctx.stop.clear()
    tar_stage.run(ctx)
    assert storage.checksums(ctx.out) == storage.checksums(made)
    again = {n for n, t in kept.items() if (ctx.work / n).stat().st_mtime_ns != t}
    assert again == {first}


def test_members_carry_no_owner_and_no_time(made: Path) -> None:
    with tarfile.open(next(made.glob("*.tar"))) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_one_subset_alone(curated: dict[str, Path], tmp_path: Path) -> None:
    ctx = context(tmp_path, curated, subset="images")
    assert tar_stage.run(ctx)["samples"] == 4
    assert set(TarShards(ctx.out).index["kind"].to_pylist()) == {"image", "frame"}
    with pytest.raises(StepVideoError, match="needs the input subsets"):
        tar_stage.run(context(tmp_path / "b", {"curate": curated["curate"]}, subset="s1"))
    with pytest.raises(StepVideoError, match="none of 4 clips goes into a shard: .*fits no bucket"):
        tar_stage.run(context(tmp_path / "c", curated, subset="images", buckets=BucketConfig([17], ["32x32"])))
    with pytest.raises(ValueError, match="shard_mb=0"):
        TarShardsConfig(shard_mb=0)


def test_from_an_object_store(made: Path, tmp_path: Path) -> None:
    url = "memory://tars/s1"
    storage.upload(made, url, sorted(storage.checksums(made)))
    with pytest.raises(ConfigError, match="name a local folder"):
        TarShards(url)
    local, whole = TarShards(made), TarShards(url, tmp_path / "whole")
    ranges = TarShards(url, tmp_path / "ranges", whole=False)
    for i in range(len(local)):
        assert local[i] == whole[i] == ranges[i]
    assert list((tmp_path / "whole").rglob("*.tar")) and not list((tmp_path / "ranges").rglob("*.tar"))


def read_first(shards: TarShards) -> str:
    return shards[0][1]["clip_id"]


def test_it_goes_to_other_processes(made: Path) -> None:
    shards = TarShards(made)
    first = shards[0][1]["clip_id"]  # with a file open
    assert pickle.loads(pickle.dumps(shards))[0][1]["clip_id"] == first
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(read_first, [shards]) == [first]


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    for path in storage.tree(made):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def same_size(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    size = len(data)
    change(data)
    assert len(data) == size
    path.write_bytes(bytes(data))


def test_damage_is_named(copy: Path) -> None:
    shards = TarShards(copy)
    tar, key, where = (shards.index[n][0].as_py() for n in ("tar", "key", "json_offset"))
    header = where - 512
    same_size(copy / tar, lambda d: d.__setitem__(slice(header, header + 4), b"\0\1\2\3"))
    with pytest.raises(ArtifactError, match=rf"{tar}: {key}.json is not at byte {header}, where index.parquet has it"):
        TarShards(copy)[0]
    same_size(copy / tar, lambda d: d.__setitem__(slice(header, header + 4), key[:4].encode()))
    same_size(copy / tar, lambda d: d.__setitem__(slice(where, where + 2), b"\xff\xff"))
    with pytest.raises(ArtifactError, match=rf"{tar}: {key}.json is damaged"):
        TarShards(copy)[0]
    (copy / tar).write_bytes((copy / tar).read_bytes()[:700])
    with pytest.raises(ArtifactError, match="is not at byte"):
        shards[0]
    with pytest.raises(ArtifactError, match=rf"{tar} \(700 bytes instead of"):
        TarShards(copy)
    (copy / tar).unlink()
    with pytest.raises(ArtifactError, match=rf"{tar} \(missing\)"):
        TarShards(copy)


def test_a_damaged_index_is_named(copy: Path) -> None:
    index = copy / INDEX
    whole = index.read_bytes()
    same_size(index, lambda d: d.__setitem__(slice(-20, None), bytes(20)))
    with pytest.raises(ArtifactError, match="index.parquet is no index of tars"):
        TarShards(copy)
    index.write_bytes(whole)
    pq.write_table(pq.read_table(index).drop_columns(["offset"]), index)
    known = storage.read_json(copy / "shards.json")
    storage.write_json(copy / "shards.json", known | {INDEX: {"bytes": index.stat().st_size, "sha256": ""}})
    with pytest.raises(ArtifactError, match="index.parquet is no index of tars.*offset"):
        TarShards(copy)


def test_a_media_file_that_is_gone_is_named(tmp_path: Path, curated: dict[str, Path]) -> None:
    table = pq.read_table(curated["curate"] / "catalog.parquet")
    gone = pa.array(["gone.mp4"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("file"), "file", gone), tmp_path / "catalog.parquet")
    with pytest.raises(ArtifactError, match=r"clip \w+: .*gone.mp4: No such file"):
        tar_stage.run(context(tmp_path / "x", {"curate": tmp_path}))
