"""One whole smoke cascade: raw videos in, a generated video out; then cached, changed, damaged, asked about."""

from __future__ import annotations

import json
import resource
import sqlite3

import pytest
from whole import Smoke, ran

from flows.forecast_laws import Laws
from flows.graph import build
from stepvideo import storage
from stepvideo.cli import main
from stepvideo.data.captions import load_captions, load_sources
from stepvideo.data.clips import load_catalog, load_ids
from stepvideo.data.latent_cache import LatentSet
from stepvideo.data.text_cache import TextCache
from stepvideo.data.video_io import read_video
from tasks.keeping_items import size
from tasks.record import records

pytestmark = pytest.mark.slow

AFTER_SFT = {"average", "pairs", "dpo", "couplings", "turbo", "report"}


def test_every_stage_made_its_artifact(smoke: Smoke) -> None:
    rows = smoke.first
    names = [*rows]
    for name in (
        "curate",
        "tags",
        "captions",
        "text",
        "vae2",
        "latents",
        "t2i",
        "t2vi_192.s3",
        "t2vi_540.s6",
        "sft.2",
        "turbo",
        "report",
    ):
        assert name in names and not rows[name]["cached"]
    assert rows["curate"]["metrics"]["quarantined"] == 5  # the broken files of the raw set
    for name, row in rows.items():
        assert smoke.store.find(name, row["key"]) is not None
    summary = storage.read_json(smoke.store.dir("evaluate.dpo", rows["evaluate.dpo"]["key"]) / "out" / "summary.json")
    assert summary
    # narrow VAEs of ten steps reconstruct nothing: the oracle must say "untestable", not give rates
    assert not any(k.startswith("train/") for k in rows["evaluate.dpo"]["metrics"])


def test_the_disk_that_stages_took_follows_its_laws(smoke: Smoke) -> None:
    nodes = build(records(smoke.store)[0].data["config"])
    made = {name: smoke.store.dir(name, row["key"]) for name, row in smoke.first.items()}
    laws = Laws(nodes, {"curate": smoke.store.resolve("curate")})
    bounds = {"vae1": 1.1, "vae2": 1.1, "text": 1.2, "tags": 1.3, "captions": 1.3, "subsets": 1.3, "latents": 2.5}
    for node in (n for n in nodes if n.name in bounds):
        ratio = (laws.of(node) or 0.0) / size(made[node.name])
        print(f"{node.name}: {ratio:.2f} of what it took")
        assert 0.8 < ratio < bounds[node.name], node.name


def test_clips_without_a_sidecar_train_with_the_captions_that_were_made_for_them(smoke: Smoke) -> None:
    out = {name: smoke.store.resolve(name).out for name in ("curate", "captions", "subsets", "latents")}
    made = load_captions(out["captions"])
    bare = [c.clip_id for c in load_catalog(out["curate"], load_ids(out["subsets"] / "s1.parquet")) if not c.captions]
    text, clips = TextCache(out["latents"]), LatentSet(out["latents"], "video", "low")
    assert bare and set(bare) <= set(clips.ids())
    for name in bare:
        i = clips.ids().index(name)
        said = {text.texts[clips.caption(i, 0.0, which, {kind: 1.0})] for kind in made[name] for which in (0.0, 0.9)}
        assert said == {t for by_language in made[name].values() for texts in by_language.values() for t in texts}
        assert load_sources(out["captions"])[name] == {"rule"}


def test_other_captions_run_what_reads_them_and_the_same_clips_are_chosen(smoke: Smoke) -> None:
    rows = smoke.untracked("stages.captions.languages=[en]", until="subsets")
    assert ran(rows) == {"captions", "subsets"}
    assert rows["captions"]["digest"] != smoke.first["captions"]["digest"]
    assert rows["subsets"]["digest"] == smoke.first["subsets"]["digest"]  # so that a VAE, say, is not trained again


