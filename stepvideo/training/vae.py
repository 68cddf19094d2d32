"""Kind "vae": one stage of Video-VAE training (report §4.1.4).

Stage 1 (`vae.dual_path=false`) learns 4x8x8 on images and videos of several lengths; stage 2 takes over its backbone,
adds the dual paths and unfreezes dual path, then mid block, then backbone. L1 + perceptual + KL, then an adversarial
loss.
The perceptual net is our own CLIP image tower: no LPIPS trunk can be had offline.

Legend: b samples of a micro-batch, t frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.data.clips import load_catalog, load_ids
from stepvideo.data.draw import rng
from stepvideo.data.flow_draws import gaussian
from stepvideo.data.frames import resize, to_tensor
from stepvideo.data.source import Batch
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.models.checkpoints import load_clip_image, load_vae, save_vae
from stepvideo.models.clip import CLIPImageEncoder, perceptual_distance
from stepvideo.models.discriminator import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss
from stepvideo.models.video_vae import DiagonalGaussian, VideoVAE, load_stage1_backbone, vae_parameter_groups
from stepvideo.stage import StageContext
from stepvideo.training.config import VAETrainConfig
from stepvideo.training.fit import fit
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.optim import by_mesh
from stepvideo.training.vae_frames import FRAMES, ClipFrames
from stepvideo.training.vae_gan import LastLayer, adaptive_weight, converged_at


class Features(nn.Module):
    """What the perceptual loss compares: an image tower's feature maps."""

    def __init__(self, tower: CLIPImageEncoder) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.tower.features(images)


