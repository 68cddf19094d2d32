"""PSNR, SSIM, LPIPS and FVD against reference implementations, on one procedural clip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter, uniform_filter
from torch import nn
from torchmetrics.functional.image import lpips as reference_lpips
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.reconstruction.fvd import I3D, frechet_distance
from stepvideo.evaluation.reconstruction.lpips import LPIPS, TRUNKS
from stepvideo.evaluation.reconstruction.pixels import CEILING, psnr, ssim
from stepvideo.evaluation.reconstruction.protocols import FRAME, GAUSS11, UNIFORM7, VIDEO
from stepvideo.storage import sha256_file

HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A plaid that moves, and a copy with blur and noise that grow with time; float32 [5, 48, 64, 3] in [0, 1]."""
    t, y, x, c = np.mgrid[:5, :48, :64, :3].astype(np.float32)
    video = 0.5 + 0.25 * np.sin(x / 3 + t + c) + 0.25 * np.cos(y / (4 + c) - t / 2)
    noise = np.random.default_rng(0).normal(0, 1, video.shape)
    soft = np.stack([gaussian_filter(f, (0.4 * i, 0.4 * i, 0)) for i, f in enumerate(video)])
    return video, np.clip(soft + noise * (0.01 + 0.02 * t), 0, 1).astype(np.float32)


def tensors(*videos: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(v.transpose(0, 3, 1, 2).astype(np.float64)) for v in videos]


def test_psnr_is_torchmetrics_under_both_reductions(pair):
    x, y = tensors(*pair)
    frames = peak_signal_noise_ratio(y, x, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    assert psnr(*pair, FRAME) == pytest.approx(float(frames), abs=1e-4)
    assert psnr(*pair, VIDEO) == pytest.approx(float(peak_signal_noise_ratio(y, x, data_range=1.0)), abs=1e-4)
    assert psnr(*pair, FRAME) > psnr(*pair, VIDEO) + 0.5  # the convention alone


def test_psnr_has_a_ceiling(pair):
    assert psnr(pair[0], pair[0]) == psnr(pair[0], pair[0], VIDEO) == CEILING
    half = np.concatenate([pair[0][:1], pair[1][1:2]])
    assert psnr(pair[0][:2], half) == pytest.approx((CEILING + psnr(pair[0][1:2], pair[1][1:2])) / 2)


def test_gaussian_ssim_is_torchmetrics_inside_the_border(pair):
    """torchmetrics 1.9 counts pixels whose window is filled up by reflection, too; the reference code does not."""
    x, y = tensors(*pair)
    call = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0}
    mean, full = structural_similarity_index_measure(y, x, **call, return_full_image=True)
    assert ssim(*pair, GAUSS11) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=1e-4)
    assert abs(float(mean) - ssim(*pair, GAUSS11)) > 1e-3  # the convention alone


