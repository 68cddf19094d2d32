"""The stage `tags`: one decode for all backends, nothing lost, nothing measured twice, and what cannot be is said."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tag_backends
from known_videos import encode, shot
from tag_backends import Bright, Broken, Dark, Frail, Weighty, calls

from stepvideo.config import dump, load
from stepvideo.curation import measure, parts, stage, tag_parts, tagging
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.curation.config import CurateConfig
from stepvideo.curation.tagging_config import BACKENDS, TaggingConfig
from stepvideo.curation.tags import sample_positions
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.data.video_io import write_image
from stepvideo.errors import ArtifactError, ConfigError, Preempted, StepVideoError
from stepvideo.stage import StageContext
from stepvideo.storage import checksums, write_json

ROOT = Path(__file__).parents[2]
FAKES = {"still": Bright, "nsfw": Weighty, "light": Dark, "camera": Frail, "copies": Broken}
LENGTHS = [24 + i for i in range(5)]  # frames of the clips; a still comes after them


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tagging")
    (root / "media").mkdir()
    for i, length in enumerate(LENGTHS):
        encode(root / f"media/{i}.mp4", shot(i, length + 6))
    write_image(root / "media/still.png", shot(9, 1)[0])
    for name in ("out", "work"):
        (root / name).mkdir()
    stage.run(StageContext(CurateConfig(frames_per_clip=0), {"raw": root / "media"}, root / "out", root / "work"))
    return root / "out"


@pytest.fixture
def journal(monkeypatch, tmp_path: Path) -> Path:
    """Backends of `tag_backends` in the place of real ones; the file that has their calls."""
    monkeypatch.setattr(tagging, "backend", lambda table, name: FAKES[table])
    monkeypatch.setenv(tag_backends.JOURNAL, str(tmp_path / "journal"))
    measure._made.cache_clear()
    return tmp_path / "journal"


@pytest.fixture
def here(monkeypatch) -> None:
    """Work is done in this process."""

    def in_process(work, chunks, on_failure, stop, **_):
        for number, items in chunks:
            if stop():
                raise Preempted
            yield number, work(items)

    monkeypatch.setattr(parts, "run_chunks", in_process)


@pytest.fixture
def start(context, catalog, tmp_path: Path) -> Callable[..., StageContext]:
    """start(name, *tables) → a context of one store, whose `shared` all have; the same name finds the same `work`."""

    def make(name: str, *tables: str, curate: Path = catalog, **changes) -> StageContext:
        ctx = context(name, config(*tables, **changes), curate=curate)
        ctx.shared = tmp_path / "shared"
        return ctx

    return make


def config(*tables: str, **changes) -> TaggingConfig:
    chosen = {t: BACKENDS[t][0] if t in tables else "" for t in BACKENDS}
    return load(TaggingConfig, {"chunk": 2, "backends": chosen, **changes})


def measured(journal: Path, backend: type) -> list[str]:
    return [clip for name, clip in calls(journal) if name == backend.__name__ and clip != "made"]


def test_every_clip_has_its_row_and_every_table_says_what_it_is(catalog, start, journal, here):
    ctx = start("a", "still", "nsfw")
    assert tagging.run(ctx) == {"clips": 6.0, "failed": 0.0, "still": 1.0, "nsfw": 0.0}
    clips = load_catalog(catalog)
    table = pq.read_table(ctx.out / "tables/still.parquet")
    assert table["clip_id"].to_pylist() == [c.clip_id for c in clips] == measured(journal, Bright)
    assert table["count"].to_pylist() == [c.frames for c in clips]
    assert table["says"].to_pylist() == [[0.5, 1.0]] * 6
    first = [read_clip(catalog, c)[sample_positions(c.frames, 8)[0]].mean() for c in clips]
    assert table["bright"].to_pylist() == pytest.approx(first)
    said = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert said == {"backend": "difference", "version": "1", "note": "a stand-in", "absent": ""}
    absent = pq.read_table(ctx.out / "tables/nsfw.parquet")
    assert absent["weight"].null_count == 6 and b"set weights.nsfw" in absent.schema.metadata[b"absent"]
    assert pq.read_table(ctx.out / "failed.parquet").num_rows == 0


def test_a_table_that_is_added_costs_nothing_of_the_others_and_gives_the_same_bytes(start, journal, here, tmp_path):
    tagging.run(start("one", "still"))
    journal.unlink()
    both = start("both", "still", "light")
    tagging.run(both)
    assert len(measured(journal, Dark)) == 6 and {name for name, _ in calls(journal)} == {"Dark"}
    journal.unlink()
    again = start("again", "still", "light", seed=1)
    tagging.run(again)
    assert calls(journal) == []  # nobody is even made
    afresh = start("afresh", "still", "light")
    afresh.shared = tmp_path / "another store"
    tagging.run(afresh)
    assert len(measured(journal, Bright)) == 6
    assert checksums(both.out) == checksums(again.out) == checksums(afresh.out)


def test_whatever_a_value_follows_from_makes_it_anew(start, journal, here, tmp_path, monkeypatch, catalog):
    weights = tmp_path / "weights.txt"
    weights.write_text("1")
    given = {"runtime": {"weights": {"nsfw": str(weights)}}}

    def again(name: str, **changes) -> int:
        """How many clips the unweighted backend was asked; the other one's values are those of its weights."""
        journal.unlink(missing_ok=True)
        measure._made.cache_clear()
        ctx = start(name, "nsfw", "still", **given, **changes)
        tagging.run(ctx)
        found = pq.read_table(ctx.out / "tables/nsfw.parquet")["weight"].to_pylist()
        assert found == [int(weights.read_text())] * 6
        return len(measured(journal, Bright))

    assert again("first") == 6 and again("second") == 0
    weights.write_text("2")
    assert again("weights") == 0
    assert again("samples", samples=4) == 6
    monkeypatch.setattr(Bright, "version", "2")
    assert again("version") == 6
    monkeypatch.setattr(tag_parts, "fingerprint", lambda *_: "other code")
    assert again("code") == 6
    monkeypatch.setattr(tag_parts, "packages", lambda *_: {"av": "99"})
    assert again("packages") == 6
    changed = tmp_path / "changed catalog"
    shutil.copytree(catalog, changed)
    clip = load_catalog(changed)[0]
    encode(changed / clip.file, shot(77, clip.first_frame + clip.frames + 3))  # other pictures under the same id
    chunk = [o.clip_id for o in _chunk_of(catalog, clip.clip_id)]
    assert again("content", curate=changed) == len(chunk) < 6
    with pytest.raises(StepVideoError, match="weights of nsfw: .* changed since the run was planned"):
        tagging.run(start("other weights", "nsfw", contents={"nsfw": "0" * 64}, **given))


