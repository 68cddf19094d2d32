"""The render stage and the raw data set: same bytes, resume, sidecars that tell the truth."""

from __future__ import annotations

import json
import threading

import pytest

from stepvideo.errors import ArtifactError, Preempted
from stepvideo.stage import StageContext
from stepvideo.storage import checksums
from stepvideo.world import media, rawset, sidecar
from stepvideo.world.attributes import Attrs, is_held_out
from stepvideo.world.config import RenderConfig
from stepvideo.world.oracle import read, score
from stepvideo.world.stage import run


def _context(root, cfg, **kwargs):
    (root / "out").mkdir(parents=True, exist_ok=True)
    (root / "work").mkdir(exist_ok=True)
    return StageContext(cfg, {}, root / "out", root / "work", **kwargs)


def _config(workers=0):
    cfg = RenderConfig(n_clips=40, size=48, still_fraction=0.25, two_object_fraction=0.2, seed=5)
    cfg.runtime.workers = workers
    return cfg


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("render")
    return root / "out", run(_context(root, _config()))


def test_files_and_sidecars_agree_with_the_oracle(rendered):
    out, metrics = rendered
    records = sidecar.read(out)
    assert metrics["clips"] == 40 and metrics["images"] == 10 and len(records) == 50
    assert {r["file"] for r in records} | {sidecar.NAME} == set(checksums(out))
    right = n = pairs = 0
    for r in records:
        path = out / r["file"]
        pixels = media.decode_mp4(path) if r["kind"] == "video" else media.read_png(path)[None]
        assert pixels.shape == (r["frames"], r["height"], r["width"], 3)
        (shot,) = r["shots"]
        assert (shot["start"], shot["end"]) == (0, r["frames"]) and r["title"]["zh"] and r["title"]["en"]
        attrs = [Attrs.from_dict(a) for a in shot["attributes"]]
        pairs += len(attrs) == 2
        for a in attrs:
            assert not is_held_out(a) and (a.direction is None) == (r["kind"] == "image")
            right += score(read(pixels, a.colour if len(attrs) > 1 else None), a)["all"]
            n += 1
    assert right >= 0.97 * n and pairs >= 3


def test_workers_change_no_byte(rendered, tmp_path):
    run(_context(tmp_path, _config(workers=2)))
    assert checksums(tmp_path / "out") == checksums(rendered[0])


def test_a_stopped_stage_continues_from_its_finished_files(rendered, tmp_path):
    stop = threading.Event()

    class Sink:
        def progress(self, done, total, unit=""):
            stop.set()

        def metrics(self, *a, **k): ...
        def event(self, *a, **k): ...

    with pytest.raises(Preempted):
        run(_context(tmp_path, _config(), stop=stop, sink=Sink()))
    finished = sorted((tmp_path / "work").rglob("*.mp4"))
    assert 0 < len(finished) < 40 and not list((tmp_path / "out").iterdir())
    before = {p: p.stat().st_mtime_ns for p in finished}
    run(_context(tmp_path, _config()))
    assert checksums(tmp_path / "out") == checksums(rendered[0])
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_a_damaged_sidecar_line_is_named(tmp_path):
    (tmp_path / sidecar.NAME).write_text('{"file": "a.mp4"}\n{"fil\n')
    with pytest.raises(ArtifactError, match=r"sidecars\.jsonl:2"):
        sidecar.read(tmp_path)
    assert sidecar.read(tmp_path / "nowhere") == []


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("raw")
    return out, rawset.build(out, seed=0)


def test_raw_set_holds_what_it_says(raw):
    out, records = raw
    assert len(records) == sum(rawset.COUNTS.values()) + 2 + len(rawset.BROKEN_KINDS)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert size < 4e6 and sidecar.read(out / "raw") == json.loads(json.dumps(records))
    right = n = 0
    for r in records:
        for shot in r["shots"]:
            assert not any(is_held_out(Attrs.from_dict(a)) for a in shot["attributes"])
        path = out / "raw" / r["file"]
        if r["fault"] in rawset.BROKEN_KINDS:
            with pytest.raises((ArtifactError, OSError, ValueError)):
                media.decode_mp4(path) if r["kind"] == "video" else media.read_png(path)
            continue
        pixels = media.decode_mp4(path) if r["kind"] == "video" else media.read_png(path)[None]
        assert len(pixels) == r["frames"]
        for shot in r["shots"]:
            clip = pixels[shot["start"] : shot["end"]]
            if not r["fault"]:
                right += score(read(clip), Attrs.from_dict(shot["attributes"][0]))["all"]
                n += 1
        cuts = [t["start"] for t in r["transitions"] if t["kind"] == "cut"]
        assert cuts == [s["start"] for s in r["shots"]][1:] or r["transitions"][0]["kind"] != "cut"
        for c in cuts:
            assert abs(float(pixels[c].mean()) - float(pixels[c - 1].mean())) > rawset.MIN_STEP / 2
    assert right >= 0.98 * n and n > 90


def test_raw_set_is_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr(rawset, "COUNTS", {**dict.fromkeys(rawset.COUNTS, 1), "cuts": 3})
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        rawset.build(tmp_path / folder, seed=seed)
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b") != checksums(tmp_path / "c")
    with pytest.raises(ArtifactError, match="not empty"):
        rawset.build(tmp_path / "a", seed=0)


def test_world_yaml_is_a_render_config(raw):
    from omegaconf import OmegaConf

    from stepvideo.config import dump, load

    data = OmegaConf.to_container(OmegaConf.load(raw[0] / "world.yaml"))
    assert dump(load(RenderConfig, data)) == dump(rawset.training_config(0))
