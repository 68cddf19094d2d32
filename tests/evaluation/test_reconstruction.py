"""`stepvideo evaluate reconstruction` with the VAE that comes with the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from intervals import bare
from scipy.stats import sem
from scipy.stats import t as student

from stepvideo import cli
from stepvideo.data.video_io import write_video
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation.reconstruction import measure as measuring
from stepvideo.evaluation.reconstruction.fvd import frechet_distance
from stepvideo.evaluation.reconstruction.pixels import psnr
from stepvideo.evaluation.reconstruction.protocols import PROTOCOLS, protocol
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import VideoVAE
from stepvideo.world.attributes import train_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render

VAE = Path(__file__).parents[2] / "weights" / "vae"
LOOK = RenderConfig(size=64, frames=17)
SIZE = ["--frames", "17", "--size", "32", "32"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(2):
        write_video(folder / f"{i}.mp4", render(train_combinations()[i * 20], (i, 0), LOOK), 25, crf=4)
    write_video(folder / "short" / "2.mp4", render(train_combinations()[5], (5, 0), LOOK)[:9], 25, crf=4)
    return folder


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return load_vae(VAE, dtype=torch.float32).eval()


def evaluate(videos: Path, out: Path, *options: str) -> tuple[int, dict]:
    name = [] if "--protocol" in options else ["--protocol", "stepvideo-t13", *SIZE]
    call = ["evaluate", "reconstruction", str(videos), "--vae", str(VAE), "--out", str(out), *name, *options]
    return cli.main(call), json.loads(out.read_text())


def test_means_have_intervals_and_nothing_is_a_zero(videos, tmp_path, capsys):
    code, found = evaluate(videos, tmp_path / "r.json", "--check")
    rows = [r for r in found["videos"] if "psnr" in r]
    assert code == 1 and found["partial"] and found["n"] == len(rows) == 2
    assert found["videos"][2]["left_out"] == "9 frames; the protocol asks for 17"
    for name in ("psnr", "ssim"):
        x, mean = [r[name] for r in rows], found["means"][name]
        expected = student.interval(0.95, len(x) - 1, np.mean(x), sem(x))
        assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((np.mean(x), *expected))
    assert 20 < found["means"]["psnr"]["value"] < 45 and bare(found) == [] and "Student" in found["intervals"]
    assert found["means"]["lpips"] is found["means"]["rfvd"] is None
    assert "--lpips" in found["reasons"]["lpips"] and "--i3d" in found["reasons"]["rfvd"]
    assert found["protocol"]["name"] == "stepvideo-t13 frames=17 height=32 width=32"
    assert found["protocol"]["posterior"] == "mode"
    assert found["numbers_in_per_number_out"] == 3 * 17 * 32 * 32 / (3 * 32 * 2 * 2)
    told = capsys.readouterr().out
    assert "posterior mode" in told and "none: no I3D" in told and "partial: 1 clips" in told
    assert not list(tmp_path.glob("*.rows"))


def test_a_killed_measurement_goes_on_to_the_same_bytes(videos, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    evaluate(videos, whole)
    real, made = measuring.reconstruct, []

    def dying(*args):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(1)
        return real(*args)

    monkeypatch.setattr(measuring, "reconstruct", dying)
    assert cli.main(["evaluate", "reconstruction", str(videos), "--vae", str(VAE), "--out", str(broken),
                     "--protocol", "stepvideo-t13", *SIZE]) == 130  # fmt: skip
    journal = tmp_path / "broken.json.rows"
    journal.write_text(journal.read_text() + '{"video": "1.mp4", "ps')  # half a line, as a kill leaves it
    made.clear()
    evaluate(videos, broken)
    assert len(made) == 1
    assert broken.read_bytes() == whole.read_bytes()


def test_the_posteriors_sample_is_worse_than_its_mode_and_repeats(vae):
    video = render(train_combinations()[0], (0, 0), LOOK)
    mode = protocol("tokenbench")
    sample = mode.changed(posterior="sample")
    found = [psnr(video / 255, measuring.reconstruct(vae, video, p, 0)[0]) for p in (sample, mode)]
    assert found[0] < found[1]
    first, again = (measuring.reconstruct(vae, video[:, :16, :16], sample, 0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_length_that_the_vae_cannot_code_is_padded_and_cut_off(vae):
    video = render(train_combinations()[0], (0, 0), RenderConfig(size=64, frames=33))[:, :28, :20]
    wanted = protocol("osp-33x256")
    y, numbers = measuring.reconstruct(vae, video, wanted, 0)
    assert y.shape == video.shape and numbers == 2 * 3 * 32 * 2 * 2
    np.testing.assert_array_equal(np.rint(y * 255) / 255, y.astype(np.float64).round(10).astype(np.float32))
    assert measuring.padding(vae.cfg, video.shape) == (1, 4, 12)
    assert measuring.padding(VAEConfig(frame_len=0), (33, 64, 64)) == (0, 0, 0)


def test_rfvd_is_of_the_whole_set_or_null():
    features = np.random.default_rng(0).normal(size=(600, 2, 8))
    rows = [
        {"psnr": 30.0, "ssim": 0.9, "features": f.tolist(), "frames": 17, "height": 8, "width": 8, "latent_numbers": 9}
        for f in features
    ]
    found = measuring._summary([dict(r) for r in rows], PROTOCOLS["tokenbench"], {"lpips": "none"})
    assert found["means"]["rfvd"]["value"] == pytest.approx(frechet_distance(features[:, 0], features[:, 1]))
    assert found["means"]["rfvd"]["n"] == 600 and "features" not in found["videos"][0]
    assert found["means"]["rfvd"]["low"] is None and "two sets" in found["reasons"]["rfvd"] and bare(found) == []
    alone = measuring._summary([dict(rows[0])], PROTOCOLS["tokenbench"], {"lpips": "none"})
    one = alone["means"]["psnr"]
    assert (one["value"], one["low"], one["high"]) == (30.0, None, None)
    assert alone["reasons"]["psnr"] == "no interval: one clip" and bare(alone) == []
    few = measuring._summary([dict(r) for r in rows[:511]], PROTOCOLS["tokenbench"], {"lpips": "none"})
    assert few["means"]["rfvd"] is None and "511 clips" in few["reasons"]["rfvd"]


def test_a_protocol_names_what_was_changed():
    plain = protocol("osp-33x256")
    assert plain.changed(frames=33, height=None, precision="fp32") is not None
    assert plain.changed(frames=33).name == "osp-33x256"
    assert plain.changed(frames=34, posterior="sample").name == "osp-33x256 frames=34 posterior=sample"
    with pytest.raises(ConfigError, match="tokenbench"):
        protocol("mine")


def test_wrong_calls_are_told(videos, tmp_path):
    parse = ["evaluate", "reconstruction", str(videos), "--out", str(tmp_path / "r.json"), "--protocol", "tokenbench"]
    assert cli.main([*parse, "--vae", str(tmp_path)]) == 2
    assert cli.main([*parse, "--vae", str(VAE), "--i3d", "x.pt"]) == 2
    assert cli.main([*parse[:2], str(tmp_path / "none"), *parse[3:], "--vae", str(VAE)]) == 2
    with pytest.raises(ArtifactError, match="no clip is left"):
        measuring._summary([{"left_out": "9 frames"}], protocol("tokenbench"), {})
