"""How a reconstruction is measured, by name: figures of two protocols do not compare. Light.

Conventions alone move PSNR by 3 dB and SSIM by 0.03, which is more than most VAEs differ by.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from stepvideo.errors import ConfigError

FRAME, VIDEO = "frame", "video"  # over what one mean squared error is taken
GAUSS11, UNIFORM7 = "gauss11", "uniform7"
MODE, SAMPLE = "mode", "sample"  # of the posterior


@dataclass(frozen=True)
class Protocol:
    """
    Attributes:
        name: printed beside every figure; settings that were changed are added to it.
        frames: the first so many of every video; shorter videos are left out. `at_most`: shorter ones are taken whole.
        height, width: videos are resized to cover them and cropped to their centre; 0: as they are.
        psnr: FRAME: of every frame, then the mean; VIDEO: of one error over the video. 100 dB where nothing differs.
        ssim: GAUSS11: Wang et al. 2004, σ = 1.5, population variance; UNIFORM7: scikit-image's default, 7 × 7, sample
            variance. Both on RGB channels, without the border, mean of pixels, channels and frames.
        eight_bit: the reconstruction is rounded to 8 bits before it is compared, as if written to a lossless file.
        lpips: the trunk, alex or vgg; `lpips_spatial`: the maps are brought to the frame's size before their mean.
        clips: that the protocol asks for; 0: as many as there are.
    """

    name: str
    frames: int
    height: int
    width: int
    psnr: str
    ssim: str
    eight_bit: bool
    lpips: str
    lpips_spatial: bool = False
    at_most: bool = False
    clips: int = 0
    posterior: str = MODE
    precision: str = "fp32"

    def changed(self, **settings: Any) -> Protocol:
        """With other settings, which its name tells; None and what is the same changes nothing."""
        real = {k: v for k, v in settings.items() if v is not None and v != getattr(self, k)}
        told = "".join(f" {k}={v}" for k, v in sorted(real.items()))
        return replace(self, name=self.name + told, **real)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


PROTOCOLS = {
    p.name: p
    for p in (
        # Table 13 as far as the report states it; 51 frames are three chunks of 17, where it says 50.
        Protocol("stepvideo-t13", 51, 480, 768, FRAME, GAUSS11, False, "alex", clips=1000),
        # NVlabs/TokenBench; its files are mp4, and one of its revisions (1fa61b5) lets errors of 16 grey levels and
        # more wrap in uint8: neither is done here.
        Protocol("tokenbench", 300, 0, 0, VIDEO, UNIFORM7, True, "vgg", at_most=True),
        # Open-Sora-Plan 1.2 and 1.3, and WF-VAE.
        Protocol("osp-33x256", 33, 256, 256, FRAME, GAUSS11, True, "alex", lpips_spatial=True),
    )
}


def protocol(name: str) -> Protocol:
    """Raises ConfigError for an unknown name."""
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol {name!r} is not known; choose of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