class VAEModule(StageModule):
    """The VAE and, late in training, its discriminator."""

    def __init__(
        self, cfg: VAETrainConfig, vae: VideoVAE, source: ClipFrames, perceptual: CLIPImageEncoder | None
    ) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, vae, source
        self.starts = unfreezing(vae, cfg.unfreeze)
        self.disc = PatchDiscriminator(cfg.discriminator) if cfg.gan else None
        self.perceptual = Features(perceptual) if perceptual is not None else None
        self.last = LastLayer(vae)
        self.weight: Tensor | None = None  # of the adversarial loss in this step, once it is known

    def trained(self) -> dict[str, nn.Module]:
        return {"net": self.net} | ({"disc": self.disc} if self.disc is not None else {})

    def fixed(self) -> dict[str, nn.Module]:
        return {"perceptual": self.perceptual} if self.perceptual is not None else {}

    def methods(self) -> Sequence[str]:
        return "encode_moments", "decode"

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        opts = super().configure_optimizers()
        if self.disc is not None:
            params = by_mesh(self.disc.parameters())
            opts.append(torch.optim.AdamW(params, lr=self.optim.lr, betas=(0.5, 0.9), weight_decay=0.0))
        return opts

    def adversarial(self, step: int) -> bool:
        """Whether the discriminator plays in `step`; a function of the losses before it."""
        if self.disc is None or step < self.cfg.gan_from:
            return False
        if self.cfg.gan_when == "step":
            return True
        start = converged_at([loss for _, loss, _ in self.curve[:step]], self.cfg.gan_window, self.cfg.gan_gain)
        return start is not None and step >= start

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        step, micro = batch["step"], batch["micro"]
        self.weight = None
        if self.adversarial(step) and len(micro) > 1:
            self.weight = self._weigh(step, micro)
        return super().training_step(batch, batch_idx)

    def compute(self, part: Batch, scale: float) -> tuple[Tensor, Logs]:
        with self.recorder.device_span("forward"):
            y, posterior = self.reconstruct(part)
            kl, seen = posterior.kl().mean(), y.detach().requires_grad_()
            fidelity, logs = self.fidelity(seen, part)
            grad = torch.autograd.grad(fidelity, seen)[0]
        if self.adversarial(part["step"]):
            grad_g, logs["gan_g"] = self._fooling(seen)
            if self.weight is None:  # one micro-batch
                self.weight = self._agreed([(part["share"], self.last.gradient(grad), self.last.gradient(grad_g))])
            logs["gan_weight"] = self.weight
            grad = grad + self.cfg.gan * self.weight * grad_g
            logs["gan_d"] = self._judge(part["x"], seen.detach(), scale)
        self.manual_backward(((y * grad).sum() + self.cfg.kl * kl) * scale)
        self._freeze(part["step"])
        kl = kl.detach()
        return fidelity.detach() + self.cfg.kl * kl, {**logs, "kl": kl}

    def reconstruct(self, part: Batch) -> tuple[Tensor, DiagonalGaussian]:
        """The micro-batch coded and decoded, float32, and the posterior; noise is each sample's own."""
        vae = cast(VideoVAE, self.net)
        posterior = DiagonalGaussian(vae.encode_moments(part["x"]).float())
        shape = posterior.mean.shape[1:]
        eps = torch.stack([gaussian(shape, self.cfg.seed, "posterior", part["step"], i) for i in part["index"]])
        with self.last.watched():
            y = vae.decode(posterior.sample(eps=eps.to(posterior.moments.device)), boundary_mix=False)
        return y.float(), posterior

    def fidelity(self, y: Tensor, part: Batch) -> tuple[Tensor, Logs]:
        """L1, L2 and perceptual loss of a reconstruction."""
        x, cfg = part["x"], self.cfg
        l1 = (y - x).abs().mean()
        loss, logs = cfg.l1 * l1 + cfg.l2 * (y - x).square().mean(), {"l1": l1.detach()}
        if self.perceptual is not None and cfg.perceptual:
            p = self.perceptual_loss(x, y, part["step"])
            loss, logs["perceptual"] = loss + cfg.perceptual * p, p.detach()
        return loss, logs

    def perceptual_loss(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Video-LPIPS on a few frames: squared distance of unit-normalised features, averaged over stages."""
        assert self.perceptual is not None
        t = x.shape[1]
        pick = np.sort(rng(self.cfg.seed, "perceptual", step).permutation(t)[: self.cfg.perceptual_frames]).tolist()
        fx, fy = (self.perceptual(v[:, pick].flatten(0, 1)) for v in (x, y))
        return perceptual_distance(fx, fy).mean()

    def _fooling(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the generator's loss at a reconstruction, and the loss; the discriminator learns nothing."""
        assert self.disc is not None
        loss = hinge_generator_loss(self.disc(seen))
        return torch.autograd.grad(loss, seen)[0], loss.detach()

    def _judge(self, real: Tensor, fake: Tensor, scale: float) -> Tensor:
        """Backward of the discriminator's loss on what the generator was just scored on."""
        assert self.disc is not None
        loss = hinge_discriminator_loss(self.disc(real), self.disc(fake))
        self.manual_backward(loss * scale)
        return loss.detach()

    def _weigh(self, step: int, micro: list[Batch]) -> Tensor:
        """The adversarial weight of a step of several micro-batches, from a forward of each."""
        found = []
        self.parallel.micro_batch(self.trained().values(), first=True, last=False)
        for part in micro:
            part["step"] = step
            with torch.no_grad():
                y, _ = self.reconstruct(part)
            seen = y.requires_grad_()
            grad = torch.autograd.grad(self.fidelity(seen, part)[0], seen)[0]
            found.append((part["share"], *(self.last.gradient(g) for g in (grad, self._fooling(seen)[0]))))
        return self._agreed(found)

    def _agreed(self, found: list[tuple[float, Tensor, Tensor]]) -> Tensor:
        """The weight, from (share, gradients at the last layer) of this rank's micro-batches; the same on all ranks."""
        sums = torch.stack([share * torch.stack([a, b]) for share, a, b in found]).sum(0)
        return adaptive_weight(*(self.parallel.mean(sums) * self.parallel.data_size))

    def _freeze(self, step: int) -> None:
        for name, p in self.net.named_parameters():
            if self.starts[name] > step:
                p.grad = None


def unfreezing(vae: VideoVAE, schedule: Mapping[str, int]) -> dict[str, int]:
    """By parameter name, the first step in which it learns (`VAETrainConfig.unfreeze`).

    Raises:
        ConfigError: a part that the VAE does not have.
    """
    groups, parts = vae_parameter_groups(vae), {id(p): name for name, p in vae.named_parameters()}
    if unknown := [key for key in schedule if key not in groups and not any(n.startswith(key) for n in parts.values())]:
        raise ConfigError(
            f"unfreeze: {', '.join(unknown)} is no part of the VAE; parts are {', '.join(groups)}, or the "
            "beginning of a parameter's name such as decoder.up.3"
        )
    starts = {parts[id(p)]: schedule.get(group, 0) for group, params in groups.items() for p in params}
    for prefix in sorted(schedule.keys() - groups.keys(), key=len):
        starts |= {name: schedule[prefix] for name in starts if name.startswith(prefix)}
    return starts


@torch.no_grad()
def psnr(vae: VideoVAE, x: Tensor, bf16: bool) -> float:
    """Mean over clips of the PSNR in dB of the posterior mean's reconstruction; values in [-1, 1]."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        y = torch.cat([vae.decode(vae.encode(c[None], sample=False)) for c in x]).float().clamp(-1, 1)
    mse = (y - x).square().flatten(1).mean(1) / 4
    return float((-10 * torch.log10(mse.clamp_min(1e-10))).mean())


@torch.no_grad()
def _init(vae: VideoVAE, logvar: float) -> None:
    """Start shallow and quiet: residual branches give zero, the posterior has little noise.

    Short trainings leave their first plateau sooner so; at unit noise the decoder first learns to ignore the latent.
    """
    for name, p in vae.named_parameters():
        if ".conv2." in name or ".proj_out." in name:
            p.zero_()
    bias = vae.encoder.conv_out.conv.bias
    assert bias is not None
    bias[vae.cfg.z_channels :] = logvar


def take_over(vae: VideoVAE, before: VideoVAE) -> int:
    """Start from `before`: all of it if it has the same form, else its backbone (stage 1). Number of fresh tensors.

    Raises:
        StepVideoError: the same form with other sizes.
    """
    if before.cfg.dual_path != vae.cfg.dual_path:
        return len(load_stage1_backbone(vae, before.state_dict()))
    if before.cfg != vae.cfg:
        raise StepVideoError(f"the VAE to go on from is {before.cfg}, the config asks for {vae.cfg}: make them equal")
    vae.load_state_dict(before.state_dict())
    return 0


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, subsets; optional text (perceptual net), init (stage 1, or a VAE to go on with).

    Output: vae/, loss_curve.json.
    """
    cfg: VAETrainConfig = ctx.config
    ids = load_ids(ctx.inputs["subsets"] / "s1.parquet")
    clips = [c for c in load_catalog(ctx.inputs["curate"], ids) if c.frames >= FRAMES]
    clips = clips[: cfg.max_clips or None]
    ctx.sink.event("decoding", clips=len(clips))
    source = ClipFrames(ctx.inputs["curate"], clips, cfg)
    torch.manual_seed(cfg.seed)
    vae = VideoVAE(cfg.vae)
    _init(vae, cfg.start_logvar)
    if "init" in ctx.inputs:
        ctx.sink.event("initialised", new_tensors=take_over(vae, load_vae(ctx.inputs["init"])))
    perceptual = load_clip_image(ctx.inputs["text"]) if "text" in ctx.inputs and cfg.perceptual else None
    module = VAEModule(cfg, vae, source, perceptual)
    trained = fit(module, ctx, cfg.precision)
    if ctx.rank:
        return {}
    vae = cast(VideoVAE, trained["net"])
    save_vae(vae, ctx.out)
    write_curve(module, ctx)
    bf16 = cfg.precision == "bf16-mixed"
    metrics = {"loss": tail_mean(module)}
    validation = to_tensor(source.validation)
    for size in cfg.sizes:
        metrics[f"psnr_{size}"] = psnr(vae.eval(), resize(validation, size), bf16)
    storage.write_json(ctx.out / "metrics.json", metrics)
    return metrics
