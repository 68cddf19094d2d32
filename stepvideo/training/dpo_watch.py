"""What a preference training does to its policy, step by step, and the alarm when it explodes.

A loss that falls says little here: the margin z also grows where both samples get worse, the loser faster. So beside
it stand both samples' losses, how far parameters and outputs are from the reference, and the gradient's norm over the
factor of Eq. 9, β·(1 − σ(βz)): what is left is the norm of ∂z/∂θ, which should stay flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from stepvideo.data.flow_draws import gaussian
from stepvideo.data.source import Batch
from stepvideo.diffusion.objectives import velocity_loss
from stepvideo.diffusion.path import velocity
from stepvideo.errors import StepVideoError
from stepvideo.parallel import fsdp
from stepvideo.parallel.gradients import total_norm
from stepvideo.training import lora
from stepvideo.training.dpo_config import DPOWatchConfig
from stepvideo.training.dpo_module import DPOModule, PairSource
from stepvideo.training.flow import TEXT_KEYS, predict
from stepvideo.training.monitor.evaluating import evaluating

LOGGED = (
    "implicit_accuracy",
    "reward_margin",
    "negative_z",
    "winner_change",
    "loser_change",
    "reference_loss",
    "gradient_scale",
)
COLUMNS = (*LOGGED, "gradient_ratio", "drift", "velocity_distance")
HELD_OUT = "held_out_accuracy"


class DPOWatch(Callback):
    """Keeps a row of `columns` a step for the artifact, logs what it measures, and raises alarms.

    drift is the relative distance of the parameters from the reference's (with adapters: of their product),
    velocity_distance that of the outputs on `cfg.probes` winners at fixed noise and timesteps, and held_out_accuracy
    the implicit accuracy on pairs that nothing is trained on, if there are any: on those that it is trained on it also
    comes to 1 when labels are random.
    """

    def __init__(self, cfg: DPOWatchConfig, held_out: bool = False) -> None:
        self.cfg = cfg
        self.measured = ("drift", "velocity_distance", *([HELD_OUT] if held_out else []))
        self.columns = (*COLUMNS, *self.measured[2:])
        self.rows: dict[int, list[float]] = {}
        self.raised: list[str] = []
        self._target: Tensor | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self._target is not None:
            return
        assert isinstance(pl_module, DPOModule)
        module = pl_module
        source, to_device = module.source, trainer.strategy.batch_to_device
        self.probes = to_device(probes(source, range(len(source.pairs["winner"]))[: self.cfg.probes], self.cfg.levels))
        held_out = source.held_out[: 4 * self.cfg.probes]
        self.held_out = [
            to_device(probes(source, held_out, self.cfg.levels, side)) for side in ("winner", "loser") if held_out
        ]
        with evaluating(trainer, module):
            self._target = module.reference_velocity(self.probes, self.probes["x1"]).float()
            self._errors = [error(module.reference_velocity(p, p["x1"]), p) for p in self.held_out]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DPOModule)
        module = pl_module
        step, done = batch["step"], module.done
        values = {name: float(outputs[name]) for name in LOGGED}
        scale = abs(values["gradient_scale"])
        values["gradient_ratio"] = float(outputs["grad_norm"]) / scale if scale else 0.0
        if done % self.cfg.every == 0 or done == module.steps or not self.rows:
            values |= self._measure(trainer, module)
        else:
            last = dict(zip(self.columns, self.rows[max(self.rows)], strict=True))
            values |= {name: last[name] for name in self.measured}
        self.rows[step] = [values[name] for name in self.columns]
        if module.ctx.rank == 0 and (done % module.ctx.config.runtime.log_every == 0 or done == module.steps):
            module.ctx.sink.metrics(done, {name: values[name] for name in ("gradient_ratio", *self.measured)})
        self._judge(module, step)

    def _measure(self, trainer: Trainer, module: DPOModule) -> dict[str, float]:
        assert self._target is not None
        with evaluating(trainer, module) as net:
            v, *held_out = (predict(net, p, p["noise"], p["x1"], p["t"]).float() for p in (self.probes, *self.held_out))
        values = {"drift": drift(module), "velocity_distance": float((v - self._target).norm() / self._target.norm())}
        if held_out:
            worse = [error(v, p) - e for v, p, e in zip(held_out, self.held_out, self._errors, strict=True)]
            z = (worse[1] - worse[0]).view(-1, self.cfg.levels).mean(1)
            values[HELD_OUT] = float((z > 0).float().mean())
        return values

    def _judge(self, module: DPOModule, step: int) -> None:
        """All ranks judge the same numbers; a reason is said once."""
        rows = [self.rows[s] for s in range(step - self.cfg.window + 1, step + 1) if s in self.rows]
        if len(rows) < self.cfg.window:
            return
        mean = {name: math.fsum(r[i] for r in rows) / len(rows) for i, name in enumerate(self.columns)}
        for name, reason in alarms(mean, self.cfg).items():
            if module.parallel.any(name not in self.raised):
                self.raised.append(name)
                if module.ctx.rank == 0:
                    module.ctx.sink.event("dpo_alarm", step=step, alarm=name, reason=reason)
                if self.cfg.on_alarm == "stop":
                    raise StepVideoError(
                        f"step {step}: {reason}; lower optim.lr or steps, raise sft_anchor, or only have it logged "
                        "(watch.on_alarm=log)"
                    )

    def state_dict(self) -> dict[str, Any]:
        table = torch.tensor([[s, *row] for s, row in self.rows.items()], dtype=torch.float64)
        return {"rows": table, "raised": list(self.raised)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = {int(s): row for s, *row in state_dict["rows"].tolist()}
        self.raised = list(state_dict["raised"])


def probes(source: PairSource, rows: Sequence[int], levels: int, side: str = "winner") -> Batch:
    """Samples of these pairs, each at the centres of `levels` equal slices of [0, 1] and at noise of its pair."""
    pairs, each = source.pairs, [(i, level) for i in rows for level in range(levels)]
    chosen = [i for i, _ in each]
    x1 = pairs[side][chosen]
    noise = [gaussian(x1.shape[1:], source.cfg.seed, "probe", i, level) for i, level in each]
    t = torch.tensor([(level + 0.5) / levels for _, level in each])
    return {"noise": torch.stack(noise), "t": t, "x1": x1, **{k: pairs[k][chosen] for k in TEXT_KEYS}}


def error(v: Tensor, probes: Batch) -> Tensor:
    """Velocity loss [probes]."""
    return velocity_loss(v, velocity(probes["noise"], probes["x1"]))


def alarms(mean: dict[str, float], cfg: DPOWatchConfig) -> dict[str, str]:
    """Which of the known failures the window's means show, with the figures."""
    found = {}
    w, loser, at = mean["winner_change"], mean["loser_change"], mean["reference_loss"]
    if min(w, loser) > cfg.rise * at:
        found["both_rise"] = (
            f"the losses of winners and losers are {w:.4g} and {loser:.4g} above the reference's {at:.4g}: "
            "the margin grows by making both worse"
        )
    if mean["velocity_distance"] > cfg.distance:
        found["far"] = (
            f"the velocities are {mean['velocity_distance']:.3g} of their size away from the reference's "
            f"(watch.distance={cfg.distance})"
        )
    return found


