"""Videos sampled in the middle of a training: the network's own, the same on two ranks, without a trace in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from toy_flow import ToyFlow, flow_context

from stepvideo.data.video_io import read_image, read_video
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.models.checkpoints import save_dit
from stepvideo.sink import read_events
from stepvideo.storage import sha256_file
from stepvideo.training.fit import fit
from stepvideo.training.monitor.samples import Samples
from stepvideo.training.monitor_config import MonitorConfig, SamplesConfig, ValidationConfig

PROMPTS = ["a small blue square moves up", "一个红色的大圆向右移动", "two large green triangles move left"]
SETTINGS = Sampling(17, 32, 32, steps=2, cfg=1.5, time_shift=2.0)
STATS = LatentStats(torch.full((4,), 0.1), torch.tensor([0.5, 1, 1, 2]))
BARE = MonitorConfig(ValidationConfig(clips=0), norms_every=0, time_bins=0)


def train(folder: Path, models: Path | None, steps: int = 4, cfg: SamplesConfig | None = None):
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    ctx = flow_context(folder, rank, ranks, monitor=BARE)
    if models is not None:
        ctx.inputs = {"vae": models, "text": models}
    module = ToyFlow(steps)
    samples = Samples(cfg or SamplesConfig(every=2, prompts=PROMPTS, seed=3), SETTINGS, STATS)
    trained = fit(module, ctx, callbacks=[samples])
    if rank == 0:
        samples.hand_over(ctx.work, ctx.out)
    return module, trained.get("net")


def files(folder: Path) -> dict[str, str]:
    found = sorted((folder / "out" / "samples").rglob("*.*"))
    return {p.relative_to(folder / "out").as_posix(): sha256_file(p) for p in found}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny_models):
    folder = tmp_path_factory.mktemp("sampled")
    return folder, *train(folder, tiny_models)


def test_every_prompt_has_a_video_and_a_row_of_the_sheet(sampled):
    folder, _, _ = sampled
    names = ["0.mp4", "1.mp4", "2.mp4", "sheet.png"]
    assert list(files(folder)) == [f"samples/step-{s:07d}/{n}" for s in (2, 4) for n in names]
    assert read_video(folder / "out" / "samples" / "step-0000002" / "1.mp4").shape == (17, 192, 192, 3)
    assert read_image(folder / "out" / "samples" / "step-0000004" / "sheet.png").shape == (3 * 196 - 4, 5 * 196 - 4, 3)
    events = [r for r in read_events(folder / "events.jsonl")[0] if r.get("name") == "samples"]
    assert [e["step"] for e in events] == [2, 4] and events[0]["prompts"] == PROMPTS
    assert events[1]["files"] == [n for n in files(folder) if "0000004" in n]


def test_they_are_what_the_model_that_is_handed_over_makes(sampled, tiny_models, tmp_path):
    folder, _, net = sampled
    save_dit(net, tmp_path)  # has the averaged weights, as the samples
    (tmp_path / "transformer" / "latent_stats.json").write_text('{"mean": [0.1, 0.1, 0.1, 0.1], "std": [0.5, 1, 1, 2]}')
    pipe = Pipeline.load(tmp_path, tiny_models, tiny_models, device="cpu", precision="fp32")
    made = pipe.decode(pipe.sample(PROMPTS, seed=3, settings=SETTINGS).latents)
    for i in range(3):
        kept = read_video(folder / "out" / "samples" / "step-0000004" / f"{i}.mp4")[:, ::6, ::6]
        assert abs(kept.astype(int) - made[i]).mean() < 8, "as far as the video's compression goes"


def test_sampling_leaves_no_trace(sampled, tmp_path):
    _, module, net = sampled
    bare = ToyFlow(4)
    same = fit(bare, flow_context(tmp_path, monitor=BARE))["net"]
    assert bare.curve == module.curve
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))


def _on_a_rank(folder: str, models: str):
    cfg = SamplesConfig(every=9, prompts=PROMPTS, seed=3, ema=False)
    train(Path(folder) / os.environ["WORLD_SIZE"], Path(models), 1, cfg)


def test_two_ranks_sample_the_same(ranks, tmp_path, tiny_models):
    for n in (1, 2):
        ranks(n, _on_a_rank, str(tmp_path), str(tiny_models))
    one, two = files(tmp_path / "1"), files(tmp_path / "2")
    assert list(one) == list(two) and len(one) == 4
    for name in (n for n in one if n.endswith("mp4")):
        a, b = (read_video(tmp_path / n / "out" / name).astype(int) for n in "12")
        assert abs(a - b).mean() < 0.5, name


def test_what_a_killed_attempt_sampled_is_kept(sampled, tmp_path, tiny_models):
    folder, _, _ = sampled

    class Killed(BaseException):
        pass

    ctx = flow_context(tmp_path, monitor=BARE)
    ctx.inputs = {"vae": tiny_models, "text": tiny_models}
    module = ToyFlow(4)

    def die(step: int) -> None:
        if step == 3:
            raise Killed

    module.before_step = die
    with pytest.raises(Killed):
        fit(module, ctx, callbacks=[Samples(SamplesConfig(every=2, prompts=PROMPTS, seed=3), SETTINGS, STATS)])
    first = tmp_path / "work" / "samples" / "step-0000002" / "0.mp4"
    made = first.stat().st_mtime_ns
    train(tmp_path, tiny_models)
    assert first.stat().st_mtime_ns == made and files(tmp_path) == files(folder)


def test_without_the_inputs_it_says_so_once(tmp_path):
    train(tmp_path, None)
    events = [r for r in read_events(tmp_path / "events.jsonl")[0] if r.get("name") == "no_samples"]
    assert len(events) == 1 and "vae and text" in events[0]["reason"]
    assert not (tmp_path / "out" / "samples").exists()


def test_impossible_settings():
    with pytest.raises(ValueError, match="prompts is empty"):
        SamplesConfig(every=5)
    with pytest.raises(ValueError, match="fps=0"):
        SamplesConfig(fps=0)