def _chunk_of(catalog: Path, clip_id: str) -> list[measure.Order]:
    orders = [measure.Order(c.clip_id, tagging._window(c)) for c in load_catalog(catalog)]
    return next(c for c in tag_parts.chunked(orders, 2) if clip_id in [o.clip_id for o in c])


def test_a_clip_that_is_added_changes_one_chunk_or_two():
    def order(i: int) -> measure.Order:
        return measure.Order(f"{i * 7919:032x}", None)  # type: ignore[arg-type]

    orders = [order(i) for i in range(1000)]
    before = [tuple(c) for c in tag_parts.chunked(orders, 16)]
    assert [o for c in before for o in c] == orders and max(map(len, before)) <= 16 and len(before) < 200
    for place in (0, 123, 500, 1000):
        after = [tuple(c) for c in tag_parts.chunked([*orders[:place], order(5000), *orders[place:]], 16)]
        assert len(set(after) - set(before)) <= 4


def test_what_was_done_before_is_not_done_again(start, journal, here):
    whole = start("whole", "still")
    tagging.run(whole)
    shutil.rmtree(whole.shared)
    journal.unlink()
    ctx = start("stopped", "still")
    ctx.should_stop = lambda: len(measured(journal, Bright)) >= 4  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        tagging.run(ctx)
    ctx.should_stop = lambda: False  # type: ignore[method-assign]
    tagging.run(ctx)
    assert sorted(measured(journal, Bright)) == sorted(set(measured(journal, Bright))) and len(calls(journal)) == 6
    assert checksums(ctx.out) == checksums(whole.out)


