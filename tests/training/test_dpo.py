"""Video-DPO: its reference, its options, what is said of every step, and two ranks against one."""

from __future__ import annotations

import json
import os

import pytest
import rank_pool
import torch
from latent_cache import DIT, TRAIN, WIDTH, Z, context
from lora_cases import batch as dit_batch
from lora_cases import network
from safetensors.torch import load_file, save_file

from stepvideo.errors import Preempted, StepVideoError
from stepvideo.models.checkpoints import save_dit, save_model_index, save_scheduler
from stepvideo.sink import read_events
from stepvideo.stage import kind, resolve
from stepvideo.training import lora
from stepvideo.training.dpo import diversity
from stepvideo.training.dpo_config import DPOConfig, DPOWatchConfig
from stepvideo.training.dpo_module import DPOModule, PairSource
from stepvideo.training.dpo_watch import COLUMNS, alarms
from stepvideo.training.lora_config import LoRAConfig

PAIRS = 8
CONFIG = {"steps": 12, "batch_size": 8, "beta": 50.0, "precision": "32-true", "runtime": TRAIN["runtime"]}
CONFIG |= {"optim": {"lr": 1e-3, "warmup": 2}, "watch": {"window": 4}}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def tensors():
    """Winners have more of channel 0 than losers."""
    draw = torch.Generator().manual_seed(0)
    loser = torch.randn(PAIRS, 3, Z, 3, 3, generator=draw)
    winner = loser.clone()
    winner[:, :, 0] += 1.5
    text = {
        k: torch.randn(PAIRS, 5, WIDTH, generator=draw) for k in ("encoder_hidden_states", "encoder_hidden_states_2")
    }
    return {
        "winner": winner,
        "loser": loser,
        **text,
        "encoder_attention_mask": torch.ones(PAIRS, 10, dtype=torch.int64),
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    for part in ("init", "pairs"):
        (folder / part).mkdir()
    save_file(tensors(), folder / "pairs" / "pairs.safetensors")
    save_dit(network(num_layers=DIT["num_layers"]), folder / "init")
    save_scheduler(folder / "init")
    save_model_index(folder / "init", False)
    return {"init": folder / "init", "pairs": folder / "pairs"}


def train(inputs, folder, **changes):
    ctx = context("dpo", inputs, {**CONFIG, **changes}, folder)
    metrics = resolve(kind("dpo").run)(ctx)
    curve = json.loads((ctx.out / "loss_curve.json").read_text())
    return ctx, metrics, {c: list(v) for c, v in zip(curve["columns"], zip(*curve["rows"]), strict=True)}


def test_adapters_off_are_the_frozen_reference_bit_for_bit():
    cfg, given = DPOConfig(lora=LoRAConfig(rank=4)), network()
    frozen = DPOModule(DPOConfig(), network(), tensors())
    net = network()
    lora.apply(net, cfg.lora, seed=1)
    with torch.no_grad():
        for value in lora.adapters(net).values():
            value.normal_()
    module = DPOModule(cfg, net, tensors())
    args = dit_batch()
    x = args.pop("hidden_states")
    batch = {**{k: v for k, v in args.items() if k != "timestep"}, "noise": x, "t": args["timestep"]}
    one, two = (m.reference_velocity(batch, torch.zeros_like(x)) for m in (frozen, module))
    assert module.reference is None and not module.fixed()
    assert torch.equal(one, two) and not one.requires_grad and not two.requires_grad
    assert not torch.equal(module.net(hidden_states=x, **args), given(hidden_states=x, **args)), "adapters do nothing"
    assert all(not p.requires_grad for p in frozen.fixed()["reference"].parameters())


def test_every_step_is_described_and_a_killed_run_says_the_same(inputs, tmp_path):
    ctx, metrics, curve = train(inputs, tmp_path / "a", beta=2.0)
    assert list(curve) == ["step", "loss", "grad_norm", *COLUMNS] and curve["step"] == list(range(CONFIG["steps"]))
    # at the reference: no margin, half of beta; Eq. 9's factor falls as the margin grows
    assert curve["reward_margin"][0] == pytest.approx(0, abs=1e-4) and curve["gradient_scale"][0] == pytest.approx(1)
    assert curve["implicit_accuracy"][-1] == 1 and curve["gradient_scale"][-1] < 0.9 and curve["negative_z"][-1] == 0
    assert curve["gradient_ratio"] == pytest.approx(
        [n / s for n, s in zip(curve["grad_norm"], curve["gradient_scale"], strict=True)], rel=1e-4
    )
    assert 0 < curve["drift"][0] < curve["drift"][-1] and curve["velocity_distance"][-1] > curve["velocity_distance"][0]
    assert curve["drift"][-1] == pytest.approx(metrics["drift"], rel=1e-3), "measured two ways"
    assert metrics["diversity_before"] > 0 and metrics["diversity_after"] != metrics["diversity_before"]

    killed = context("dpo", inputs, {**CONFIG, "beta": 2.0}, tmp_path / "b")
    killed.stop.set()
    with pytest.raises(Preempted):  # after the first step
        resolve(kind("dpo").run)(killed)
    _, again, other = train(inputs, tmp_path / "b", beta=2.0)
    assert other == curve and again == metrics
    assert (tmp_path / "b" / "out" / WEIGHTS).read_bytes() == (ctx.out / WEIGHTS).read_bytes()


def test_pairs_that_are_held_out_are_judged_and_never_trained_on(inputs, tmp_path):
    cfg = DPOConfig(held_out=0.25, batch_size=3)
    source = PairSource(cfg, tensors())
    assert len(source.held_out) == 2 and sorted(source.held_out + source.rows) == list(range(PAIRS))
    seen = {i for step in range(20) for part in source.micro_batches(step, 0, 1, 1) for i in part["ids"]}
    assert seen == {f"pair {i}" for i in source.rows}
    _, metrics, curve = train(inputs, tmp_path, held_out=0.25, batch_size=6, watch={"diversity": 0})
    assert curve["held_out_accuracy"][-1] == metrics["held_out_accuracy"] == 1, "the preference is the same everywhere"


def test_an_explosion_is_an_event_or_ends_the_run(inputs, tmp_path):
    wild = {"optim": {"lr": 0.3, "warmup": 0}, "watch": {"window": 3, "diversity": 0}}
    ctx, metrics, _ = train(inputs, tmp_path / "log", **wild)
    said = [e for e in read_events(tmp_path / "log" / "events.jsonl")[0] if e.get("name") == "dpo_alarm"]
    assert metrics["alarms"] == len(said) >= 1 and len({e["alarm"] for e in said}) == len(said), "each is said once"
    wild["watch"]["on_alarm"] = "stop"
    with pytest.raises(StepVideoError, match="lower optim.lr"):
        train(inputs, tmp_path / "stop", **wild)


def test_alarms():
    cfg = DPOWatchConfig(rise=0.1, distance=0.3)
    fine = {"winner_change": -0.1, "loser_change": 0.5, "reference_loss": 1.0, "velocity_distance": 0.1}
    assert not alarms(fine, cfg)
    assert list(alarms({**fine, "winner_change": 0.2}, cfg)) == ["both_rise"]
    assert list(alarms({**fine, "velocity_distance": 0.4}, cfg)) == ["far"]


def test_options(inputs, tmp_path):
    watch = {"watch": {"diversity": 0}, "steps": 6}
    plain = train(inputs, tmp_path / "plain", **watch)[2]
    anchored = train(inputs, tmp_path / "anchor", sft_anchor=20.0, **watch)[2]
    assert anchored["winner_change"][-1] < plain["winner_change"][-1], "the anchor pulls towards the winners"
    careful = train(inputs, tmp_path / "careful", label_smoothing=0.3, **watch)[2]
    assert careful["reward_margin"][-1] < plain["reward_margin"][-1]
    small, _, half = train(inputs, tmp_path / "bf16", reference="bf16", **watch)
    assert half["reward_margin"][-1] == pytest.approx(plain["reward_margin"][-1], rel=0.1)
    for changes, word in (
        ({"label_smoothing": 0.5}, "labels say nothing"),
        ({"sft_anchor": -1.0}, "sft_anchor=-1"),
        ({"reference": "fp8"}, "fp32, bf16"),
        ({"reference": "bf16", "lora": LoRAConfig(rank=2)}, "takes no memory"),
        ({"beta": 0.0}, "beta=0"),
    ):
        with pytest.raises(ValueError, match=word):
            DPOConfig(**changes)


def test_diversity_is_zero_where_the_noise_says_nothing():
    class Still(torch.nn.Module):
        """Moves every noise to one point of the prompt."""

        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(()))

        def forward(self, hidden_states, timestep, **_):
            return (1.0 - hidden_states) / (1 - timestep.view(-1, 1, 1, 1, 1))

    cfg = DPOConfig(watch=DPOWatchConfig(diversity=2, samples=3))
    assert diversity(Still(), tensors(), cfg) == pytest.approx(0, abs=1e-5)
    assert diversity(network(), tensors(), cfg) > 0.1


