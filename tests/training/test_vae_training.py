"""Training of the Video-VAE: equal on any number of ranks and micro-batches, with its discriminator; its schedules."""

from __future__ import annotations

import pytest
import torch
import vae_train_cases as cases

from stepvideo.errors import ConfigError
from stepvideo.models.video_vae import VideoVAE
from stepvideo.training.vae import unfreezing
from stepvideo.training.vae_gan import converged_at

GAN = {"gan_from": 1}
DUAL = {**cases.TINY["vae"], "dual_path": True, "dual_path_ch": 8}
JOINT = {"gan_from": 1, "joint_images": 4}


def gap(found: cases.Result, expected: cases.Result) -> float:
    """Largest relative difference of a loss, a gradient norm, or the parameters of a network."""
    numbers = [abs(a - b) / abs(b) for x, y in zip(found[0], expected[0], strict=True) for a, b in zip(x[1:], y[1:])]
    for part, expected_net in expected[1].items():
        scale = max(float(p.abs().max()) for p in expected_net.values())
        seen = {n: p for n, p in expected_net.items() if not n.endswith("k.conv.bias")}  # softmax: its gradient is 0
        numbers += [float((found[1][part][n] - p).abs().max()) / scale for n, p in seen.items()]
    return max(numbers)


@pytest.mark.parametrize(
    "changes", [GAN, pytest.param(JOINT, marks=pytest.mark.soak)], ids=["clips", "clips and images"]
)
def test_ranks_and_micro_batches_train_the_same_vae(ranks, tmp_path, changes):
    alone = cases.train(changes, tmp_path / "alone")
    assert alone is not None and alone[1].keys() == {"net", "disc"}
    initial = dict(cases.module(cases.config(**changes)).disc.named_parameters())
    still = [n for n, p in alone[1]["disc"].items() if torch.equal(p, initial[n])]
    assert len(still) <= 1, "only its last bias, on which real and made videos pull alike, may stay"
    accumulated = {**changes, "runtime": {"accumulate": 2}}
    assert gap(cases.train(accumulated, tmp_path / "accumulated"), alone) < 1e-5
    together = ranks(2, cases.train, accumulated if changes is GAN else changes, tmp_path / "two", 2)[0]
    assert gap(together, alone) < 1e-5


@pytest.mark.parametrize(
    "degrees",
    [pytest.param({"ulysses": 2}, marks=pytest.mark.soak), {"ulysses": 2, "rows": 2}],
    ids=["frames", "rows"],
)
def test_ranks_inside_a_clip_train_the_same_vae(ranks, tmp_path, degrees):
    changes = {"gan": 0.0, "vae": DUAL, "lengths": [17], "sizes": [32], "joint_images": 2}
    alone = cases.train(changes, tmp_path / "alone")
    divided = {**changes, "runtime": {"parallel": degrees}}
    together, exchanges = ranks(2, cases.train_counting, divided, tmp_path / "two", 2)[0]
    assert exchanges > 100, "the clips were not divided"
    assert gap(together, alone) < 1e-5


def test_ranks_inside_a_clip_leave_the_adversary_out(tmp_path):
    with pytest.raises(ConfigError, match="gan=0.5 with runtime.parallel.ulysses=2"):
        cases.module(cases.config(runtime={"parallel": {"ulysses": 2}}))


def test_parts_learn_from_their_step_on(tmp_path):
    changes = {"vae": DUAL, "lengths": [9], "unfreeze": {"mid": 1, "backbone": 2, "decoder.up.0": 9}, "gan": 0.0}
    vae = cases.module(cases.config(**changes)).net
    before, starts = dict(vae.named_parameters()), unfreezing(vae, changes["unfreeze"])
    for steps in (1, 3):
        _, nets = cases.train({**changes, "steps": steps}, tmp_path / str(steps))
        moved = {name: not torch.equal(p, before[name]) for name, p in nets["net"].items()}
        assert moved == {name: starts[name] < steps for name in before}


def test_unfreezing_names_parts_or_beginnings_of_names():
    vae = VideoVAE(cases.config(vae=DUAL).vae)
    starts = unfreezing(vae, {"mid": 5, "backbone": 10, "decoder.up.0": 20, "decoder.up.0.block.0": 30})
    assert starts["encoder.conv_patchify.conv.conv.weight"] == 0
    assert starts["decoder.mid.block_1.conv1.conv.weight"] == 5
    assert starts["encoder.conv_in.conv.weight"] == 10
    assert starts["decoder.up.0.block.1.conv1.conv.weight"] == 20
    assert starts["decoder.up.0.block.0.conv1.conv.weight"] == 30
    with pytest.raises(ConfigError, match=r"unfreeze: head is no part.*dual_path, mid, backbone"):
        unfreezing(vae, {"head": 3})


def test_adaptive_weight_equals_the_gradients_ratio_at_the_last_layer(tmp_path):
    cfg = cases.config(steps=1)
    made = cases.module(cfg)
    part = made.source.micro_batches(0, 0, 1, 1)[0] | {"step": 0}
    last = made.net.decoder.conv_out.conv.weight
    y, _ = made.reconstruct(part)
    fidelity, _ = made.fidelity(y, part)
    fooling = -made.disc(y).mean()
    a, b = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (fidelity, fooling))
    logged = []
    made.parallel = cases.Alone()
    made.manual_backward = lambda loss: logged.append(loss)
    _, logs = made.compute(part, 1.0)
    assert float(logs["gan_weight"]) == pytest.approx(float(a / (b + 1e-6)), rel=1e-4)
    several = made.source.micro_batches(0, 0, 1, 3)
    assert float(made._weigh(0, several)) == pytest.approx(float(a / (b + 1e-6)), rel=1e-4)


def test_convergence_is_decided_by_the_losses_before():
    falling = [2.0 * 0.9**i for i in range(40)]
    flat = falling + [falling[-1]] * 30
    assert converged_at(falling, 5, 0.01) is None
    start = converged_at(flat, 5, 0.01)
    assert start is not None and 42 < start < 50
    assert converged_at(flat + [100.0] * 50, 5, 0.01) == start
    assert converged_at(flat[: start - 1], 5, 0.01) is None
    assert converged_at(flat[:9], 5, 0.01) is None


def test_the_discriminator_waits_for_convergence(tmp_path):
    changes = {"gan_when": "converged", "gan_window": 1, "gan_gain": -1e9, "gan_from": 0, "steps": 3}
    _, nets = cases.train(changes, tmp_path / "never")
    before = dict(cases.module(cases.config(**changes)).disc.named_parameters())
    assert all(torch.equal(p, before[n]) for n, p in nets["disc"].items())
    _, nets = cases.train({**changes, "gan_gain": 1e9}, tmp_path / "soon")
    assert not all(torch.equal(p, before[n]) for n, p in nets["disc"].items())


def test_images_beside_clips_need_no_image_steps():
    with pytest.raises(ConfigError, match="set image_share=0"):
        cases.config(joint_images=4, image_share=0.2)
    shown = cases.source(cases.config(joint_images=6)).micro_batches(3, 0, 1, 1)
    assert [tuple(b["x"].shape) for b in shown] == [(4, 5, 3, 16, 16), (6, 1, 3, 16, 16)]
    assert [b["share"] for b in shown] == [0.4, 0.6]
    assert [i for b in shown for i in b["index"]] == list(range(10))
