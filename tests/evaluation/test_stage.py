"""The evaluate stage end to end on a model of random weights: artifact, resume, pairing, gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intervals import bare
from safetensors.torch import load_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.data.video_io import read_image, read_video
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ArtifactError, ConfigError, Preempted, StepVideoError
from stepvideo.evaluation import gate as gates
from stepvideo.evaluation.config import EvaluateConfig, GateConfig
from stepvideo.evaluation.results import GATE_PARTS, preference, rates, read_rows
from stepvideo.evaluation.stage import ask, keep, run, samplings
from stepvideo.stage import StageContext
from stepvideo.world.attributes import NAMES, Attrs

SMALL: dict[str, Any] = {
    "n_train": 7,
    "n_heldout": 5,
    "batch_size": 4,
    "save_videos": 4,
    "extra_runs": [{"name": "two", "steps": 2, "cfg": 1.0}],
    "gate": {"clips": 6, "reconstructions": 3},
    "precision": "fp32",
    "runtime": {"device": "cpu"},
}
FEW: dict[str, Any] = {"n_train": 1, "n_heldout": 1, "save_videos": 0, "extra_runs": []}  # where they do not matter


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def metrics(self, step, values): ...

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def progress(self, done, total, unit="it"): ...


def context(models: Path, folder: Path, **changes: Any) -> StageContext:
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir(exist_ok=True)
    inputs = {"model": models, "vae": models, "text": models}
    config = load(EvaluateConfig, SMALL | changes)
    return StageContext(config, inputs, folder / "out", folder / "work", Recorder())


@pytest.fixture(scope="module")
def done(tiny_models, tmp_path_factory) -> tuple[StageContext, dict[str, float]]:
    ctx = context(tiny_models, tmp_path_factory.mktemp("evaluate"))
    return ctx, run(ctx)


def test_every_prompt_is_sampled_and_judged(done):
    ctx, metrics = done
    runs = read_rows(ctx.out / "results.jsonl")
    assert list(runs) == ["main", "two"]
    main, two = runs["main"], runs["two"]
    assert [r.held_out for r in main] == [False] * 7 + [True] * 5
    assert {r.lang for r in main} == {"zh", "en"}
    assert [(r.text, r.seed) for r in main] == [(r.text, r.seed) for r in two]
    assert (main[0].steps, main[0].nfe, two[0].steps, two[0].nfe) == (4, 8, 2, 2)
    assert (metrics["n"], metrics["nfe"], metrics["two/nfe"]) == (12, 8, 2)
    assert set(main[0].right) == {*NAMES, "all"}


def test_rows_agree_with_a_sample_made_by_hand(done, tiny_models):
    """Prompt 9, sampled alone, gives the kept latents; its row is what the oracle reads in the decoded frames."""
    from stepvideo.world import oracle

    ctx, _ = done
    row = read_rows(ctx.out / "results.jsonl")["main"][9]
    pipe = Pipeline.load(tiny_models, tiny_models, tiny_models, "cpu", "fp32")
    alone = pipe.sample([row.text], seed=row.seed, indices=[9]).latents
    stored = load_file(ctx.out / "latents" / "main.safetensors")["latents"]
    assert stored.shape == (12, 3, 4, 2, 2)
    np.testing.assert_allclose(stored[9].float(), alone[0], atol=5e-3, rtol=2e-3)
    reading = oracle.read(pipe.decode(alone)[0])
    assert row.reading == {n: getattr(reading, n) for n in NAMES}


def test_what_the_oracle_cannot_read_is_not_a_result(done):
    """A VAE of random weights shows nothing: every attribute is untestable, and no rate is reported."""
    ctx, metrics = done
    summary = storage.read_json(ctx.out / "summary.json")
    testable = summary["gate"]["testable"]
    assert not any(testable.values())
    assert all(v is None for v in summary["runs"]["main"]["splits"]["heldout"]["rates"].values())
    assert not [k for k in metrics if k.startswith(("train/", "heldout/", "two/train"))]
    assert all(v is None for r in read_rows(ctx.out / "results.jsonl")["main"] for v in r.right.values())
    assert metrics["gate/reconstruction/colour"] < 0.95
    assert bare(summary) == [] == bare(metrics) and summary["intervals"]["gate"].startswith("Wilson")
    assert bare(storage.read_json(ctx.out / "gate.json")) == []
    name, fields = next(e for e in ctx.sink.events if e[0] == "gate")
    assert fields["all"] == "untestable"


def test_kept_samples_play_and_the_sheet_shows_them(done):
    ctx, _ = done
    main = read_rows(ctx.out / "results.jsonl")["main"]
    kept = [r for r in main if r.sample]
    assert [r.index for r in kept] == [0, 1, 7, 8]
    video = read_video(ctx.out / kept[0].sample)
    assert video.shape == (17, 192, 192, 3)
    sheet = read_image(ctx.out / "contact_sheet.png")
    assert sheet.shape == (4 * 100 - 4, 5 * 100 - 4, 3)


def files(root: Path) -> dict[str, str]:
    return {k: v["sha256"] for k, v in storage.checksums(root).items()}


def test_the_same_bytes_again_and_after_a_stop_half_way(done, tiny_models, tmp_path):
    ctx, _ = done
    again = context(tiny_models, tmp_path / "again")
    run(again)
    assert files(again.out) == files(ctx.out)

    half = context(tiny_models, tmp_path / "half")
    calls = iter(range(100))
    half.should_stop = lambda: next(calls) >= 4  # type: ignore[method-assign]  # after 4 of 6 batches
    with pytest.raises(Preempted):
        run(half)
    assert not list(half.out.glob("results*"))
    finished = sorted(half.work.glob("runs/*/batch-*.jsonl"))
    assert len(finished) == 4
    times = [p.stat().st_mtime_ns for p in finished]
    run(StageContext(half.config, half.inputs, half.out, half.work))
    assert [p.stat().st_mtime_ns for p in finished] == times  # not done again
    assert files(half.out) == files(ctx.out)


def test_a_missing_sample_fails_the_stage(done, tiny_models, tmp_path):
    ctx = context(tiny_models, tmp_path / "a", extra_runs=[], save_videos=0)
    run(ctx)
    batch = ctx.work / "runs" / "main" / "batch-000004.jsonl"
    batch.write_text("".join(batch.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ArtifactError, match=r"run main has no result for prompt \[7\]"):
        run(ctx)


def test_prompts_and_noise_are_the_same_for_every_model(tiny_models):
    cfg = load(EvaluateConfig, {})
    asked = ask(cfg, still=False)
    assert len(asked) == 400 and sum(p.held_out for p in asked) == 200
    assert asked == ask(load(EvaluateConfig, {"batch_size": 5, "steps": 7, "seed": 3}), still=False)
    kept = keep(asked, 12)
    assert len(kept) == 12 and sum(asked[i].held_out for i in kept) == 6
    stills = ask(cfg, still=True)
    assert len(stills) == 200 and all(p.attrs.direction is None and not p.held_out for p in stills)
    assert keep(stills, 12) == list(range(12))


def test_sampling_falls_back_to_the_main_run_then_to_the_model():
    model = Sampling(17, 64, 64, 16, 3.0, 2.0)
    cfg = load(EvaluateConfig, {"steps": 8, "extra_runs": [{"name": "a"}, {"name": "b", "steps": 50, "cfg": 1.0}]})
    runs = samplings(cfg, model)
    assert runs["main"] == runs["a"] == replace(model, steps=8)
    assert runs["b"] == replace(model, steps=50, cfg=1.0)


def test_gate_passes_perfect_reconstructions_and_fails_noise():
    cfg = GateConfig(clips=24, reconstructions=12)
    perfect = gates.run_gate(cfg, 17, 64, 64, lambda video: video)
    assert all(perfect.testable.values()) and perfect.reconstruction["shape"].n == 12
    grey = gates.run_gate(cfg, 17, 64, 64, lambda video: np.full_like(video, 128))
    assert not any(grey.testable.values()) and grey.ground_truth["colour"].ok
    still = gates.run_gate(cfg, 1, 64, 64, lambda video: video)
    assert still.ground_truth["direction"].rate is None and not still.testable["direction"]
    assert still.testable["all"] and still.testable["colour"]  # stills have no direction to get wrong
    said = json.loads(json.dumps(perfect.as_dict()))
    assert gates.Gate.from_dict(said) == perfect and 0.7 < said["reconstruction"]["shape"]["low"] < 1
    old = {part: {n: {k: r[k] for k in ("rate", "n", "bar")} for n, r in said[part].items()} for part in GATE_PARTS}
    assert gates.Gate.from_dict(old) == perfect  # of artifacts that were made before gates had intervals
    with pytest.raises(ConfigError, match="16x16"):
        gates.run_gate(cfg, 17, 16, 16, lambda video: video)


def test_gate_truth_covers_the_grid():
    attrs = gates.truth(288, 17, 64, 64)
    assert len(set(attrs)) == 288
    assert {a.colour for a in gates.truth(24, 17, 64, 64)} == {a.colour for a in attrs}
    assert all(isinstance(a, Attrs) and a.direction is None for a in gates.truth(5, 1, 64, 64))


def test_the_gate_of_another_evaluation_is_used_if_it_fits(done, tiny_models, tmp_path, monkeypatch):
    ctx, _ = done
    calls = []
    monkeypatch.setattr(gates, "run_gate", lambda *a, **k: calls.append(1) or pytest.fail("the gate was run again"))
    other = context(tiny_models, tmp_path / "fits", **FEW)
    other.inputs["gate"] = ctx.out
    run(other)
    assert (other.out / "gate.json").read_bytes() == (ctx.out / "gate.json").read_bytes()
    monkeypatch.undo()
    changed = context(tiny_models, tmp_path / "changed", **FEW, gate={"clips": 7, "reconstructions": 2})
    changed.inputs["gate"] = ctx.out
    run(changed)
    assert storage.read_json(changed.out / "gate.json")["gate"]["ground_truth"]["colour"]["n"] == 7


def test_a_perfect_model_is_preferred_and_scores_one(tiny_models, tmp_path, monkeypatch):
    """With the ground truth in place of samples the stage must report all-right rates of one, with an interval."""
    from stepvideo.world.config import RenderConfig
    from stepvideo.world.render import render

    ctx = context(tiny_models, tmp_path, frames=17, height=64, width=64, save_videos=0, extra_runs=[])
    asked = ask(ctx.config, still=False)
    look = RenderConfig(size=64, frames=17)
    truth = [render(p.attrs, i, look, allow_held_out=True) for i, p in enumerate(asked)]
    served = iter(truth)
    monkeypatch.setattr(Pipeline, "decode", lambda self, z, n=8: np.stack([next(served) for _ in range(len(z))]))
    monkeypatch.setattr(Pipeline, "reconstruct", lambda self, video, n=8: video)
    metrics = run(ctx)
    assert metrics["train/all"] == metrics["heldout/all"] == 1.0
    assert 0.5 < metrics["heldout/all_low"] < metrics["heldout/all_high"] == 1.0
    assert bare(metrics) == [] == bare(storage.read_json(ctx.out / "summary.json"))
    rows = read_rows(ctx.out / "results.jsonl")["main"]
    wrong = [replace(r, right={**r.right, "size": False, "all": False}) for r in rows]
    assert preference(rows, wrong).score.value == 1.0
    assert rates(wrong)["all"].value == 0.0
    assert not (ctx.out / "contact_sheet.png").exists()


def test_bad_requests(tiny_models, tmp_path):
    with pytest.raises(StepVideoError, match="height=40 must be a multiple of 16"):
        run(context(tiny_models, tmp_path / "size", height=40))
    ctx = context(tiny_models, tmp_path / "input")
    del ctx.inputs["vae"]
    with pytest.raises(ArtifactError, match="no input vae"):
        run(ctx)
    ctx = context(tiny_models, tmp_path / "ranks")
    ctx.world_size = 2
    with pytest.raises(StepVideoError, match="nproc=1"):
        run(ctx)
    for changes, message in (
        ({"extra_runs": [{"name": "main"}]}, "each needs a name of its own"),
        ({"languages": ["fr"]}, "languages="),
        ({"gate": {"clips": 3, "reconstructions": 4}}, "reconstructions=4"),
        ({"cfg_schedule": "linear"}, "cfg_schedule='linear'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(EvaluateConfig, changes)