def test_ranks_share_the_clips_out_to_the_same_bytes(start, journal, here):
    alone = start("alone", "still", "light")
    tagging.run(alone)
    shutil.rmtree(alone.shared)
    journal.unlink()
    first = start("shared", "still", "light")
    assert tagging.run(replace(first, rank=1, world_size=2)) == {} and not any(first.out.iterdir())
    theirs = measured(journal, Bright)
    tagging.run(replace(first, world_size=2))
    assert 0 < len(theirs) < 6 and len(measured(journal, Bright)) == 6
    assert checksums(first.out) == checksums(alone.out)


RANK = """
import sys
from pathlib import Path
from stepvideo.config import load
from stepvideo.curation import tagging
from stepvideo.curation.tagging_config import TaggingConfig
from stepvideo.stage import StageContext
from stepvideo.storage import read_json

root, catalog, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
config = load(TaggingConfig, read_json(root / "config.json"))
ctx = StageContext(config, {"curate": catalog}, root / "out", root / "work", rank=rank, world_size=2)
ctx.shared = root / "kept"
tagging.run(ctx)
"""
NEEDS = """
import sys
from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.registry import backend
from stepvideo.curation.tagging_config import BACKENDS
for table, names in BACKENDS.items():
    for name in names:
        for weights in ("", "nowhere"):
            try:
                backend(table, name).needs(weights)
            except (Absent, ValueError) as e:
                print(table, name, weights, type(e).__name__)
print(sorted({"torch", "transformers", "rapidocr", "nudenet", "onnxruntime"} & sys.modules.keys()))
"""


def test_two_ranks_at_once_one_of_them_killed(start, catalog, tmp_path):
    """With the real backends, as jobs: whatever lies there after kill -9 is whole, and the end is the same bytes."""
    tables = {"chunk": 1, "runtime": {"workers": 1}}
    whole = start("whole", "still", "light", "copies", **tables)
    tagging.run(whole)
    killed = start("killed", "still", "light", "copies", **tables)
    folder = killed.work.parent
    write_json(folder / "config.json", dump(killed.config))

    def job(rank: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", RANK, str(folder), str(catalog), str(rank)], cwd=ROOT)

    def kept() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in folder.glob("kept/tags/*/*/[0-9a-f]*.parquet")}

    first, second = job(0), job(1)
    while not kept():
        assert first.poll() is None
        time.sleep(0.002)
    first.kill()
    assert (first.wait(), second.wait(60)) == (-signal.SIGKILL, 0)
    before = kept()
    assert job(0).wait(60) == 0
    assert checksums(killed.out) == checksums(whole.out)
    assert before.items() <= kept().items() and len(kept()) == 3 * 6


def test_looking_for_what_backends_need_loads_nothing():
    done = subprocess.run([sys.executable, "-c", NEEDS], capture_output=True, text=True, cwd=ROOT)
    *said, loaded = done.stdout.splitlines()
    assert loaded == "[]", done.stderr
    assert "embedding clip  Absent" in said and "text rapidocr nowhere Absent" in said
    assert "light grey nowhere ValueError" in said and "text rapidocr  Absent" not in said


def test_a_damaged_part_is_named(start, journal, here):
    ctx = start("a", "still")
    tagging.run(ctx)
    part = sorted(ctx.shared.rglob("*.parquet"))[0]
    (part.parent / f".{part.name}.tmp-1").write_bytes(b"torn")  # what a kill leaves; nobody reads it
    tagging.run(start("b", "still"))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=f"{part} cannot be read .*; remove it"):
        tagging.run(start("c", "still"))


