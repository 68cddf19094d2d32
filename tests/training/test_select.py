"""Selection after the gradient norm's peak (report §8), on synthetic curves and through the command."""

from __future__ import annotations

import argparse
import json
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.training import select_command
from stepvideo.training.select import judge, read_rows, smoothed, snapshots


def curve(norms, losses=None):
    return [(s, (losses or [1.0 - 0.001 * i for i in range(len(norms))])[s], float(n)) for s, n in enumerate(norms)]


def hill(n, at, height=5.0):
    return [1.0 + height * math.exp(-(((s - at) / (n / 10)) ** 2)) for s in range(n)]


def test_a_hill_in_the_middle():
    chosen = judge(curve(hill(100, 40)), [20, 41, 60, 80, 100], smooth=1)
    assert chosen.peak == 40 and chosen.peak_norm == pytest.approx(6.0)
    assert [s.qualifies for s in chosen.snapshots] == [False, False, True, True, True]
    assert [s.step for s in chosen.ranked] == [100, 80, 60], "the loss falls: the latest is the best"
    assert chosen.snapshots[1].reason == "not after the peak", "step 41 has seen the peak and nothing after it"


def test_peak_at_the_start_and_warm_up():
    falling = curve([10.0 - 0.1 * s for s in range(50)])
    assert judge(falling, [10, 50], 1).peak == 0
    assert [s.step for s in judge(falling, [10, 50], 1).ranked] == [50, 10]
    # warm-up: a first burst is no peak
    burst = curve([100.0] * 5 + hill(95, 50))
    assert judge(burst, [100], 1).peak == 0
    assert judge(burst, [100], 1, warmup=10).peak == pytest.approx(55)


def test_peak_at_the_end_and_no_peak():
    rising = judge(curve([float(s) for s in range(50)]), [10, 30, 50], 5)
    assert rising.peak == 49 and not rising.ranked
    assert rising.reason == "no snapshot was taken after the gradient norm's peak at step 49"
    flat = judge(curve([1.0] * 50), [20, 50], 5)
    assert not flat.ranked and "norm 1 is not below its 1 at the peak" in flat.reason


def test_both_norm_and_loss_must_be_down():
    losses = [1.0] * 30 + [2.0] * 30 + [0.5] * 40
    chosen = judge(curve(hill(100, 20), losses), [50, 100], 1)
    assert [s.qualifies for s in chosen.snapshots] == [False, True]
    assert chosen.snapshots[0].reason == "loss 2 is not below its 1 at the peak"
    bump = hill(100, 20)
    bump[49] = bump[20] - 1e-9  # almost the peak: still below it
    assert judge(curve(bump), [50], 1).ranked
    bump[49] = bump[20]
    assert not judge(curve(bump), [50], 1).ranked


def test_skipped_steps_and_bad_arguments():
    rows = curve(hill(100, 40))
    rows[70] = (70, math.nan, math.inf)
    assert judge(rows, [100], 3).peak == judge(curve(hill(100, 40)), [100], 3).peak
    with pytest.raises(ValueError, match="warmup=100; give a smaller one"):
        judge(rows, [100], 3, warmup=100)


@given(
    norms=st.lists(st.floats(0.01, 100), min_size=1, max_size=60),
    losses=st.lists(st.floats(0.01, 100), min_size=60, max_size=60),
    smooth=st.integers(1, 20),
    steps=st.sets(st.integers(1, 60), min_size=1),
)
def test_what_holds_for_every_curve(norms, losses, smooth, steps):
    rows = curve(norms, losses)
    steps = {min(s, len(rows)) for s in steps}
    chosen = judge(rows, steps, smooth)
    means = {s: (loss, norm) for s, loss, norm in smoothed(rows, smooth)}
    assert chosen.peak_norm == max(n for _, n in means.values()) == means[chosen.peak][1]
    for s in chosen.snapshots:
        loss, norm = means.get(s.step - 1, (math.inf, math.inf))
        assert s.qualifies == (s.step - 1 > chosen.peak and norm < chosen.peak_norm and loss < chosen.peak_loss)
    ranked = chosen.ranked
    assert bool(ranked) != bool(chosen.reason)
    assert all(a.loss <= b.loss for a, b in zip(ranked, ranked[1:]))
    assert judge([(s, 2 * x, 4 * n) for s, x, n in rows], steps, smooth).ranked == [
        type(s)(s.step, 4 * s.norm, 2 * s.loss, True, s.reason) for s in ranked
    ], "scale does not matter"


@given(st.integers(0, 2**32), st.integers(30, 70))
def test_noise_does_not_move_the_peak_far(seed, at):
    import random

    draw = random.Random(seed)
    noisy = [n + draw.gauss(0, 0.5) for n in hill(200, 2 * at)]
    assert abs(judge(curve(noisy), [200], 10).peak - 2 * at) <= 25


@pytest.fixture
def run(tmp_path):
    def make(norms):
        folder = tmp_path / "run"
        for step in (20, 50):
            (folder / "snapshots" / f"step-{step:07d}").mkdir(parents=True, exist_ok=True)
        storage.write_json(folder / "loss_curve.json", {"columns": [], "rows": curve(norms)})
        return folder

    return make


def command(*words):
    parser = argparse.ArgumentParser()
    select_command.add_arguments(parser)
    return select_command.call(parser.parse_args([str(w) for w in words]))


def test_command(run, capsys, tmp_path):
    folder = run(hill(100, 40))
    assert snapshots(folder, read_rows(folder)) == {
        20: folder / "snapshots" / "step-0000020",
        50: folder / "snapshots" / "step-0000050",
        100: folder,
    }
    assert command(folder, "--json", "--plot", tmp_path / "plot.svg") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ranked"] == [100, 50] and told["snapshots"][2]["folder"] == str(folder)
    plot = ElementTree.parse(tmp_path / "plot.svg").getroot()
    texts = [t.text for t in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("peak") == texts.count("#1") == 2 and {"gradient norm", "loss"} <= set(texts)
    assert command(folder) == 0
    assert "peak of the gradient norm" in capsys.readouterr().out

    assert command(run([float(s) for s in range(100)])) == 1
    assert "none qualifies: no snapshot was taken after" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="smooth 0"):
        command(folder, "--smooth", 0)
    with pytest.raises(ConfigError, match="warmup=500"):
        command(folder, "--warmup", 500)


def test_damaged_curves(run, tmp_path):
    folder = run([1.0] * 10)
    for content in ({}, {"rows": [[0, "x", 1]]}, {"rows": []}, {"rows": [[1, 1, 1], [1, 1, 1]]}, []):
        storage.write_json(folder / "loss_curve.json", content)
        with pytest.raises(ArtifactError, match=r"loss_curve\.json"):
            read_rows(folder)
