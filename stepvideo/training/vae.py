"""Kind "vae": one stage of Video-VAE training (report §4.1.4).

Stage 1 (`vae.dual_path=false`) learns 4x8x8 on images and videos of several lengths; stage 2 takes over its backbone,
adds the dual paths and unfreezes dual path, then mid block, then backbone. L1 + perceptual + KL, then an adversarial
loss.
The perceptual net is our own CLIP image tower: no LPIPS trunk can be had offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.data.clips import Clip, load_catalog, load_ids
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.frames import resize, to_tensor, windows
from stepvideo.errors import StepVideoError
from stepvideo.models.checkpoints import load_clip_image, load_vae, save_vae
from stepvideo.models.clip import CLIPImageEncoder, perceptual_distance
from stepvideo.models.discriminator import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss
from stepvideo.models.video_vae import DiagonalGaussian, VideoVAE, load_stage1_backbone, vae_parameter_groups
from stepvideo.stage import StageContext
from stepvideo.training.config import VAETrainConfig
from stepvideo.training.fit import Batch, StageModule, fit, tail_mean, write_curve
from stepvideo.training.flow import gaussian
from stepvideo.training.optim import lr_factor

FRAMES = 17
VALIDATION = 16  # clips held back


class ClipFrames:
    """Windows of all clips in memory, as uint8; batches are functions of the step alone."""

    def __init__(self, directory: Path, clips: Sequence[Clip], cfg: VAETrainConfig) -> None:
        self.cfg, self.size = cfg, max(cfg.sizes)
        self.data = windows(directory, clips, FRAMES, self.size)
        if len(clips) <= VALIDATION:
            raise StepVideoError(f"{len(clips)} clips are too few to train a VAE on; {VALIDATION} are held back")
        self.train, self.validation = self.data[:-VALIDATION], self.data[-VALIDATION:]
        self.rows = {
            (image, crop): Sampler(
                len(self.train),
                cfg.batch_size * (cfg.images_per_clip if image else 1) * (cfg.crops_per_clip if crop else 1),
                cfg.seed + image + 2 * crop,
            )
            for image in (False, True)
            for crop in (False, True)
        }

    def batch(self, step: int, rank: int, world_size: int) -> Tensor:
        """[b, t, 3, h, w] in [-1, 1]: this rank's rows of the global batch of `step`."""
        cfg, draw = self.cfg, rng(self.cfg.seed, "vae batch", step)
        image = bool(draw.random() < cfg.image_share)
        length = 1 if image else int(draw.choice(cfg.lengths))
        crop = bool(cfg.crop and draw.random() < cfg.crop_share)
        size = int(draw.choice(cfg.sizes))
        rows = self.rows[image, crop].batch(step)
        starts = draw.integers(0, FRAMES - length + 1, len(rows))
        corners = draw.integers(0, self.size - cfg.crop + 1, (len(rows), cfg.crop_tries, 2))
        mine = range(rank, len(rows), world_size)
        frames = [self.train[rows[i], starts[i] : starts[i] + length] for i in mine]
        if not crop:
            return resize(to_tensor(np.stack(frames)), size)
        return to_tensor(np.stack([liveliest(f, corners[i], cfg.crop) for f, i in zip(frames, mine, strict=True)]))