def test_a_clip_that_cannot_be_read_is_named_and_the_others_are_there(catalog, start, journal, here, tmp_path):
    broken = tmp_path / "broken catalog"
    shutil.copytree(catalog, broken)
    lost = load_catalog(broken)[2]
    (broken / lost.file).write_bytes(b"nothing")
    ctx = start("b", "still", "light", curate=broken)
    metrics = tagging.run(ctx)
    assert metrics["failed"] == 1.0 and metrics["still"] == metrics["light"] == pytest.approx(5 / 6)
    (row,) = pq.read_table(ctx.out / "failed.parquet").to_pylist()
    assert row["clip_id"] == lost.clip_id and row["reason"] == "unreadable" and str(broken) not in row["detail"]
    assert row["tables"] == ["light", "still"]
    (broken / lost.file).unlink()
    assert tagging.run(start("gone", "still", curate=broken))["failed"] == 1.0


def test_a_network_that_aborts_or_fails_costs_that_clip_in_its_own_table(catalog, start, journal, tmp_path):
    """With real workers. What the machine may be to blame for is not kept for other runs."""
    clips = [c for c in load_catalog(catalog) if c.kind == "clip"]
    aborts, fails = clips[1], max(clips, key=lambda c: c.frames)
    mark = tmp_path / "mark"
    mark.write_text(aborts.clip_id)
    given = {"runtime": {"weights": {"camera": str(mark)}}}
    ctx = start("a", "still", "camera", **given)
    assert tagging.run(ctx) == {"clips": 6.0, "failed": 2.0, "still": 1.0, "camera": pytest.approx(4 / 6)}
    rows = {r["clip_id"]: r for r in pq.read_table(ctx.out / "failed.parquet").to_pylist()}
    assert {c: (r["reason"], r["tables"]) for c, r in rows.items()} == {
        aborts.clip_id: ("crash", ["camera"]),
        fails.clip_id: ("error", ["camera"]),
    }
    assert "signal 6" in rows[aborts.clip_id]["detail"] and "too long for me" in rows[fails.clip_id]["detail"]
    alone = start("alone", "camera", **given)
    tagging.run(alone)
    name = "tables/camera.parquet"
    assert checksums(alone.out)[name] == checksums(ctx.out)[name]
    mark.write_text("nobody")
    assert tagging.run(start("later", "camera", **given))["failed"] == 1.0


def test_a_backend_that_fails_on_every_clip_is_an_error(start, journal, here):
    with pytest.raises(StepVideoError, match="copies fails on every clip, .*Broken: KeyError: 'always'"):
        tagging.run(start("a", "copies", "still"))


def test_frames_are_sampled_evenly_and_small_ones_keep_their_size():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 144, 256, 3), np.uint8)
    seen = ClipFrames.of("x", 40, iter(frames), 24.0)
    assert seen.positions == [2, 7, 12, 17, 22, 27, 32, 37] and [int(f[0, 0, 0]) for f in seen.frames] == seen.positions
    assert seen.grey.shape == (40, 128, 228) and [int(g[5, 5]) for g in seen.grey] == list(range(40))
    assert [flow.shape for flow in seen.flows()] == [(128, 228, 2)] * 39
    assert ClipFrames.of("y", 1, iter(frames[:1, :48, :64]), 0.0).grey.shape == (1, 48, 64)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backends": {"texts": "rapidocr"}}, "no table 'texts'; there are .*text"),
        ({"backends": {"text": "tesseract"}}, "backends.text='tesseract': give one of rapidocr"),
        ({"runtime": {"weights": {"aesthetic": "x"}}}, "runtime.weights.aesthetic: backends has no table"),
        ({"kinds": ["video"]}, "'video' is none of clip"),
        ({"chunk": 0}, "chunk=0"),
        ({"runtime": {"executor": "dask"}}, "runtime.executor is 'dask'; give one of pool, ray"),
        ({"runtime": {"ray_address": "h:1"}}, "it needs runtime.executor=ray"),
        ({"runtime": {"ray_address": "auto", "executor": "ray"}}, "'auto'; give host:port"),
        ({"runtime": {"array": 2, "nproc": 2}}, "set one of them"),
    ],
)
def test_mistakes_are_named(given, said):
    with pytest.raises(ConfigError, match=said):
        load(TaggingConfig, given)


def test_a_catalog_without_such_rows_is_an_error(start, journal, here):
    with pytest.raises(StepVideoError, match="has no frame"):
        tagging.run(start("c", "still", kinds=["frame"]))
