"""The reward model: outcomes as Rao and Kupper have them, learning, calibration, and ranking by it."""

from __future__ import annotations

import copy
import json
import math
import os

import numpy as np
import pytest
import rank_pool
import torch
from latent_cache import context
from safetensors.torch import save_file

from stepvideo.data.draw import rng
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from stepvideo.models.checkpoints import save_dit
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel
from stepvideo.stage import kind, resolve
from stepvideo.training.dpo_config import RankedConfig, RewardConfig
from stepvideo.training.ranked import score
from stepvideo.training.reward import Comparisons, calibrate, quality, read_comparisons, split
from stepvideo.training.reward_model import (
    Calibration,
    RewardModel,
    load_reward,
    outcomes,
    save_reward,
    seen_prompts,
    votes_loss,
)

Z, WIDTH = 4, 12
CFG = DiTConfig(2, 16, 2, Z, Z, caption_channels=[WIDTH, WIDTH])
RUNTIME = {"device": "cpu", "threads": 1, "workers": 0, "log_every": 1, "checkpoint_every": 10}


def dit(seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    net = DiT(CFG)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return net


def made_pairs(folder, count: int = 48, ties: int = 16, seed: int = 0, tokens: int = 3):
    """Winners have more of channel 0; annotators err at times. Ties differ in nothing that counts."""
    folder.mkdir(parents=True)
    draw, votes = torch.Generator().manual_seed(seed), rng(seed, "votes")

    def text(n: int):
        return {
            "encoder_hidden_states": torch.randn(n, tokens, WIDTH, generator=draw),
            "encoder_hidden_states_2": torch.randn(n, 2, WIDTH, generator=draw),
            "encoder_attention_mask": torch.ones(n, tokens + 2, dtype=torch.int64),
        }

    loser = torch.randn(count, 2, Z, 2, 2, generator=draw)
    winner = torch.randn(count, 2, Z, 2, 2, generator=draw)
    winner[:, :, 0] += 1.5
    save_file({"winner": winner, "loser": loser, **text(count)}, folder / "pairs.safetensors")
    rows = [
        {"prompt": f"p{i // 2}", "votes": [1, 1, int(votes.choice([1, 0, -1], p=[0.7, 0.1, 0.2]))]}
        for i in range(count)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    same = torch.randn(ties, 2, Z, 2, 2, generator=draw)
    other = same + 0.05 * torch.randn(ties, 2, Z, 2, 2, generator=draw)
    save_file({"first": same, "second": other, **text(ties)}, folder / "ties.safetensors")
    said = [{"prompt": f"p{i}", "votes": [0, 0, 0]} for i in range(ties)]
    (folder / "ties.jsonl").write_text("".join(json.dumps(r) + "\n" for r in said))
    return folder


def test_outcomes_add_up_and_have_no_sides():
    d = torch.linspace(-6, 6, 25, dtype=torch.float64)
    p = outcomes(d, 0.7).exp()
    assert torch.allclose(p.sum(1), torch.ones_like(d)) and torch.allclose(p, outcomes(-d, 0.7).exp().flip(1))
    theta = math.exp(0.7)  # Rao and Kupper (1967), with strengths e^d and 1
    assert torch.allclose(p[:, 0], d.exp() / (d.exp() + theta))
    assert torch.allclose(p[:, 1], d.exp() * (theta**2 - 1) / ((d.exp() + theta) * (1 + theta * d.exp())))
    assert torch.allclose(outcomes(d, 0.0).exp()[:, 0], torch.sigmoid(d))


def test_a_tie_that_was_thought_impossible_still_has_a_gradient():
    sure = torch.tensor([40.0], requires_grad=True)
    loss = votes_loss(sure, 0.5, torch.tensor([[0.0, 1.0, 0.0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(40.5 - math.log(math.e - 1), rel=1e-5)
    assert sure.grad is not None and sure.grad.item() == pytest.approx(1.0)
    assert torch.isfinite(votes_loss(sure, 0.0, torch.tensor([[3.0, 0.0, 0.0]]))).all()


def test_no_video_is_better_before_training_and_a_saved_model_is_the_same(tmp_path):
    net = RewardModel(dit()).eval()
    x = torch.randn(3, 2, Z, 2, 2)
    text = {
        "encoder_hidden_states": torch.randn(3, 3, WIDTH),
        "encoder_hidden_states_2": torch.randn(3, 2, WIDTH),
        "encoder_attention_mask": torch.ones(3, 5, dtype=torch.int64),
    }
    assert torch.equal(net(x, **text)[0], torch.zeros(3))
    torch.nn.init.normal_(net.head.weight)
    copied = copy.deepcopy(net)
    torch.nn.init.zeros_(net.dit.pos_embed.proj.weight)
    assert not torch.equal(copied(x, **text)[0], net(x, **text)[0]), "the copy reads its own network"
    with torch.autocast("cpu", torch.bfloat16):
        fine = copied(x, **text)[0]
    assert not torch.equal(fine, fine.bfloat16().float()), "a score has more digits than bf16"
    save_reward(net, tmp_path, Calibration(1.5, 0.25))
    again, calibration = load_reward(tmp_path)
    assert torch.equal(again(x, **text)[0], net(x, **text)[0]) and calibration == Calibration(1.5, 0.25)
    by_prompt = score(
        net, torch.cat([x, x]).reshape(2, 3, 2, Z, 2, 2).transpose(0, 1).reshape(6, 2, Z, 2, 2), text, 2, 4
    )
    assert torch.allclose(by_prompt.reshape(3, 2)[:, 0], net(x, **text)[0], atol=1e-6)
    (tmp_path / "reward" / "calibration.json").write_text('{"warmth": 1}')
    with pytest.raises(ArtifactError, match="holds no reward model"):
        load_reward(tmp_path)


def test_temperature_and_ties_are_found_again():
    """Votes drawn from known probabilities, of scores that are twice too sure."""
    draw = np.random.default_rng(0)
    true = torch.from_numpy(draw.normal(0, 1.5, 4000))
    p = outcomes(true, 0.4).exp().numpy()
    votes = torch.from_numpy(np.stack([draw.multinomial(3, row / row.sum()) for row in p])).float()
    found = calibrate(2 * true, votes, Calibration(1.0, 1.0))
    assert found.temperature == pytest.approx(2.0, rel=0.06) and found.tie == pytest.approx(0.4, rel=0.1)
    before, after = (quality(2 * true, votes, c) for c in (Calibration(1.0, 0.4), found))
    assert after["nll"] < before["nll"] and after["ece"] < 0.01 < before["ece"]


def test_a_stage_learns_and_goes_on_from_an_earlier_one(stage, tmp_path):
    pairs = made_pairs(tmp_path / "pairs")
    save_dit(dit(), tmp_path / "init")
    config = {"steps": 40, "batch_size": 16, "precision": "32-true", "dropout": 0.0, "layers": 1, "runtime": RUNTIME}
    config["optim"] = {"lr": 1e-2, "warmup": 2}
    out, metrics = stage("reward", {"init": tmp_path / "init", "pairs.1": pairs}, config)
    assert metrics["accuracy"] > 0.8 and metrics["comparisons"] == 64 and metrics["loss"] < 0.95
    assert len(load_reward(out)[0].dit.transformer_blocks) == 1
    judged = [json.loads(line) for line in (out / "judged.jsonl").read_text().splitlines()]
    parts = {part: {r["prompt"] for r in judged if r["part"] == part} for part in ("calibration", "test")}
    assert parts["test"] and not parts["test"] & parts["calibration"]

    more = made_pairs(tmp_path / "more", seed=1, tokens=4)
    mask = read_comparisons({"pairs.1": pairs, "pairs.2": more}).tensors["encoder_attention_mask"]
    assert mask.shape == (128, 6) and mask[:64].sum(1).eq(5).all() and mask[64:].sum(1).eq(6).all()
    config |= {"steps": 2, "optim": {"lr": 1e-4, "warmup": 0}}
    _, refreshed = stage("reward", {"init": out, "pairs.1": pairs, "pairs.2": more}, config, "refreshed")
    assert refreshed["comparisons"] == 128 and refreshed["accuracy"] > 0.8  # forty steps were not lost
    before, after = (seen_prompts(f) for f in (out, tmp_path / "refreshed" / "out"))
    assert before["train"] and all(set(before[part]) <= set(after[part]) for part in before)


def test_a_prompt_stays_in_its_part_when_others_come():
    """Else the second round would be tested on what the first has trained on."""
    cfg = RewardConfig(held_out=0.5)
    first = split(Comparisons({}, [f"p{i}" for i in range(20)]), cfg)
    more = Comparisons({}, [f"p{i}" for i in range(60)])
    second = split(more, cfg, first)
    assert all(first[part] < second[part] for part in first)
    assert [len(second[part]) for part in ("train", "calibration", "test")] == [30, 15, 15]
    assert split(more, RewardConfig(held_out=0.5, seed=7), first) != second  # only the new ones are drawn


def test_votes_are_seen_from_the_first(tmp_path):
    """Simulated ones are kept as they were given; an adjudicator's word stands against them."""
    folder = made_pairs(tmp_path / "pairs", count=4, ties=2)
    rows = [[-1, -1, 1], [1, 1, 0], [-1, -1, 1], [1]]
    said = [{"prompt": f"p{i}", "votes": v} | ({"by": "adjudicated"} if i == 2 else {}) for i, v in enumerate(rows)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in said))
    votes = read_comparisons({"pairs.1": folder}).tensors["votes"].int().tolist()
    assert votes == [[2, 0, 1], [2, 1, 0], [1, 0, 0], [1, 0, 0], [0, 3, 0], [0, 3, 0]]


STEPS = {"steps": 3, "batch_size": 8, "precision": "bf16-mixed", "dropout": 0.0, "runtime": RUNTIME}


def on_a_rank(inputs, folder, config):
    ctx = context("reward", inputs, config, folder)
    ctx.rank, ctx.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return resolve(kind("reward").run)(ctx)


@pytest.mark.soak  # as of dpo
def test_two_ranks_train_as_one(stage, tmp_path):
    inputs = {"init": tmp_path / "init", "pairs.1": made_pairs(tmp_path / "pairs")}
    save_dit(dit(), tmp_path / "init")
    alone = stage("reward", inputs, STEPS)[1]
    both, other = rank_pool.shared()(2, on_a_rank, inputs, tmp_path / "two", STEPS)
    assert not other and both["loss"] == pytest.approx(alone["loss"], rel=0.01)
    assert both["tie"] == pytest.approx(alone["tie"], rel=0.02) and both["nll"] == pytest.approx(alone["nll"], rel=0.02)


@pytest.mark.parametrize("degree", ["tensor", "ulysses"])
def test_ranks_that_divide_a_network_refuse_it(monkeypatch, degree):
    """Before anything of it is divided, and by name; the stage says the same (in soak)."""
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    cfg = TrainParallelConfig(tensor=2) if degree == "tensor" else TrainParallelConfig(ulysses=2)
    parallel = TrainParallel(cfg, 2, torch.device("cpu"), None)
    with pytest.raises(ConfigError, match=rf"{degree}=2.* divide a DiT, not a RewardModel; leave them at 1"):
        parallel.divide(RewardModel(dit()), precision="32-true")


def refused_on_a_rank(*args):
    with pytest.raises(ConfigError) as refused:
        on_a_rank(*args)
    return str(refused.value)


@pytest.mark.soak
@pytest.mark.parametrize("degree", ["tensor", "ulysses"])
def test_a_stage_on_such_ranks_ends_with_that_error(tmp_path, degree):
    inputs = {"init": tmp_path / "init", "pairs.1": made_pairs(tmp_path / "pairs")}
    save_dit(dit(), tmp_path / "init")
    config = {**STEPS, "runtime": {**RUNTIME, "parallel": {degree: 2}}}
    said = rank_pool.shared()(2, refused_on_a_rank, inputs, tmp_path / "two", config)
    assert all(f"parallel.{degree}=2" in text and "not a RewardModel" in text for text in said)
    assert not list((tmp_path / "two" / "out").iterdir()), "nothing is half-written"


def test_labels_that_say_nothing_teach_nothing(tmp_path):
    """The likelihood of votes that a coin threw is best where all scores are equal."""
    draw = torch.Generator().manual_seed(0)
    d = torch.randn(2000, generator=draw, dtype=torch.float64)
    side = torch.randint(0, 2, (2000,), generator=draw)
    votes = torch.stack([side, torch.zeros_like(side), 1 - side], 1)
    flat, sure = (float(votes_loss(d / t, 0.0, votes).mean()) for t in (50.0, 0.5))
    assert flat == pytest.approx(math.log(2), abs=1e-3) and flat < sure


def test_what_cannot_be_trained_on_is_named(tmp_path):
    pairs = made_pairs(tmp_path / "pairs")
    with pytest.raises(StepVideoError, match="1 prompts are too few"):
        split(Comparisons({}, ["p0"] * 4), RewardConfig())
    with pytest.raises(ValueError, match="a pair needs two"):
        RankedConfig(samples=1)
    (tmp_path / "reward").mkdir()
    with pytest.raises(ArtifactError, match="which prompts this reward model has seen"):
        seen_prompts(tmp_path)
    (pairs / "pairs.jsonl").write_text("")
    with pytest.raises(ArtifactError, match=r"has 48 pairs, pairs.jsonl 0"):
        read_comparisons({"pairs.1": pairs})