def on_a_rank(inputs, folder):
    """The stage on this rank; its curve on rank 0."""
    ctx = context("dpo", inputs, {**CONFIG, "steps": 4, "watch": {"diversity": 0}}, folder)
    ctx.rank, ctx.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    metrics = resolve(kind("dpo").run)(ctx)
    return metrics, json.loads((ctx.out / "loss_curve.json").read_text()) if not ctx.rank else None


@pytest.mark.soak  # tests/parallel/test_train_equality.py has the network without the stage around it
def test_two_ranks_train_as_one(inputs, tmp_path):
    alone = train(inputs, tmp_path / "one", steps=4, watch={"diversity": 0})
    (metrics, curve), other = rank_pool.shared()(2, on_a_rank, inputs, tmp_path / "two")
    assert not other[0]
    rows = [list(row) for row in zip(*alone[2].values(), strict=True)]
    for a, b in zip(rows, curve["rows"], strict=True):
        assert b == pytest.approx(a, rel=2e-3, abs=2e-5)
    one, two = (load_file(tmp_path / n / "out" / WEIGHTS) for n in ("one", "two"))
    moved = sum(float((one[k] - two[k]).square().sum()) for k in one) ** 0.5
    assert moved < 1e-4 * sum(float(v.square().sum()) for v in one.values()) ** 0.5
    assert metrics["drift"] == pytest.approx(alone[1]["drift"], rel=1e-3)