def test_uniform_ssim_is_scikit_images_definition(pair):
    """From its documentation: 7 × 7, sample covariance, K1 = 0.01, K2 = 0.03, edge of 3 left out, mean of channels."""
    found = []
    for a, b in zip(*(v.astype(np.float64) for v in pair)):
        for c in range(3):
            p, q = a[..., c], b[..., c]
            mp, mq = uniform_filter(p, 7), uniform_filter(q, 7)
            vp, vq = (49 / 48 * (uniform_filter(v * v, 7) - m * m) for v, m in ((p, mp), (q, mq)))
            vpq = 49 / 48 * (uniform_filter(p * q, 7) - mp * mq)
            index = (2 * mp * mq + 1e-4) * (2 * vpq + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            found.append(index[3:-3, 3:-3].mean())
    assert ssim(*pair, UNIFORM7) == pytest.approx(np.mean(found), abs=1e-6)
    assert abs(ssim(*pair, UNIFORM7) - ssim(*pair, GAUSS11)) > 1e-3  # the convention alone


def test_ssim_of_equal_frames_is_one_and_falls_with_noise(pair):
    assert ssim(pair[0], pair[0]) == pytest.approx(1)
    each = [ssim(a[None], b[None]) for a, b in zip(*pair)]
    assert each == sorted(each, reverse=True)
    with pytest.raises(ValueError, match="window has 11"):
        ssim(pair[0][:, :8], pair[1][:, :8])


def features(net: str) -> nn.Sequential:
    """torchvision's `features` of AlexNet or VGG-16, with random weights: its layout, which is not installed here."""
    torch.manual_seed(0)
    if net == "alex":
        plan: list[Any] = [
            (64, 11, 4, 2),
            "M",
            (192, 5, 1, 2),
            "M",
            (384, 3, 1, 1),
            (256, 3, 1, 1),
            (256, 3, 1, 1),
            "M",
        ]
        pool = nn.MaxPool2d(3, 2)
    else:
        widths = [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"]
        plan, pool = [w if w == "M" else (w, 3, 1, 1) for w in widths], nn.MaxPool2d(2, 2)
    layers: list[nn.Module] = []
    channels = 3
    for part in plan:
        if part == "M":
            layers.append(pool)
        else:
            width, *rest = part
            layers += [nn.Conv2d(channels, width, *rest), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(("net", "spatial"), [("alex", False), ("alex", True), ("vgg", False)])
def test_lpips_is_the_published_network(pair, net, spatial, tmp_path, monkeypatch):
    """torchmetrics' copy of the published code, with the published heads, on a trunk of random weights."""
    trunk, layers = tmp_path / "trunk.pth", features(net)
    torch.save({f"features.{k}": v for k, v in layers.state_dict().items()}, trunk)
    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", lambda name, pretrained: layers)
    reference = reference_lpips._LPIPS(net=net, spatial=spatial)
    x, y = (v[3:].float() * 2 - 1 for v in tensors(*pair))
    expected = reference(x, y).mean((1, 2, 3))
    found = LPIPS(net, trunk, HEADS / f"{net}.pth", spatial)(x, y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.min() > 0
    assert LPIPS(net, trunk, HEADS / f"{net}.pth", spatial)(x, x).abs().max() == 0


def test_files_of_another_network_are_refused(tmp_path):
    trunk = tmp_path / "trunk.pth"
    torch.save({f"features.{k}": v for k, v in features("alex").state_dict().items()}, trunk)
    with pytest.raises(ArtifactError, match="LPIPS-alex has 192"):
        LPIPS("alex", trunk, HEADS / "vgg.pth")
    with pytest.raises(ArtifactError, match=r"no features\.2\.weight"):
        LPIPS("vgg", trunk, HEADS / "vgg.pth")
    assert set(TRUNKS) == {"alex", "vgg"}


@pytest.mark.parametrize("n", [40, 9])
def test_frechet_distance_is_the_formula_also_of_few_clips(n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 12)), rng.normal(0.3, 1.4, size=(n, 12))
    sx, sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(sx @ sy)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(sx + sy - 2 * np.real(root))
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


class Detector(nn.Module):
    """A TorchScript network with the call of StyleGAN-V's I3D."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return torch.cat([x.mean((2, 3, 4)), x[:, :, 0, 0, :2].flatten(1)], 1)


def test_i3d_sees_clips_of_224_in_minus_one_to_one(tmp_path):
    path = tmp_path / "i3d.pt"
    torch.jit.save(torch.jit.script(Detector()), path)
    network = I3D(path, sha256_file(path).upper())
    video = torch.rand(12, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    found = network(video)
    size = (224, math.ceil(60 * 224 / 40))
    large = torch.nn.functional.interpolate(video, size=size, mode="bilinear", align_corners=False)
    cropped = large[..., (size[1] - 224) // 2 :][..., :224] * 2 - 1
    np.testing.assert_allclose(found[:3], cropped.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found[3:], cropped[0, :, 0, :2].flatten(), atol=1e-5)
    assert network(video.transpose(2, 3)).shape == (9,)


def test_only_the_i3d_that_is_trusted_is_run(tmp_path):
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"not a network")
    with pytest.raises(ArtifactError, match="has SHA-256"):
        I3D(path, "0" * 64)
    with pytest.raises(ArtifactError, match="no TorchScript"):
        I3D(path, sha256_file(path))
    with pytest.raises(ArtifactError, match="missing"):
        I3D(tmp_path / "none.pt", "0" * 64)