def test_unfreezing_the_adversarial_loss_and_both_kinds_of_batches_took_part(smoke: Smoke) -> None:
    from stepvideo.sink import latest_metrics

    vae2 = smoke.store.dir("vae2", smoke.first["vae2"]["key"])
    steps = latest_metrics(vae2 / "events.jsonl")
    assert "gan_g" in steps[10] and "gan_g" not in steps[5]
    t2vi = latest_metrics(smoke.store.dir("t2vi_192.s1", smoke.first["t2vi_192.s1"]["key"]) / "events.jsonl")
    kinds = {k for row in t2vi.values() for k in row}
    assert {"loss_video", "loss_image"} <= kinds


def test_the_same_command_takes_everything_from_the_store(smoke: Smoke) -> None:
    """Tracked by MLflow; with Prefect too: tests/flows/test_prefect.py in soak, where its bar is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = smoke.run("tracking.prefect=false")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran(rows) == set()
    # other test processes share cores and caches, so the processor time is taken
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 25, f"{seconds:.0f} s of processor time"


def test_one_changed_sft_option_runs_sft_and_what_depends_on_it(smoke: Smoke) -> None:
    rows = smoke.untracked("stages.sft.optim.lr=2e-3")
    names = ran(rows)
    assert {"sft.1", "sft.2"} | AFTER_SFT <= names
    assert not {n for n in names if n.startswith(("t2", "vae", "text", "latents", "curate", "raw", "world"))}
    assert "evaluate.t2vi_540.s6" not in names and "evaluate.dpo" in names


def test_one_damaged_byte_runs_that_stage_again(smoke: Smoke) -> None:
    directory = smoke.store.dir("t2vi_192.s2", smoke.first["t2vi_192.s2"]["key"])
    path = directory / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    rows = smoke.untracked()
    assert ran(rows) == {"t2vi_192.s2"}  # it makes the same bytes again, so nothing else runs
    assert rows["t2vi_192.s2"]["digest"] == smoke.first["t2vi_192.s2"]["digest"]


def test_generate_in_both_languages(smoke: Smoke, tmp_path, capsys) -> None:
    for prompt in ("一个红色的圆向右移动", "a red circle moves right"):
        out = tmp_path / "red.mp4"
        smoke.here("generate", prompt, "--out", str(out), "--store", str(smoke.store.root))
        assert read_video(out).shape[0] == 17
        out.unlink()
    assert main(["generate", "一条龙", "--out", str(out), "--store", str(smoke.store.root)]) == 2
    assert "龙" in capsys.readouterr().err and not out.exists()


def test_the_page_holds_its_videos(smoke: Smoke) -> None:
    page = smoke.store.dir("report", smoke.first["report"]["key"]) / "out" / "report.html"
    text = page.read_text()
    assert "data:video/mp4;base64," in text and "<script src" not in text and "http" not in text.split("<body", 1)[0]


def test_lineage_reaches_the_raw_data(smoke: Smoke) -> None:
    out = smoke.here("lineage", "turbo", "--store", str(smoke.store.root))
    for name in (
        "couplings",
        "dpo",
        "sft.1",
        "t2vi_540.s4",
        "t2i",
        "latents",
        "vae1",
        "captions",
        "tags",
        "curate",
        "raw",
    ):
        assert name in out, out


def test_tracking_holds_one_parent_and_one_child_a_stage_and_nothing_left_running(smoke: Smoke) -> None:
    with sqlite3.connect(smoke.folder / "work" / "mlflow.db") as db:
        runs = db.execute("select run_uuid, status from runs").fetchall()
        tags = db.execute("select run_uuid from tags where key = 'mlflow.parentRunId'").fetchall()
    assert {status for _, status in runs} == {"FINISHED"}
    assert len(tags) == len(smoke.first)
    smoke.cli("status", "--reap", "--store", str(smoke.store.root))


def test_plan_of_a_finished_run_is_all_hits(smoke: Smoke) -> None:
    rows = json.loads(smoke.here("plan", "--json", *smoke.overrides()))
    assert {row["state"].lower() for row in rows} == {"hit"}
