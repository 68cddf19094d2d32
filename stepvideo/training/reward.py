"""Kind "reward": train a reward model on people's comparisons, ties among them, and calibrate it (report §4.4).

Prompts, not pairs, are held out: half of those calibrate (a temperature and a threshold of ties), the other half tests.

    transformer/, reward/    the model (reward_model.py)
    judged.jsonl             a row a held-out pair: part (calibration | test), prompt, difference of the calibrated
                             scores, votes [first, tie, second]
    loss_curve.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepvideo import storage
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.source import Batch, deal
from stepvideo.diffusion.pipeline import best_device
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.models.checkpoints import load_dit
from stepvideo.stage import StageContext
from stepvideo.training.dpo_config import RewardConfig
from stepvideo.training.fit import fit
from stepvideo.training.flow import TEXT_KEYS
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.monitor.cost import TRAINED, DiTCost
from stepvideo.training.reward_model import (
    FOLDER,
    Calibration,
    RewardModel,
    load_reward,
    outcomes,
    save_reward,
    seen_prompts,
    truncated,
    votes_loss,
)

PARTS = ("train", "calibration", "test")


@dataclass
class Comparisons:
    """Pairs of videos of one prompt each, with the votes on them.

    Attributes:
        tensors: first, second [P, f, z, h, w] fp32, votes [P, 3] (first, tie, second), and the text [P, …].
        prompts: of every pair.
    """

    tensors: dict[str, Tensor]
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, prompts: Collection[str]) -> list[int]:
        """Numbers of the pairs of these prompts."""
        return [i for i, p in enumerate(self.prompts) if p in prompts]

    def of(self, rows: list[int]) -> dict[str, Tensor]:
        return {k: v[rows] for k, v in self.tensors.items()}


def read_comparisons(folders: Mapping[str, Path]) -> Comparisons:
    """All pairs and ties of the outputs of `pairs` stages, texts padded to one length. A pair without single votes
    counts as one.

    Raises:
        ArtifactError: rows and tensors of a folder do not fit each other, or two folders do not fit.
    """
    parts: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for role in sorted(folders):
        for name, first, second in (("pairs", "winner", "loser"), ("ties", "first", "second")):
            path = folders[role] / f"{name}.safetensors"
            if name == "ties" and not path.exists():
                continue
            tensors = load_file(path)
            rows = [json.loads(line) for line in (folders[role] / f"{name}.jsonl").read_text("utf-8").splitlines()]
            if len(rows) != len(tensors[first]):
                raise ArtifactError(f"{path} has {len(tensors[first])} pairs, {name}.jsonl {len(rows)}; make it again")
            text = {k: tensors[k] for k in TEXT_KEYS}
            votes = torch.tensor([_counts(row) for row in rows], dtype=torch.float32)
            parts.append({"first": tensors[first], "second": tensors[second], "votes": votes, **text})
            prompts += [row["prompt"] for row in rows]
    llm, _, mask = TEXT_KEYS
    longest = max(p[llm].shape[1] for p in parts)
    for p in parts:  # Step-LLM's tokens come last in the mask too
        more = longest - p[llm].shape[1]
        p[llm], p[mask] = torch.nn.functional.pad(p[llm], (0, 0, 0, more)), torch.nn.functional.pad(p[mask], (0, more))
    try:
        return Comparisons({k: torch.cat([p[k] for p in parts]) for k in parts[0]}, prompts)
    except RuntimeError as e:
        raise ArtifactError(f"pairs of {', '.join(sorted(folders))} do not fit each other: {e}") from e


def _counts(row: Mapping[str, Any]) -> list[int]:
    """[first, tie, second] of votes 1, 0, -1, of which the sum says who won: the first. An adjudicator decides alone,
    against the others' votes too.
    """
    votes = row.get("votes") or [1]
    if row.get("by") == "adjudicated":
        return [1, 0, 0]
    sign = -1 if sum(votes) < 0 else 1
    return [sum(sign * v == side for v in votes) for side in (1, 0, -1)]


class ComparisonSource:
    """Batches of comparisons. The preferred one comes first: the loss has no sides."""

    def __init__(self, cfg: RewardConfig, data: Comparisons, rows: list[int]) -> None:
        self.cfg, self.data, self.rows = cfg, data, rows
        self.sampler = Sampler(len(rows), min(cfg.batch_size, len(rows)), cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = [self.rows[i] for i in self.sampler.batch(step)]
        parts = deal(len(rows), rank, ranks, accumulate)
        return [self._batch([rows[i] for i in mine], len(mine) / len(rows)) for mine in parts]

    def _batch(self, own: list[int], share: float) -> Batch:
        return {**self.data.of(own), "share": share, "ids": [f"comparison {i}" for i in own]}


class RewardModule(StageModule):
    net: RewardModel

    def __init__(self, cfg: RewardConfig, net: RewardModel, source: ComparisonSource) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, net, source

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        difference, tie = differences(self.net, batch)
        each = votes_loss(difference, tie, batch["votes"])
        batch["each"] = each.detach()
        decided = batch["votes"][:, 0] > batch["votes"][:, 2]
        right = (difference.detach() > 0).float()[decided]
        return each.mean(), {"accuracy": right.mean()} if len(right) else {}

    def sometimes(self) -> list[str]:
        return ["accuracy"]  # a micro-batch may hold ties only


def differences(net: RewardModel, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Score of the first minus that of the second [B], in one pass; the threshold of ties."""
    both = {k: torch.cat([batch[k], batch[k]]) for k in TEXT_KEYS}
    scores, tie = net(torch.cat([batch["first"], batch["second"]]), **both)
    first, second = scores.chunk(2)
    return first - second, tie


