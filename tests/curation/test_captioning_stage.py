"""The stage `captions` against a real server on this machine: who is asked for what, and that nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_server import USAGE, Body, Given, good, kinds, language, pictures, serve, words
from clip_folders import HEAD_WIDTH, save_clip

from stepvideo.curation.backends.clip_model import released
from stepvideo.curation.captioning import prompts, rules, stage
from stepvideo.curation.captioning.config import CaptionsConfig, CaptionsRuntime, ChecksConfig, ModelConfig
from stepvideo.data.captions import captioned, load_captions
from stepvideo.data.clips import load_catalog
from stepvideo.data.video_io import write_image, write_video
from stepvideo.errors import ArtifactError, ConfigError, Preempted, StepVideoError
from stepvideo.storage import checksums

ROOT = Path(__file__).parents[2]
CLIPS = 6
RED = {"colour": "red", "shape": "circle", "direction": "left", "size": "large", "count": 1}


def name(i: int) -> str:
    return f"{i:032x}"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips 0 … 5 (0 with short English captions, 1 with a title, 2 of the world, 5 in a broken file) and a still."""
    root = tmp_path_factory.mktemp("catalog")
    draw = np.random.default_rng(0)
    given: dict[int, dict[str, Any]] = {
        0: {
            "captions": json.dumps({"short": {"en": ["a cat, 猫 & “quotes”", "the cat"]}}),
            "caption_source": "sidecar",
        },
        1: {"captions": json.dumps({"title": {"en": ["My cat"]}}), "caption_source": "filename"},
        2: {"attributes": json.dumps([RED])},
    }
    rows = []
    for i in range(CLIPS + 1):
        still = i == CLIPS
        frames = draw.integers(0, 256, (10, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        file = f"{i}.png" if still else f"{i}.mp4"
        if still:
            write_image(root / file, frames[0])
        else:
            write_video(root / file, frames, 10.0)
        rows.append(
            {"clip_id": name(i), "kind": "image" if still else "clip", "file": file, "first_frame": 1 - still}
            | {"frames": 1 if still else 9, "height": 32, "width": 32, "fps": 0.0 if still else 10.0, "crop": None}
            | {"captions": "{}", "caption_source": "none", "attributes": None, "parent": None}
            | {"tag_saturation_mean": 80.0, "tag_motion_rate": None if still else 30.0}
            | given.get(i, {})
        )
    (root / "5.mp4").write_bytes(b"no video" * 99)
    pq.write_table(pa.Table.from_pylist(rows), root / "catalog.parquet")
    return root


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tags")
    (root / "tables").mkdir()
    ids = [name(i) for i in range(CLIPS + 1)]
    camera = ["pan_left"] * 2 + ["static"] * 4 + [None]
    pq.write_table(pa.table({"clip_id": ids, "camera": camera}), root / "tables" / "camera.parquet")
    pq.write_table(pa.table({"clip_id": ids, "text": ["", "出口 EXIT", *[""] * 5]}), root / "tables" / "text.parquet")
    return root


def config(url: str = "", **options: Any) -> CaptionsConfig:
    runtime = {"url": url, "backoff_s": 0.01, "retries": 2, "in_flight": 4, "workers": 1} | options.pop("runtime", {})
    model = {"name": "see-7b" if url else "", "side": 32, "price_in": 0.5, "price_out": 1.5} | options.pop("model", {})
    return CaptionsConfig(model=ModelConfig(**model), runtime=CaptionsRuntime(**runtime), **options)


def rows(path: Path, table: str = "captions") -> list[dict[str, Any]]:
    return pq.read_table(path / f"{table}.parquet").to_pylist()


def slots(path: Path) -> dict[tuple[str, str, str], str]:
    """(clip number, kind, language) → source."""
    return {(int(r["clip_id"], 16), r["kind"], r["language"]): r["source"] for r in rows(path)}


def test_each_source_is_asked_for_what_those_before_it_lack(context: Callable, catalog: Path, tags: Path) -> None:
    with serve() as fake:
        ctx = context("captions", config(fake.url), curate=catalog, tags=tags)
        metrics = stage.run(ctx)
    found = slots(ctx.out)
    assert found[0, "short", "en"] == "sidecar" and found[0, "short", "zh"] == "vlm"
    assert found[1, "title", "en"] == "filename" and found[1, "dense", "en"] == "vlm"
    assert {found[5, k, lang] for k in ("short", "dense") for lang in ("zh", "en")} == {"rule"}  # its file is broken
    asked = Counter((tuple(kinds(b)), language(b)) for b in fake.bodies)
    assert asked == {(("dense",), "en"): 1, (("short", "dense"), "en"): 5, (("short", "dense"), "zh"): 6}
    assert {len(pictures(b)) for b in fake.bodies} == {1, 8} and fake.bodies[0]["model"] == "see-7b"
    assert metrics["clips"] == CLIPS + 1 and metrics["captioned"] == 1 and metrics["failed"] == 2
    assert [(int(r["clip_id"], 16), r["reason"]) for r in rows(ctx.out, "failed")] == [(5, "unreadable")] * 2
    captions = {c.clip_id: c.captions for c in captioned(load_catalog(catalog), ctx.out)}
    assert captions[name(0)]["short"]["en"] == ["a cat, 猫 & “quotes”", "the cat"]
    assert "球在滚动" in captions[name(3)]["short"]["zh"][0]


def test_hints_tell_what_was_measured(context: Callable, catalog: Path, tags: Path) -> None:
    with serve() as fake:
        stage.run(context("captions", config(fake.url), curate=catalog, tags=tags))
        said = [words(b) for b in fake.bodies]
        stage.run(context("silent", config(fake.url, model={"hints": False}), curate=catalog, tags=tags))
        silent = [words(b) for b in fake.bodies[len(said) :]]
    assert (
        sum("测量结果：镜头向左摇。" in w for w in said)
        == sum("Measured: the camera pans left." in w for w in said)
        == 2
    )
    assert sum('"出口 EXIT"' in w for w in said) == 2 and sum("No written text" in w for w in said) == 5
    assert not any("Measured" in w or "测量结果：" in w or "EXIT" in w for w in silent)


def test_tokens_and_cost_add_up(context: Callable, catalog: Path) -> None:
    with serve() as fake:
        ctx = context("captions", config(fake.url), curate=catalog)
        metrics = stage.run(ctx)
    requests = len(fake.bodies)
    assert (metrics["tokens_in"], metrics["tokens_out"]) == (requests * USAGE[0], requests * USAGE[1])
    assert metrics["cost"] == pytest.approx(requests * (USAGE[0] * 0.5 + USAGE[1] * 1.5) / 1e6)
    for table in ("captions", "clips"):
        for column in ("tokens_in", "tokens_out", "cost"):
            assert sum(r[column] for r in rows(ctx.out, table)) == pytest.approx(metrics[column])
    assert {r["prompt_version"] for r in rows(ctx.out) if r["source"] == "vlm"} == {prompts.VERSION}
    assert {r["model"] for r in rows(ctx.out)} == {"see-7b", ""}


def test_an_answer_that_is_no_good_gets_one_more_chance(context: Callable, catalog: Path) -> None:
    def answer(body: Body) -> Given:
        if len(body["messages"]) == 1:
            return Given("```json\n{not json", finish="stop") if language(body) == "zh" else Given("{", finish="length")
        return good(body) if language(body) == "zh" else Given('{"short": ""}')

    with serve(answer) as fake:
        ctx = context("captions", config(fake.url), curate=catalog)
        metrics = stage.run(ctx)
    assert {s for (_, kind, lang), s in slots(ctx.out).items() if lang == "zh" and _ < 5} == {"vlm"}
    failed = [r for r in rows(ctx.out, "failed") if r["reason"] != "unreadable"]
    assert {(r["language"], r["reason"]) for r in failed} == {("en", "schema")} and len(failed) == CLIPS
    assert max(len(b["messages"]) for b in fake.bodies) == 3 and len(fake.bodies) == 4 * CLIPS
    assert "is not JSON" in str([words(b) for b in fake.bodies]) and "cut off after 1024" in str(fake.bodies)
    assert metrics["tokens_in"] == len(fake.bodies) * USAGE[0]  # lost answers cost as well


@pytest.mark.parametrize(
    "said", ["I'm sorry, I cannot help with that.", '{"short": "抱歉，我无法描述", "dense": "对不起"}']
)
def test_refusals_are_failures_and_rules_step_in(context: Callable, catalog: Path, said: str) -> None:
    with serve(lambda _: Given(said)) as fake:
        ctx = context("captions", config(fake.url), curate=catalog)
        stage.run(ctx)
    assert {r["reason"] for r in rows(ctx.out, "failed")} == {"refusal", "unreadable"}
    assert len(fake.bodies) == 2 * CLIPS and set(slots(ctx.out).values()) == {"sidecar", "filename", "rule"}


def test_no_more_requests_at_once_than_allowed(context: Callable, catalog: Path) -> None:
    def slow(body: Body) -> Given:
        given = good(body)
        given.delay_s = 0.1
        return given

    with serve(slow) as fake:
        stage.run(context("captions", config(fake.url, runtime={"in_flight": 2}), curate=catalog))
    assert fake.at_once <= 2 and len(fake.bodies) == 2 * CLIPS


def test_equal_catalogs_give_equal_bytes_in_any_order_of_answers(context: Callable, catalog: Path, tags: Path) -> None:
    made = []
    for run, in_flight in enumerate((1, 5)):
        with serve() as fake:
            ctx = context(f"run{run}", config(fake.url, runtime={"in_flight": in_flight}), curate=catalog, tags=tags)
            stage.run(ctx)
        made.append(checksums(ctx.out))
    assert made[0] == made[1]


def test_killed_and_run_again_nobody_is_asked_twice(context: Callable, catalog: Path, tmp_path: Path) -> None:
    answered: list[str] = []
    stuck = threading.Event()

    def half(body: Body) -> Given:
        given = good(body)
        if len(answered) < 5:
            answered.append(given.text)
        else:
            stuck.set()
            given.delay_s = 600
        return given

    ctx = context("captions", config(), curate=catalog)
    code = f"""
import sys; from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_captioning_stage import config
from stepvideo.curation.captioning import stage
from stepvideo.stage import StageContext
inputs = {{"curate": Path({str(catalog)!r})}}
stage.run(StageContext(config(sys.argv[1], runtime={{"in_flight": 1}}), inputs, *map(Path, sys.argv[2:])))
"""
    with serve(half) as fake:
        process = subprocess.Popen(
            [sys.executable, "-c", code, fake.url, str(ctx.out), str(ctx.work)], cwd=ROOT, start_new_session=True
        )
        assert stuck.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        first = len(fake.bodies)
    journal = next(ctx.work.glob("answers-*.jsonl"))
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line]
    kept = [answer for answer in lines if not answer["reason"]]
    assert first == 6 and len(kept) == 5  # and perhaps those of the clip that is broken, for which nobody is asked
    with journal.open("a") as f:
        f.write('{"clip_id": "torn by the')
    with serve() as fake:
        ctx.config = config(fake.url)
        stage.run(ctx)
        again = [good(b).text for b in fake.bodies]
    assert len(again) == 2 * CLIPS - 5 and not set(again) & set(answered)
    with serve() as fake:
        whole = context("whole", config(fake.url), curate=catalog)
        stage.run(whole)
    assert checksums(ctx.out) == checksums(whole.out)


def test_asked_to_stop_it_keeps_what_it_has(context: Callable, catalog: Path) -> None:
    ctx = context("captions", None, curate=catalog)

    def answer(body: Body) -> Given:
        ctx.stop.set()
        return good(body)

    with serve(answer) as fake:
        ctx.config = config(fake.url, runtime={"in_flight": 2})
        with pytest.raises(Preempted):
            stage.run(ctx)
        before = len(fake.bodies)
        ctx.stop.clear()
        assert 1 <= before <= 2
    with serve() as fake:
        ctx.config = config(fake.url)
        stage.run(ctx)
        assert len(fake.bodies) == 2 * CLIPS - before


def test_a_server_that_stays_silent_fails_the_stage_and_not_the_clips(context: Callable, catalog: Path) -> None:
    broken = iter(range(1000))
    with serve(lambda b: Given(status=500) if next(broken) % 3 else good(b)) as fake:
        ctx = context("captions", config(fake.url, runtime={"retries": 0, "in_flight": 1}), curate=catalog)
        with pytest.raises(
            StepVideoError, match="8 of 14 requests were not answered, more than runtime.max_unanswered 0.05"
        ):
            stage.run(ctx)
    with serve() as fake:
        ctx.config = config(fake.url)
        assert stage.run(ctx)["failed"] == 2
        assert len(fake.bodies) == 8


def test_without_a_model_nothing_is_sent_and_rules_speak(context: Callable, catalog: Path, tags: Path) -> None:
    ctx = context("captions", config(kinds=["short", "dense", "title"]), curate=catalog, tags=tags)
    metrics = stage.run(ctx)
    assert metrics["cost"] == 0
    assert metrics["captioned"] == CLIPS / (CLIPS + 1)  # of the still only an ordinary saturation is known
    assert {r["prompt_version"] for r in rows(ctx.out) if r["source"] == "rule"} == {rules.VERSION}
    by_slot = {(int(r["clip_id"], 16), r["kind"], r["language"]): r["text"] for r in rows(ctx.out)}
    assert "circle" in by_slot[2, "short", "en"] and "左" in by_slot[2, "title", "zh"]
    assert "the camera pans left" in by_slot[1, "dense", "en"].lower() and "出口 EXIT" in by_slot[1, "dense", "zh"]
    statistics = json.loads((ctx.out / "statistics.json").read_text())
    assert statistics["groups"]["dense/en/rule"]["captions"] == CLIPS
    assert "set its backends.embedding" in statistics["without_clip_score"]
    aligned = pq.read_table(ctx.out / "tables" / "alignment.parquet")
    assert aligned["clip_score"].null_count == len(aligned) == CLIPS + 1
    assert aligned.schema.metadata[b"absent"].decode() == statistics["without_clip_score"]
    assert {r["source"] for r in rows(ctx.out) if r["flags"]} == {"sidecar"}


def test_captions_are_scored_by_the_clip_that_embedded_the_clips(
    context: Callable, catalog: Path, tmp_path: Path
) -> None:
    drawn = np.random.default_rng(0).normal(size=(CLIPS, HEAD_WIDTH))
    ids, vectors = [name(i) for i in range(CLIPS)], drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    columns = {"clip_id": ids, "embedding": vectors.tolist(), "embedding_length": [0.5] * CLIPS}
    (tmp_path / "tags" / "tables").mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata({"backend": "clip"})
    pq.write_table(table, tmp_path / "tags" / "tables" / "embedding.parquet")
    clip = save_clip(tmp_path / "clip")
    given = config(runtime={"clip": str(clip)}, checks=ChecksConfig(clip_score=0.0))
    ctx = context("captions", given, curate=catalog, tags=tmp_path / "tags")
    metrics = stage.run(ctx)
    found = {(int(r["clip_id"], 16), r["text"]): r["clip_score"] for r in rows(ctx.out) if r["language"] == "en"}
    expected = 0.5 * float(vectors[0] @ released(clip).texts(["the cat"])[0])
    assert found[0, "the cat"] == pytest.approx(expected, abs=1e-6)
    assert metrics["clip_score_en"] == pytest.approx(np.mean([s for s in found.values() if s is not None]))
    assert {r["clip_score"] for r in rows(ctx.out) if r["language"] == "zh"} == {None}
    low = [r for r in rows(ctx.out) if r["clip_score"] is not None and r["clip_score"] < 0]
    assert low and all("clip_score" in r["flags"] for r in low)


def test_clips_that_nobody_can_caption_are_listed(context: Callable, catalog: Path) -> None:
    ctx = context("captions", config(order=["sidecar"]), curate=catalog)
    assert stage.run(ctx)["captioned"] == pytest.approx(1 / (CLIPS + 1))
    assert [r["captions"] for r in rows(ctx.out, "clips")] == [2, *[0] * CLIPS]
    clips = load_catalog(catalog)
    given = [replace(clips[1], clip_id=name(i), captions={"title": {"en": [str(i)]}}) for i in (1, 99)]
    assert [c.captions for c in captioned(given, ctx.out)] == [{}, {"title": {"en": ["99"]}}]


def test_a_model_without_an_address_is_an_error(context: Callable, catalog: Path) -> None:
    with pytest.raises(ConfigError, match="runtime.url is empty"):
        stage.run(context("captions", config(model={"name": "see-7b"}), curate=catalog))


def test_the_key_is_written_nowhere(context: Callable, catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPVIDEO_VLM_KEY", "sk-not-to-be-seen")
    with serve(lambda _: Given(status=400, raw=b"bad key sk-not-to-be-seen")) as fake:
        ctx = context("captions", config(fake.url), curate=catalog)
        stage.run(ctx)
    written = b"".join(p.read_bytes() for d in (ctx.out, ctx.work) for p in d.rglob("*") if p.is_file())
    assert b"sk-not-to-be-seen" not in written and {r["reason"] for r in rows(ctx.out, "failed")} == {
        "rejected",
        "unreadable",
    }


def test_a_folder_without_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="clips.parquet is no table of captions"):
        load_captions(tmp_path)
