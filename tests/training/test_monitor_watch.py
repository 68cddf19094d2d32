"""What is measured of a training: it is right, and it changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from toy_flow import BATCH, CONFIG, SHAPE, ToyClips, ToyFlow, ToyFlowSource, flow_context

from stepvideo.emulator.flops import flops, video_tokens
from stepvideo.sink import latest_metrics
from stepvideo.training.fit import fit
from stepvideo.training.flow import flow_loss
from stepvideo.training.monitor.cost import Cost, DiTCost, of_each
from stepvideo.training.monitor.norms import gradient_norms, group_names, grouped_blocks
from stepvideo.training.monitor.peak import PEAKS, peak_tflops
from stepvideo.training.monitor.speed import Speed, Timed
from stepvideo.training.monitor.validation import validation_batches
from stepvideo.training.monitor_config import MonitorConfig, ValidationConfig

NOTHING = MonitorConfig(ValidationConfig(clips=0), norms_every=0, time_bins=0)
ALL = MonitorConfig(ValidationConfig(every=4, clips=3, weights="both"), norms_every=3, time_bins=4, peak_tflops=0.5)
CLIPS = 3


def train(folder, monitor, steps=8, ranks=1, rank=0, **more):
    module = ToyFlow(steps)
    held_out = ToyClips(CLIPS) if monitor.validation.clips else None
    ctx = flow_context(folder, rank, ranks, monitor=monitor)
    trained = fit(module, ctx, cost=DiTCost(CONFIG), held_out=held_out, **more)
    return module, trained.get("net"), latest_metrics(folder / "events.jsonl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One training that nobody watches, and one that is watched in every way."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(7)
    bare = (*train(folder / "bare", NOTHING), torch.get_rng_state())
    torch.manual_seed(7)
    return bare, (*train(folder / "watched", ALL), torch.get_rng_state())


def test_watching_changes_nothing(runs):
    (bare, net, _, draws), (watched, same, _, same_draws) = runs
    assert bare.curve == watched.curve
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    assert torch.equal(draws, same_draws)
    assert all(m.training for m in watched.net.modules())


def test_validation_is_the_loss_at_fixed_noise_and_timesteps(runs):
    _, (module, net, rows, _) = runs
    assert [s for s, row in rows.items() if "val_loss" in row] == [0, 4, 8]
    last = rows[8]
    assert last["val_loss_ema"] == pytest.approx(sum(last[f"val_loss_ema_t{i}"] for i in range(8)) / 8)
    assert last["val_loss"] != last["val_loss_ema"] and last["val_loss"] < rows[0]["val_loss"]
    parts = list(validation_batches(ALL.validation, ToyClips(CLIPS)))
    assert [p.clip for p in parts] == [0, 1, 2] and parts[0].batch["t"].tolist() == [(i + 0.5) / 8 for i in range(8)]
    with torch.no_grad():  # what is handed over has the averaged weights
        each = torch.stack([flow_loss(net, p.batch) for p in parts]).mean(0)
    assert [last[f"val_loss_ema_t{i}"] for i in range(8)] == pytest.approx(each.tolist(), rel=1e-6)


@pytest.mark.parametrize(("ranks", "batch"), [(2, 8), (3, 3), (4, 8)])
def test_ranks_share_the_clips_out(ranks, batch):
    cfg = ValidationConfig(batch=batch)
    dealt = [list(validation_batches(cfg, ToyClips(5), rank, ranks)) for rank in range(ranks)]
    shapes = [[(p.levels, p.batch["x1"].shape) for p in parts] for parts in dealt]
    assert all(s == shapes[0] for s in shapes), "all ranks compute batches of the same shapes"
    counted = sorted((p.clip, level) for parts in dealt for p in parts if p.counts for level in p.levels)
    assert counted == [(i, level) for i in range(5) for level in range(8)]
    alone = {(p.clip, p.levels[0]): p.batch for p in validation_batches(cfg, ToyClips(5))}
    for part in (p for parts in dealt for p in parts):
        assert all(torch.equal(v, alone[part.clip, part.levels[0]][k]) for k, v in part.batch.items())


def _on_a_rank(folder):
    import os
    from pathlib import Path

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    monitor = MonitorConfig(ValidationConfig(every=1, clips=CLIPS), norms_every=2, time_bins=4, peak_tflops=0.5)
    _, _, rows = train(Path(folder) / str(ranks), monitor, 2, ranks, rank)
    return rows if rank == 0 else None


def test_one_and_two_ranks_measure_the_same(ranks, tmp_path):
    one, two = ranks(1, _on_a_rank, str(tmp_path))[0], ranks(2, _on_a_rank, str(tmp_path))[0]
    names = ["val_loss", *(f"val_loss_t{i}" for i in range(8))]
    assert [one[0][n] for n in names] == [two[0][n] for n in names], "before the first step, to the bit"
    for step in (1, 2):
        fixed = {n for n in one[step] if n.startswith(("val_loss", "loss", "grad_norm", "activation_rms"))}
        assert fixed == {n for n in two[step] if n in fixed}
        for name in fixed:
            assert two[step][name] == pytest.approx(one[step][name], rel=1e-4), name
    for name in ("tflops", "samples_per_s", "mfu"):
        assert two[2][name] > 0


def test_norms_are_measured_in_their_steps_only(runs, tmp_path):
    _, (_, _, rows, _) = runs
    assert [s for s, row in rows.items() if any(n.startswith("activation_rms/") for n in row)] == [3, 6]
    groups = {n.split("/")[1] for n in rows[3] if n.startswith("grad_norm/")}
    assert {"transformer_blocks.0", "transformer_blocks.1", "proj_out"} <= groups
    square = sum(v**2 for n, v in rows[3].items() if n.startswith("grad_norm/"))
    assert math.sqrt(square) == pytest.approx(rows[3]["grad_norm"], rel=1e-5), "before clipping, as the whole"

    hooks = []

    class Watch(ToyFlow):
        def loss(self, batch):
            hooks.append([len(b._forward_hooks) for b in self.net.transformer_blocks])
            return super().loss(batch)

    module = Watch(6)
    fit(module, flow_context(tmp_path, monitor=MonitorConfig(norms_every=3)))
    assert hooks == [[0, 0], [0, 0], [1, 1]] * 2
    assert not any(m._forward_hooks for m in module.net.modules())


def test_many_blocks_are_put_in_groups():
    net = nn.Module()
    net.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(20))
    net.head = nn.Linear(2, 1)
    names = group_names(net)
    assert (
        names["blocks.0.weight"] == names["blocks.2.bias"] == "blocks.0-2" and names["blocks.19.bias"] == "blocks.18-19"
    )
    assert names["head.weight"] == "head" and len(set(names.values())) == 8
    assert [g for g, _ in grouped_blocks(net)] == [names[f"blocks.{i}.weight"] for i in range(20)]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    norms = gradient_norms(net)
    assert norms["head"].item() == pytest.approx(math.sqrt(3)) and norms["blocks.0-2"].item() == pytest.approx(18**0.5)


def test_loss_by_timestep(runs, tmp_path):
    _, (_, _, rows, _) = runs
    assert all({f"loss_t{i}" for i in range(4)} <= row.keys() for s, row in rows.items() if s)
    first = next(iter(rows.values()))  # timesteps are evenly spread: the slices' mean is the loss
    first = rows[1]
    assert sum(first[f"loss_t{i}"] for i in range(4)) / 4 == pytest.approx(first["loss"], rel=1e-6)


def test_resumed_curves_equal_uninterrupted_ones(tmp_path, runs):
    class Killed(BaseException):
        pass

    module = ToyFlow(8)

    def die(step: int) -> None:
        if step == 6:
            raise Killed

    module.before_step = die
    with pytest.raises(Killed):
        fit(module, flow_context(tmp_path / "killed", monitor=ALL), cost=DiTCost(CONFIG), held_out=ToyClips(CLIPS))
    _, _, rows = train(tmp_path / "killed", ALL)
    _, (_, _, whole, _) = runs
    for step, row in whole.items():
        fixed = {n: v for n, v in row.items() if "loss" in n or "norm" in n or "rms" in n}
        assert {n: rows[step][n] for n in fixed} == fixed


def test_speed_is_on_every_log_line_and_adds_up(runs):
    _, (_, _, rows, _) = runs
    sample = 3 * flops(CONFIG, *[SHAPE[i] for i in (0, 2, 3)], 5, 2)
    tokens = video_tokens(CONFIG, *[SHAPE[i] for i in (0, 2, 3)])
    for step in range(1, 9):
        row = rows[step]
        assert row["samples_per_s"] * row["step_s"] == pytest.approx(BATCH)
        assert row["tokens_per_s"] == pytest.approx(row["samples_per_s"] * tokens)
        assert row["tflops"] == pytest.approx(row["samples_per_s"] * sample / 1e12)
        assert row["mfu"] == pytest.approx(row["tflops"] / 0.5)
        assert 0 <= row["data_wait_s"] <= row["step_s"] and 0 <= row["other_s"] and row["memory_gb"] > 0.05
        assert row["data_wait_share"] == pytest.approx(row["data_wait_s"] / row["step_s"])


def test_a_slow_loader_shows_as_data_wait(tmp_path):
    class Slow(ToyFlowSource):
        def micro_batches(self, step, rank, ranks, accumulate):
            import time

            time.sleep(0.2)
            return super().micro_batches(step, rank, ranks, accumulate)

    module = ToyFlow(3)
    module.source = Slow({})
    fit(module, flow_context(tmp_path, monitor=NOTHING))
    rows = latest_metrics(tmp_path / "events.jsonl")
    assert all(rows[s]["data_wait_s"] >= 0.2 for s in (1, 2, 3))
    assert all(rows[s]["step_s"] >= rows[s]["data_wait_s"] for s in (1, 2, 3))


def test_costs_of_mixed_buckets_add_up():
    source, cost = ToyFlowSource({}), DiTCost(CONFIG)
    (video,) = source.micro_batches(0, 0, 1, 1)
    image = {k: v[:2] if hasattr(v, "shape") else v for k, v in video.items()}
    image["x1"] = video["x1"][:2, :1]
    image["ids"] = video["ids"][:2]
    one = 3 * flops(CONFIG, 3, 2, 2, 5, 2) * BATCH
    two = 3 * flops(CONFIG, 1, 2, 2, 5, 2) * 2
    found = sum(of_each(cost, [video, image, {**image, "share": 0.0}]), Cost())
    assert found == Cost(BATCH + 2, BATCH * 12 + 2 * 4, one + two)


@dataclass
class _Module:
    """As much of a module as `Speed.rates` asks for."""

    world_size: int = 1
    data_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def parallel(self):
        return self

    def mean(self, x):
        return x


def test_mfu_is_operations_over_time_and_peak():
    speed = Speed(peak=100.0)
    speed.module, speed.loader, speed.peak = _Module(), Timed([]), 100.0  # type: ignore[assignment]
    speed.restart()
    speed.steps, speed.busy, speed.done = 10, 6.0, Cost(80, 8e5, 4e14)
    speed.loader.waited += 2.0
    values = speed.rates()
    assert values["step_s"] == pytest.approx(0.8) and values["data_wait_share"] == pytest.approx(0.25)
    assert values["tflops"] == pytest.approx(50.0) and values["mfu"] == pytest.approx(0.5)
    assert values["tokens_per_s"] == pytest.approx(1e5) and values["samples_per_s"] == pytest.approx(10)


def test_peaks(monkeypatch):
    cpu = torch.device("cpu")
    assert peak_tflops(cpu, "32-true", 7.0) == (7.0, "runtime.monitor.peak_tflops")
    value, origin = peak_tflops(cpu, "32-true")
    assert 0.001 < value < 100 and "measured" in origin
    names = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756.0, "NVIDIA H20": 148.0, "NVIDIA H200": 989.4}
    names |= {"NVIDIA L40S": 362.0, "NVIDIA L40": 181.0, "NVIDIA L4": 121.0, "NVIDIA A100-SXM4-80GB": 312.0}
    names |= {"NVIDIA GeForce RTX 4090": 165.2, "NVIDIA B200": 2250.0, "Tesla K80": 0.0}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(torch.device("cuda"), "bf16-mixed")[0] == peak, name
    assert all(v > 0 for v in PEAKS.values())


def test_impossible_settings():
    with pytest.raises(ValueError, match="weights='best'"):
        ValidationConfig(weights="best")
    with pytest.raises(ValueError, match="levels=0"):
        ValidationConfig(levels=0)
    with pytest.raises(ValueError, match="norms_every=-1"):
        MonitorConfig(norms_every=-1)