def split(
    data: Comparisons, cfg: RewardConfig, before: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> dict[str, set[str]]:
    """Prompts by part: train, calibration, test; a prompt is in one part only.

    Args:
        before: parts of the training that this one goes on from. Prompts stay where they were, so that nothing is
            tested on what an earlier round has trained on; new ones are dealt out.

    Raises:
        StepVideoError: a part would be empty.
    """
    known = {p for held in before.values() for p in held}
    names = sorted(set(data.prompts) - known)
    order = [names[i] for i in rng(cfg.seed, "held out prompts").permutation(len(names))]
    out = round(cfg.held_out * len(names)) // 2
    parts = {"calibration": set(order[:out]), "test": set(order[out : 2 * out]), "train": set(order[2 * out :])}
    parts = {part: held | set(before.get(part, ())) for part, held in parts.items()}
    if any(not data.rows(parts[part]) for part in (PARTS if cfg.held_out else ("train",))):
        raise StepVideoError(
            f"{len(set(data.prompts))} prompts are too few to train on and to hold out held_out={cfg.held_out} of them"
            f"{' (those of earlier rounds stay in their part)' if known else ''}; give more pairs, or held_out=0"
        )
    return parts


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (a model, or an earlier reward model to go on from), pairs.NAME (outputs of `pairs`, one or more).

    Raises:
        ArtifactError: no pairs, or pairs that do not fit. StepVideoError: too few prompts.
    """
    cfg: RewardConfig = ctx.config
    pairs = {role: path for role, path in ctx.inputs.items() if role.partition(".")[0] == "pairs"}
    if not pairs:
        raise ArtifactError("reward has no input pairs.NAME; it needs the output of one or more `pairs` stages")
    data = read_comparisons(pairs)
    torch.manual_seed(cfg.seed)
    init, before = ctx.inputs["init"], {}
    if (init / FOLDER).is_dir():
        net, _ = load_reward(init)
        before = seen_prompts(init) if cfg.held_out else {}
        net.dropout = cfg.dropout
    else:
        net = RewardModel(truncated(load_dit(init, dtype=torch.float32), cfg.layers), cfg.dropout)
    prompts = split(data, cfg, before)
    parts = {part: data.rows(held) for part, held in prompts.items()}
    module = RewardModule(cfg, net, ComparisonSource(cfg, data, parts["train"]))
    trained = fit(module, ctx, cfg.precision, cost=DiTCost(net.dit.cfg, 2 * TRAINED, "first"))
    if ctx.rank:
        return {}
    net = cast(RewardModel, trained["net"]).eval().to(best_device(cfg.runtime.device))
    found = {"loss": tail_mean(module), "comparisons": float(len(data)), "prompts": float(len(set(data.prompts)))}
    calibration, judged = Calibration(1.0, float(torch.nn.functional.softplus(net.tie.detach()))), []
    if cfg.held_out:
        raw = {part: scored(net, data.of(parts[part]), cfg.batch_size) for part in ("calibration", "test")}
        votes = {part: data.tensors["votes"][parts[part]] for part in raw}
        plain = quality(raw["test"], votes["test"], calibration)
        calibration = calibrate(raw["calibration"], votes["calibration"], calibration)
        found |= quality(raw["test"], votes["test"], calibration) | {"nll_uncalibrated": plain["nll"]}
        judged = [
            {"part": part, "prompt": data.prompts[i], "difference": round(float(d), 6), "votes": v.int().tolist()}
            for part in raw
            for i, d, v in zip(parts[part], raw[part] / calibration.temperature, votes[part], strict=True)
        ]
    save_reward(net.cpu(), ctx.out, calibration, {k: sorted(v) for k, v in prompts.items()})
    storage.write_atomic(ctx.out / "judged.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in judged))
    write_curve(module, ctx)
    return found


@torch.no_grad()
def scored(net: RewardModel, data: Mapping[str, Tensor], batch_size: int) -> Tensor:
    """Differences [P] of comparisons, on the CPU."""
    device = net.head.weight.device
    starts = range(0, len(data["votes"]), batch_size)
    parts = [{k: v[i : i + batch_size].to(device) for k, v in data.items()} for i in starts]
    return torch.cat([differences(net, part)[0].cpu() for part in parts])


def calibrate(differences_P: Tensor, votes_P3: Tensor, start: Calibration) -> Calibration:
    """The temperature and the threshold of ties under which the votes are likeliest."""
    free = torch.tensor([0.0, math.log(math.expm1(max(start.tie, 1e-3)))], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")
    votes = votes_P3.double()

    def loss() -> Tensor:
        search.zero_grad()
        # one vote that is a coin's keeps the temperature finite where the scores are right every time
        prior = 0.5 * free[0].square() / max(1, len(votes))
        tie = torch.nn.functional.softplus(free[1])
        value = votes_loss(differences_P.double() / free[0].exp(), tie, votes).mean() + prior
        value.backward()
        return value

    search.step(loss)  # type: ignore[arg-type]
    return Calibration(float(free[0].detach().exp()), float(torch.nn.functional.softplus(free[1].detach())))


def quality(differences_P: Tensor, votes_P3: Tensor, calibration: Calibration) -> dict[str, float]:
    """On held-out pairs: accuracy where a majority decided, tie-aware accuracy over all, likelihood, calibration error.

    Tie-aware accuracy counts the likeliest of three outcomes against the votes' most frequent one. `ece` is the
    expected calibration error of the first outcome's probability, in ten bins.
    """
    decided = votes_P3[:, 0] != votes_P3[:, 2]
    right = ((differences_P > 0) == (votes_P3[:, 0] > votes_P3[:, 2]))[decided].float()
    # from both sides: the preferred one comes first
    votes, both = torch.cat([votes_P3, votes_P3.flip(1)]), torch.cat([differences_P, -differences_P])
    logp = outcomes(both / calibration.temperature, calibration.tie)
    share = votes / votes.sum(1, keepdim=True)
    first = logp[:, 0].exp()
    bins = (first * 10).long().clamp(0, 9)
    gaps = [float((first[bins == b] - share[bins == b, 0]).sum().abs()) for b in range(10)]
    return ({"accuracy": float(right.mean())} if len(right) else {}) | {
        "accuracy_with_ties": float((logp.argmax(1) == votes.argmax(1)).float().mean()),
        "nll": float(-(logp * share).sum(1).mean()),
        "ece": sum(gaps) / len(first),
        "temperature": calibration.temperature,
        "tie": calibration.tie,
    }
