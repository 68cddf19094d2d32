"""Kind "pairs": preference pairs for Video-DPO (report §4.4), sampled from the model itself.

Several videos a prompt, one seed each; simulated annotators compare them. An annotator sees the oracle's fidelity,
calls a small difference a tie and errs at a known rate, so that the stage exercises what real votes are like. The
prompts name training combinations only.

    pairs.safetensors  winner, loser [P, f, z, h, w] float32 (normalised latents) and the text arguments [P, …]
    pairs.jsonl        a row a pair: prompt, language, attributes, sample numbers, votes, fidelities
    samples.jsonl      a row a sample: prompt number, sample number, fidelity
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.data.draw import rng
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.stage import StageContext
from stepvideo.training.config import PairsConfig
from stepvideo.world import oracle
from stepvideo.world.attributes import train_combinations
from stepvideo.world.captions import Prompt, prompts


def vote(better: float, worse: float, cfg: PairsConfig, draw: np.random.Generator) -> int:
    """One annotator's vote on two fidelities: 1 for the first, -1 for the second, 0 for a tie."""
    flipped = bool(draw.random() < cfg.flip)
    if abs(better - worse) < cfg.tie:
        return 0
    return (1 if better > worse else -1) * (-1 if flipped else 1)


def judge(fidelity: list[float], cfg: PairsConfig, prompt: int) -> list[dict[str, Any]]:
    """Pairs of samples of one prompt with a clear majority: {winner, loser, votes}, at most one use of a sample."""
    found = []
    for i, j in itertools.combinations(range(len(fidelity)), 2):
        votes = [
            vote(fidelity[i], fidelity[j], cfg, rng(cfg.seed, "vote", prompt, i, j, a)) for a in range(cfg.annotators)
        ]
        if score := sum(votes):
            winner, loser = (i, j) if score > 0 else (j, i)
            found.append({"winner": winner, "loser": loser, "votes": votes, "margin": abs(score)})
    found.sort(key=lambda p: (-p["margin"], p["winner"], p["loser"]))
    used: set[int] = set()
    chosen = []
    for p in found:
        if not used & {p["winner"], p["loser"]}:
            used |= {p["winner"], p["loser"]}
            chosen.append(p)
    return chosen


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: model, vae, text. A killed run continues after the last finished batch in `ctx.work`."""
    cfg: PairsConfig = ctx.config
    if ctx.rank:
        return {}
    pipe = Pipeline.load(ctx.inputs["model"], ctx.inputs["vae"], ctx.inputs["text"], cfg.runtime.device)
    asked = prompts(train_combinations(), cfg.prompts, cfg.seed)
    latents, fidelity = _sample(ctx, pipe, asked)
    rows, winners, losers = [], [], []
    for n, prompt in enumerate(asked):
        scores = fidelity[n * cfg.samples : (n + 1) * cfg.samples]
        for pair in judge(scores, cfg, n):
            rows.append(_row(prompt, n, pair, scores))
            winners.append(latents[n * cfg.samples + pair["winner"]])
            losers.append(latents[n * cfg.samples + pair["loser"]])
    if not rows:
        raise StepVideoError(
            "the annotators preferred no sample over another; give more prompts or samples, or a lower tie"
        )
    text = pipe.encode_prompts([row["prompt"] for row in rows])
    tensors = {"winner": torch.stack(winners), "loser": torch.stack(losers), **{k: v.cpu() for k, v in text.items()}}
    save_file({k: v.contiguous() for k, v in tensors.items()}, ctx.out / "pairs.safetensors")
    _write_rows(ctx, "pairs.jsonl", rows)
    samples = [{"prompt": i // cfg.samples, "sample": i % cfg.samples, "fidelity": f} for i, f in enumerate(fidelity)]
    _write_rows(ctx, "samples.jsonl", samples)
    right = [row["fidelity_winner"] > row["fidelity_loser"] for row in rows]
    return {"pairs": len(rows), "label_accuracy": float(np.mean(right)), "mean_fidelity": float(np.mean(fidelity))}


def _sample(ctx: StageContext, pipe: Pipeline, asked: list[Prompt]) -> tuple[torch.Tensor, list[float]]:
    cfg: PairsConfig = ctx.config
    jobs = [p for p in asked for _ in range(cfg.samples)]
    parts, fidelity = [], []
    for start in range(0, len(jobs), cfg.batch_size):
        path = ctx.work / f"samples-{start:06d}.safetensors"
        batch = jobs[start : start + cfg.batch_size]
        if not path.exists():
            indices = list(range(start, start + len(batch)))
            done = pipe.sample(
                [p.text for p in batch], seed=cfg.seed, indices=indices, batch_size=cfg.batch_size, **vars(cfg.sampling)
            )
            scores = [
                oracle.fidelity(oracle.read(v), p.attrs) for v, p in zip(pipe.decode(done.latents), batch, strict=True)
            ]
            tmp = path.with_suffix(".tmp")
            save_file(
                {"latents": done.latents.contiguous(), "fidelity": torch.tensor(scores, dtype=torch.float64)}, tmp
            )
            tmp.replace(path)
        part = load_file(path)
        parts.append(part["latents"])
        fidelity += part["fidelity"].tolist()
        ctx.sink.progress(start + len(batch), len(jobs), "video")
        if ctx.should_stop():
            raise Preempted
    return torch.cat(parts), fidelity


def _row(prompt: Prompt, number: int, pair: dict[str, Any], scores: list[float]) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "lang": prompt.lang,
        "attributes": prompt.attrs.as_dict(),
        "number": number,
        **pair,
        "fidelity_winner": scores[pair["winner"]],
        "fidelity_loser": scores[pair["loser"]],
    }


def _write_rows(ctx: StageContext, name: str, rows: list[dict[str, Any]]) -> None:
    storage.write_atomic(ctx.out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