def liveliest(frames: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Of the crops of [t, h, w, 3] at `corners` (y, x), the one whose colours vary most over space and time.

    Most of a frame is background: crops taken anywhere would show a small object, and its corners, too rarely.
    """
    cuts = [frames[:, y : y + side, x : x + side] for y, x in corners]
    return max(cuts, key=lambda c: c.var(axis=(0, 1, 2), dtype=np.float32).sum()) if len(cuts) > 1 else cuts[0]


class VAEModule(StageModule):
    """The VAE and, late in training, its discriminator."""

    perceptual: CLIPImageEncoder | None

    def __init__(
        self, cfg: VAETrainConfig, vae: VideoVAE, data: ClipFrames, perceptual: CLIPImageEncoder | None
    ) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.data = cfg, data
        self.net = vae
        self.groups = vae_parameter_groups(vae) if cfg.vae.dual_path else {"backbone": list(vae.parameters())}
        self.disc = PatchDiscriminator(cfg.discriminator) if cfg.gan else None
        object.__setattr__(self, "perceptual", perceptual)  # not a submodule: it is neither trained nor saved
        if perceptual is not None:
            perceptual.requires_grad_(False).eval()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        opts = super().configure_optimizers()
        if self.disc is not None:
            opts.append(torch.optim.AdamW(self.disc.parameters(), lr=self.optim.lr, betas=(0.5, 0.9), weight_decay=0.0))
        return opts

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        x = self.data.batch(step, rank, world_size)
        return {"x": x, "eps_seed": rank}

    def frozen(self, step: int) -> list[nn.Parameter]:
        """Parameters that stage 2 does not touch yet at `step`."""
        if not self.cfg.vae.dual_path:
            return []
        starts = {"mid": self.cfg.unfreeze_mid, "backbone": self.cfg.unfreeze_backbone}
        return [p for name, params in self.groups.items() if step < starts.get(name, 0) for p in params]

    def reconstruct(self, x: Tensor, step: int, rank: int) -> tuple[Tensor, DiagonalGaussian]:
        vae = self.net
        assert isinstance(vae, VideoVAE)
        posterior = DiagonalGaussian(vae.encode_moments(x).float())
        eps = gaussian(posterior.mean.shape, self.cfg.seed, "posterior", step, rank)
        return vae.decode(posterior.sample(eps=eps.to(x.device))).float(), posterior

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        x, cfg = batch["x"], self.cfg
        y, posterior = self.reconstruct(x, batch["step"], batch["eps_seed"])
        l1, kl = (y - x).abs().mean(), posterior.kl().mean()
        loss = cfg.l1 * l1 + cfg.l2 * (y - x).square().mean() + cfg.kl * kl
        logs = {"l1": float(l1.detach()), "kl": float(kl.detach())}
        if self.perceptual is not None and cfg.perceptual:
            p = self.perceptual_loss(x, y, batch["step"])
            loss, logs["perceptual"] = loss + cfg.perceptual * p, float(p.detach())
        if self.disc is not None and batch["step"] >= cfg.gan_from:
            g = hinge_generator_loss(self.disc(y))
            weight = self.adaptive_weight(loss, g)
            loss, logs["gan_g"], logs["gan_weight"] = loss + cfg.gan * weight * g, float(g.detach()), float(weight)
            self._fake = y.detach()
        return loss, logs

    def perceptual_loss(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Video-LPIPS on a few frames: squared distance of unit-normalised features, averaged over stages."""
        assert self.perceptual is not None
        t = x.shape[1]
        pick = np.sort(rng(self.cfg.seed, "perceptual", step).permutation(t)[: self.cfg.perceptual_frames]).tolist()
        fx, fy = (self.perceptual.features(v[:, pick].flatten(0, 1)) for v in (x, y))
        return perceptual_distance(fx, fy).mean()

    def adaptive_weight(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """Ratio of the two losses' gradients at the decoder's last layer (VQGAN's rule), so that neither drowns."""
        names = dict(self.net.named_parameters())
        last = next(p for n, p in names.items() if n.startswith("decoder.conv_out") and n.endswith("weight"))
        a = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
        b = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
        return (a / (b + 1e-6)).clamp(0, 1e3).detach()

    def update(self, loss: Tensor, opts: object, step: int) -> float:
        opts = opts if isinstance(opts, list) else [opts]
        main = opts[:-1] if self.disc is not None else opts
        frozen = self.frozen(step)
        for p in frozen:
            p.requires_grad_(True)  # DDP wants all gradients; frozen ones are dropped below
        norm = self._update(loss, main, frozen, step)
        if self.disc is not None and step >= self.cfg.gan_from:
            self._update_discriminator(opts[-1], step)
        return norm

    def _update(self, loss: Tensor, opts: list[torch.optim.Optimizer], frozen: list[nn.Parameter], step: int) -> float:
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        for p in frozen:
            p.grad = None
        return self.step_optimizers(opts, step)

    def _update_discriminator(self, opt: torch.optim.Optimizer, step: int) -> None:
        """Hinge loss on the real batch and the reconstruction that the generator was just scored on."""
        assert self.disc is not None
        opt.zero_grad(set_to_none=True)
        real = self.disc(self._real)
        fake = self.disc(self._fake)
        self.manual_backward(hinge_discriminator_loss(real, fake))
        factor = lr_factor(step, self.steps, self.optim)
        for group in opt.param_groups:
            group["lr"] = self.optim.lr * factor
        opt.step()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self._real = batch["x"]
        return super().training_step(batch, batch_idx)


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
    data = ClipFrames(ctx.inputs["curate"], clips, cfg)
    torch.manual_seed(cfg.seed)
    vae = VideoVAE(cfg.vae)
    _init(vae, cfg.start_logvar)
    if "init" in ctx.inputs:
        ctx.sink.event("initialised", new_tensors=take_over(vae, load_vae(ctx.inputs["init"])))
    perceptual = load_clip_image(ctx.inputs["text"]) if "text" in ctx.inputs and cfg.perceptual else None
    module = VAEModule(cfg, vae, data, perceptual)
    fit(module, ctx, cfg.precision)
    if ctx.rank:
        return {}
    save_vae(vae, ctx.out)
    write_curve(module, ctx)
    bf16 = cfg.precision == "bf16-mixed"
    metrics = {"loss": tail_mean(module)}
    validation = to_tensor(data.validation)
    for size in cfg.sizes:
        metrics[f"psnr_{size}"] = psnr(vae.eval(), resize(validation, size), bf16)
    storage.write_json(ctx.out / "metrics.json", metrics)
    return metrics