@torch.no_grad()
def drift(module: DPOModule) -> float:
    """Relative distance of the policy's parameters from the reference's. All ranks call it together."""
    net, reference = module.net, module.reference
    if reference is None:
        return _adapters_drift(net)
    if module.parallel.mesh is not None:
        fsdp.rest(reference)  # without a backward nothing else ends what its last forward gathered
    fixed = list(reference.parameters())
    moved = total_norm([p.detach() - q.to(p.dtype) for p, q in zip(net.parameters(), fixed, strict=True)])
    return float(moved / total_norm([q.detach() for q in fixed]))


def _adapters_drift(net: nn.Module) -> float:
    """The same of W + (alpha / rank)·B·A against W."""
    learning = {id(p) for p in net.parameters() if p.requires_grad}
    fixed = total_norm([p.detach() for p in net.parameters() if id(p) not in learning])
    square = 0.0
    for _, module in lora.layers(net):
        a, b = (getattr(module, part)[lora.NAME].weight.detach() for part in ("lora_A", "lora_B"))
        a, b = (x.full_tensor() if hasattr(x, "full_tensor") else x for x in (a, b))
        square += float((module.scaling[lora.NAME] * (b.float() @ a.float())).square().sum())  # type: ignore[index]
    return square**0.5 / float(fixed)
