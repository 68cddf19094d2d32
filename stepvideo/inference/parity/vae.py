"""The Video-VAE: moments, latents, frames, frames before the boundary mix, and values inside it.

Every video has a suffix of its own, such as f34: `video_f34`, `eps_f34` and `z_f34` lead to `moments_f34`,
`latent_f34`, `decoded_f34` and `decoded_f34_nomix_boundary`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.configs import vae_config
from stepvideo.inference.parity.golden import Case
from stepvideo.inference.parity.taps import Call, recorded
from stepvideo.models.config import VAEConfig
from stepvideo.models.vae_blocks import group_mean, group_repeat, pixel_shuffle_3d, pixel_unshuffle_3d
from stepvideo.models.video_vae import DiagonalGaussian, VideoVAE

CLOSE = Tolerance(3e-5, 1e-4)

Select = Callable[[Call, VAEConfig], Tensor]
WHERE: dict[str, tuple[str, Select]] = {  # tap: module, and the value in terms of its call
    "enc_conv_in": ("encoder.conv_in", lambda c, _: c.out),
    "enc_mid_attn": ("encoder.mid.attn_1", lambda c, _: c.out),
    "enc_conv_patchify": ("encoder.conv_patchify", lambda c, _: c.out),
    "enc_shortcut_pathify": (
        "encoder.conv_patchify",
        lambda c, cfg: group_mean(pixel_unshuffle_3d(c.given), cfg.dual_path_width),
    ),
    "enc_conv_out": ("encoder.conv_out", lambda c, _: c.out),
    "enc_shortcut_out": ("encoder.conv_out", lambda c, cfg: group_mean(c.given, 2 * cfg.z_channels)),
    "dec_conv_in": ("decoder.conv_in", lambda c, _: c.out),
    "dec_shortcut_in": ("decoder.conv_in", lambda c, cfg: group_repeat(c.given, cfg.dual_path_width)),
    "dec_conv_unpatchify": ("decoder.conv_unpatchify", lambda c, _: c.out),
    "dec_shortcut_unpathify": (
        "decoder.conv_unpatchify",
        lambda c, cfg: pixel_shuffle_3d(group_repeat(c.given, 8 * cfg.dec_widths[-1])),
    ),
    "dec_mid_attn": ("decoder.mid.attn_1", lambda c, _: c.out),
}
TAP = re.compile(r"tap_(?P<tap>.+?)(?:_ch(?P<first>\d+)to(?P<last>\d+))?")


def outputs(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """Everything of the videos that the case has, encoded first, then decoded; then the taps."""
    with torch.device("meta"):
        model = VideoVAE(vae_config(case.config, version=int(case.kind[-1])))
    model = case.load(model)
    modules = dict(model.named_modules())
    taps = {name: m for name in case.outputs if (m := TAP.fullmatch(name)) and m["tap"] in WHERE}
    watched = {name: modules[WHERE[m["tap"]][0]] for name, m in taps.items() if WHERE[m["tap"]][0] in modules}
    with recorded(watched) as calls:
        for name in case.inputs:
            stem, _, suffix = name.partition("_")
            if stem == "video":
                moments = model.encode_moments(case.inputs[name].to(case.dtype))
                yield f"moments_{suffix}", moments, CLOSE
                if (eps := case.inputs.get(f"eps_{suffix}")) is not None:
                    yield f"latent_{suffix}", DiagonalGaussian(moments).sample(eps=eps), CLOSE
            elif stem == "z":
                yield from _decoded(case, model, suffix)
    for name in watched:
        tap, first, last = taps[name].group("tap", "first", "last")
        values = [WHERE[tap][1](call, model.cfg) for call in calls[name]]
        if first:
            values = [v[:, int(first) : int(last) + 1] for v in values]
        if values:
            yield name, _nearest(values, case.outputs[name]), CLOSE


def _decoded(case: Case, model: VideoVAE, suffix: str) -> Iterator[tuple[str, Tensor, Tolerance]]:
    z, name = case.inputs[f"z_{suffix}"].to(case.dtype), f"decoded_{suffix}"
    yield name, model.decode(z), CLOSE
    boundary = f"{name}_nomix_boundary"
    if boundary in case.outputs:
        raw, n = model.decode(z, boundary_mix=False), model.cfg.frame_len
        frames = [t for t in range(raw.shape[1]) if t % n in (0, n - 1)][1:]  # 16, 17, 33, 34, …
        yield boundary, raw[:, frames[: case.outputs[boundary].shape[1]]], CLOSE


def _nearest(values: list[Tensor], expected: Tensor) -> Tensor:
    """Of the values of all calls the one that was recorded: the case does not say of which video and chunk it is."""
    fitting = [v for v in values if v.shape == expected.shape]
    return min(fitting, key=lambda v: float((v - expected).abs().max()), default=values[0])
