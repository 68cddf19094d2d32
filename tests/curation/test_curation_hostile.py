"""What can be wrong with a folder of files: nothing is lost, listed twice or taken for what it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pool_faults
import pyarrow.parquet as pq
import pytest
from known_videos import encode, shot

from stepvideo import job
from stepvideo.artifact import Store, key_of
from stepvideo.config import dump
from stepvideo.curation import raw, sources, stage
from stepvideo.curation.config import CurateConfig, PartsRuntime, RawConfig, RawRuntime
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.fingerprint import fingerprint
from stepvideo.stage import InputRef, StageContext, StageSpec
from stepvideo.storage import read_json, sha256_file

NAMES = ["a b.mp4", 'it\'s "quoted".mp4', "空 ü é.mp4", "two\nlines.mp4", "back\\slash & % $HOME.mp4", "-rf.mp4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    for i, name in enumerate(NAMES):
        encode(root / name, shot(i, 30))
    (root / "zero.mp4").touch()
    (root / "one.mp4").symlink_to(root / "other.mp4")
    (root / "other.mp4").symlink_to(root / "one.mp4")
    (root / "round").symlink_to(root, target_is_directory=True)
    return root


def curated(context, folder: Path, name: str = "curate") -> tuple[StageContext, dict[str, dict]]:
    """A folder through `raw` and `curate`; its files by name."""
    first = context(f"raw {name}", RawConfig(runtime=RawRuntime(path=str(folder))))
    raw.run(first)
    ctx = context(name, CurateConfig(frames_per_clip=0, runtime=PartsRuntime(workers=2)), raw=first.out)
    stage.run(ctx)
    rows = pq.read_table(ctx.out / "files.parquet").to_pylist()
    assert Counter(r["file"] for r in rows).most_common(1)[0][1] == 1
    return ctx, {r["file"]: r for r in rows}


def test_odd_names_empty_files_and_loops(context, folder: Path) -> None:
    ctx, files = curated(context, folder)
    assert sorted(files) == sorted([*NAMES, "zero.mp4", "one.mp4", "other.mp4"])
    reasons = {name: r["reason"] for name, r in files.items() if r["status"] == "quarantined"}
    assert reasons == {"zero.mp4": "empty", "one.mp4": "unreadable", "other.mp4": "unreadable"}
    assert "symbolic links" in files["one.mp4"]["detail"]
    clips = load_catalog(ctx.out)
    assert sorted(c.source["file"] for c in clips) == sorted(NAMES)
    assert all(read_clip(ctx.out, c).shape == (24, 64, 64, 3) for c in clips)


def test_a_decoder_that_aborts_costs_its_file(context, folder: Path, monkeypatch) -> None:
    encode(folder / "abort.mp4", shot(9, 30))
    monkeypatch.setattr(stage, "work", pool_faults.curate)
    _, files = curated(context, folder)
    assert (files["abort.mp4"]["reason"], "signal 6" in files["abort.mp4"]["detail"]) == ("crash", True)
    assert sum(f["status"] == "accepted" for f in files.values()) == len(NAMES) and len(files) == len(NAMES) + 4


@pytest.mark.parametrize("how", ["grown", "replaced", "gone"])
def test_a_file_that_changes_after_it_was_listed_is_quarantined(context, folder: Path, monkeypatch, how: str) -> None:
    """In place, which a hard link in the store sees, and while it is decoded."""
    collect, path = sources.collect, folder / NAMES[0]

    def then_change(inputs):
        found = collect(inputs)
        (here,) = (s.path for s in found if s.file == NAMES[0])
        if how == "grown":
            with here.open("ab") as f:
                f.write(b"more")
        elif how == "replaced":
            encode(path.parent / "other", shot(44, 30), form="mp4")
            here.write_bytes((path.parent / "other").read_bytes())
        else:
            here.unlink()
        return found

    monkeypatch.setattr(stage, "collect", then_change)
    ctx, files = curated(context, folder)
    assert (files[NAMES[0]]["status"], files[NAMES[0]]["reason"]) == ("quarantined", "changed")
    clips = load_catalog(ctx.out)
    assert sorted(c.source["file"] for c in clips) == sorted(NAMES[1:])
    for clip in clips:  # what is kept as it came has the hash that its row names
        assert sha256_file(ctx.out / clip.file) == clip.source["sha256"] == ctx.expected[clip.file]


def test_a_file_that_changes_after_it_was_read_fails_the_stage(tmp_path: Path, monkeypatch) -> None:
    """As a job, which hashes what it publishes."""
    store = Store(tmp_path / "store")
    media = store.dir("media", "k") / "out"
    encode(media / "a.mp4", shot(1, 30))
    encode(media / "b.mp4", shot(2, 30))
    publish = stage._publish

    def then_change(ctx, *rest):
        publish(ctx, *rest)
        (changed,) = (ctx.out / name for name, digest in ctx.expected.items() if digest == sha256_file(media / "b.mp4"))
        with changed.open("ab") as f:
            f.write(b"more")

    monkeypatch.setattr(stage, "_publish", then_change)
    monkeypatch.setenv(job.EXPECT_CODE, "1")
    directory = _spec(store, {"media": InputRef("media", "k", "d")})
    assert job.main(directory) == 1
    assert "changed while the stage ran" in read_json(directory / "error.json")["message"]
    assert not (directory / "manifest.json").exists()


def _spec(store: Store, inputs: dict[str, InputRef]) -> Path:
    config = dump(CurateConfig(runtime=PartsRuntime(workers=1)))
    code = fingerprint("stepvideo.curation.stage")
    spec = StageSpec("curate", "curate", "", config, inputs, str(store.root), code)
    spec = replace(spec, key=key_of(spec.hashed()))
    directory = store.dir("curate", spec.key)
    spec.write(directory / "spec.json")
    return directory
