"""Kind "pairs": preference pairs for Video-DPO (report §4.4), sampled from the model itself.

Several videos a prompt, one seed each; simulated annotators compare them. An annotator sees the oracle's fidelity,
calls a small difference a tie and errs at a known rate, so that the stage exercises what real votes are like. The
prompts name training combinations only, in the words of captions or of the guideline.

People judge in two runs with the same settings: one with `save_videos` makes what a study shows (docs/alignment.md),
one with `runtime.votes` makes the same samples again and takes their votes.

    pairs.safetensors  winner, loser [P, f, z, h, w] float32 (normalised latents) and the text arguments [P, …]
    pairs.jsonl        a row a pair: prompt, language, attributes, sample numbers, votes, fidelities
    samples.jsonl      a row a sample: prompt number, sample number, fidelity
    videos/, prompts.jsonl   with save_videos: PROMPT-SAMPLE.mp4 of all samples, and the prompts by id
    votes.jsonl        people's votes as they were given
    ties.safetensors, ties.jsonl   with keep_ties: first, second and the rest as of pairs; for reward models
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.data.draw import rng
from stepvideo.data.video_io import write_video
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.stage import StageContext
from stepvideo.training.dpo_config import PairsConfig
from stepvideo.training.pairs_votes import check_digest, prompt_id, read_votes, sample_id
from stepvideo.world import oracle
from stepvideo.world.attributes import train_combinations
from stepvideo.world.captions import Prompt, prompts
from stepvideo.world.guideline import reworded

FPS = 25


def vote(better: float, worse: float, cfg: PairsConfig, draw: np.random.Generator) -> int:
    """One annotator's vote on two fidelities: 1 for the first, -1 for the second, 0 for a tie."""
    flipped = bool(draw.random() < cfg.flip)
    if abs(better - worse) < cfg.tie:
        return 0
    return (1 if better > worse else -1) * (-1 if flipped else 1)


def votes_on(fidelity: list[float], cfg: PairsConfig, prompt: int) -> list[tuple[int, int, list[int]]]:
    """(i, j, votes) of every two samples i < j of one prompt; 1 prefers i."""
    return [
        (
            i,
            j,
            [
                vote(fidelity[i], fidelity[j], cfg, rng(cfg.seed, "vote", prompt, i, j, a))
                for a in range(cfg.annotators)
            ],
        )
        for i, j in itertools.combinations(range(len(fidelity)), 2)
    ]


def judge(fidelity: list[float], cfg: PairsConfig, prompt: int) -> list[dict[str, Any]]:
    """Pairs of samples of one prompt with a clear majority: {winner, loser, votes}, at most one use of a sample."""
    found = []
    for i, j, votes in votes_on(fidelity, cfg, prompt):
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
    check_digest(cfg.runtime.votes, cfg.votes)
    asked = ask(cfg)
    given = read_votes(Path(cfg.runtime.votes), [p.text for p in asked], cfg.samples) if cfg.votes else None
    pipe = Pipeline.load(ctx.inputs["model"], ctx.inputs["vae"], ctx.inputs["text"], cfg.runtime.device)
    latents, fidelity = sample(ctx, pipe, asked)
    rows, winners, losers = [], [], []
    scores = [fidelity[n * cfg.samples : (n + 1) * cfg.samples] for n in range(len(asked))]
    judged = given or [(n, pair) for n in range(len(asked)) for pair in judge(scores[n], cfg, n)]
    for n, pair in judged:
        rows.append(row_of(asked[n], n, pair, scores[n]))
        winners.append(latents[n * cfg.samples + pair["winner"]])
        losers.append(latents[n * cfg.samples + pair["loser"]])
    if not rows:
        raise StepVideoError(
            "the annotators preferred no sample over another; give more prompts or samples, or a lower tie"
        )
    text = pipe.encode_prompts([row["prompt"] for row in rows])
    tensors = {"winner": torch.stack(winners), "loser": torch.stack(losers), **{k: v.cpu() for k, v in text.items()}}
    save_file({k: v.contiguous() for k, v in tensors.items()}, ctx.out / "pairs.safetensors")
    write_rows(ctx, "pairs.jsonl", rows)
    samples = [{"prompt": i // cfg.samples, "sample": i % cfg.samples, "fidelity": f} for i, f in enumerate(fidelity)]
    write_rows(ctx, "samples.jsonl", samples)
    if given:
        shutil.copyfile(cfg.runtime.votes, ctx.out / "votes.jsonl")
    if cfg.keep_ties and not given:  # a simulated tie is no person's
        _ties(ctx, pipe, asked, latents, scores)
    if cfg.save_videos:
        _videos(ctx, pipe, asked, latents)
    right = [row["fidelity_winner"] > row["fidelity_loser"] for row in rows]
    return {"pairs": len(rows), "label_accuracy": float(np.mean(right)), "mean_fidelity": float(np.mean(fidelity))}


def ask(cfg: PairsConfig) -> list[Prompt]:
    """The prompts, of training combinations."""
    found = prompts(train_combinations(), cfg.prompts, cfg.seed)
    return reworded(found, cfg.guideline_share, rng(cfg.seed, "guideline"))


def sample(ctx: StageContext, pipe: Pipeline, asked: list[Prompt]) -> tuple[torch.Tensor, list[float]]:
    """`cfg.samples` latents of every prompt, and their fidelities; goes on after the last batch in `ctx.work`."""
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


def _ties(
    ctx: StageContext, pipe: Pipeline, asked: list[Prompt], latents: torch.Tensor, scores: list[list[float]]
) -> None:
    """At most one pair a prompt whose votes cancel out."""
    cfg: PairsConfig = ctx.config
    tied = ([(n, i, j, v) for i, j, v in votes_on(s, cfg, n) if not sum(v)][:1] for n, s in enumerate(scores))
    rows = [
        {"prompt": asked[n].text, "number": n, "first": i, "second": j, "votes": v} for t in tied for n, i, j, v in t
    ]
    if not rows:
        return
    text = pipe.encode_prompts([row["prompt"] for row in rows])
    of = {k: torch.stack([latents[r["number"] * cfg.samples + r[k]] for r in rows]) for k in ("first", "second")}
    save_file({k: v.cpu().contiguous() for k, v in {**of, **text}.items()}, ctx.out / "ties.safetensors")
    write_rows(ctx, "ties.jsonl", rows)


def _videos(ctx: StageContext, pipe: Pipeline, asked: list[Prompt], latents: torch.Tensor) -> None:
    """All samples as a study takes them."""
    cfg: PairsConfig = ctx.config
    (ctx.out / "videos").mkdir()
    for n in range(len(asked)):
        frames = pipe.decode(latents[n * cfg.samples : (n + 1) * cfg.samples])
        for k, video in enumerate(frames):
            write_video(ctx.out / "videos" / f"{sample_id(n, k)}.mp4", video, FPS, crf=12)
    rows = [{"id": prompt_id(n), p.lang: p.text, "category": str(p.attrs)} for n, p in enumerate(asked)]
    write_rows(ctx, "prompts.jsonl", rows)


def row_of(prompt: Prompt, number: int, pair: dict[str, Any], scores: list[float]) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "lang": prompt.lang,
        "attributes": prompt.attrs.as_dict(),
        "number": number,
        **pair,
        "fidelity_winner": scores[pair["winner"]],
        "fidelity_loser": scores[pair["loser"]],
    }


def write_rows(ctx: StageContext, name: str, rows: list[dict[str, Any]]) -> None:
    storage.write_atomic(ctx.out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
