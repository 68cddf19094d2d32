"""The `evaluate` stage: one sample a prompt, all scored by the oracle, every rate with its interval.

results.jsonl            one row a sample (`results.Row`)
summary.json             rates by run and split, the gate, each with its interval; sampling and evaluations
gate.json                what the oracle reads right on known truth
latents/RUN.safetensors  end points of all samples, fp16, in prompt order
samples/RUN/NNNN.mp4     a few samples (.png for stills), the same prompts for every model
contact_sheet.png        frames of those of the main run, one row a sample
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

from stepvideo import storage
from stepvideo.config import dump
from stepvideo.data.show import contact_sheet
from stepvideo.data.video_io import write_image
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.evaluation import gate as gates
from stepvideo.evaluation.batches import Batches, save_tensor, worded
from stepvideo.evaluation.config import EvaluateConfig
from stepvideo.evaluation.results import (
    GATE_PARTS,
    INTERVALS,
    MAIN,
    Row,
    as_json,
    by_split,
    check_complete,
    clustered_rates,
    rates,
    write_rows,
)
from stepvideo.stage import StageContext
from stepvideo.world.attributes import held_out_combinations, train_combinations
from stepvideo.world.captions import Prompt, prompts


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: `model` (transformer), `vae`, `text`; optionally `gate`, an evaluation with the same VAE and sizes.

    Raises:
        StepVideoError: a size that the VAE cannot code, a prompt that the encoders cannot spell.
        ArtifactError: an input is missing or does not fit, or a result is missing at the end.
        Preempted: a stop was asked for; finished batches are kept in `ctx.work`.
    """
    cfg: EvaluateConfig = ctx.config
    if ctx.world_size > 1:
        raise StepVideoError(f"evaluate runs in one process, not {ctx.world_size}; set runtime.nproc=1")
    if missing := [role for role in ("model", "vae", "text") if role not in ctx.inputs]:
        raise ArtifactError(f"evaluate has no input {', '.join(missing)}; it needs model, vae and text")
    model, vae, text = (ctx.inputs[role] for role in ("model", "vae", "text"))
    pipe = Pipeline.load(model, vae, text, cfg.runtime.device, cfg.precision)
    runs = samplings(cfg, pipe.defaults)
    for sampling in runs.values():
        pipe.latent_shape(sampling)
    asked = ask(cfg, still=runs[MAIN].frames == 1)
    for repeat in dict.fromkeys(["", *(r.repeat for r in cfg.extra_runs)]):
        pipe.encode_prompts([worded(p, repeat) for p in asked])  # what cannot be spelled fails now, not after an hour
    gate = _gate(ctx, cfg, pipe, runs[MAIN])
    batches = Batches(ctx, cfg, pipe, asked, keep(asked, cfg.save_videos), gate.testable)
    for name, sampling in runs.items():
        batches.finish(name, sampling)
    rows = {name: batches.rows(name) for name in runs}
    for name, mine in rows.items():
        check_complete(mine, len(asked), f"run {name}")
    _write(ctx, cfg, runs, rows, batches, gate)
    return metrics(rows, gate)


def samplings(cfg: EvaluateConfig, model: Sampling) -> dict[str, Sampling]:
    """The main run and the extra ones; 0 and "" fall back to the main run's values, then to the model's own."""
    size = {"frames": cfg.frames, "height": cfg.height, "width": cfg.width}
    ways = ("steps", "cfg", "time_shift", "cfg_schedule")
    main = model.with_(size).with_({w: getattr(cfg, w) for w in ways})
    return {MAIN: main} | {r.name: main.with_({w: getattr(r, w) for w in ways}) for r in cfg.extra_runs}


def ask(cfg: EvaluateConfig, still: bool) -> list[Prompt]:
    """The prompts, training combinations first; the same for every model. Stills have no held-out combination."""
    if still:
        combos = sorted({a.still() for a in train_combinations()}, key=str)
        return prompts(combos, cfg.n_train, cfg.prompt_seed, cfg.languages)
    train = prompts(train_combinations(), cfg.n_train, cfg.prompt_seed, cfg.languages)
    return train + prompts(held_out_combinations(), cfg.n_heldout, cfg.prompt_seed + 1, cfg.languages)


def keep(asked: list[Prompt], count: int) -> list[int]:
    """Which samples are kept as video: the first of each split, half of them held out where there are such."""
    train = [i for i, p in enumerate(asked) if not p.held_out]
    heldout = [i for i, p in enumerate(asked) if p.held_out]
    half = min(len(heldout), count // 2)
    return train[: count - half] + heldout[:half]


def metrics(rows: dict[str, list[Row]], gate: gates.Gate) -> dict[str, float]:
    """`SPLIT/ATTRIBUTE` of testable attributes, `RUN/…` before those of extra runs, and the gate's rates, each with its
    95 % interval as `…_low` and `…_high` (Wilson). What is untestable is absent."""
    out: dict[str, float] = {"n": float(len(rows[MAIN]))}
    for name, mine in rows.items():
        prefix = "" if name == MAIN else f"{name}/"
        out[f"{prefix}nfe"] = float(mine[0].nfe)
        for split, part in by_split(mine).items():
            for attribute, estimate in rates(part).items():
                if estimate:
                    out |= estimate.named(f"{prefix}{split}/{attribute}")
    for part in GATE_PARTS:
        for attribute, rate in getattr(gate, part).items():
            if estimate := rate.estimate:
                out |= estimate.named(f"gate/{part}/{attribute}")
    return out


def _gate(ctx: StageContext, cfg: EvaluateConfig, pipe: Pipeline, sampling: Sampling) -> gates.Gate:
    """From `ctx.work` or the input `gate` if it fits, else run; saved in the artifact."""
    size = (sampling.frames, sampling.height, sampling.width)
    vae = storage.checksums(ctx.inputs["vae"] / "vae")
    of: dict[str, Any] = {"vae": vae, "size": list(size), "config": dump(cfg.gate), "precision": cfg.precision}
    folders = [ctx.work, *([ctx.inputs["gate"]] if "gate" in ctx.inputs else [])]
    gate = next((g for f in folders if (g := gates.reuse(f, of))), None)
    if gate is None:

        def reconstruct(video: Any) -> Any:
            return pipe.reconstruct(video, cfg.decode_batch_size)

        gate = gates.run_gate(cfg.gate, *size, reconstruct, lambda i, n: ctx.sink.progress(i, n, "gate video"))
        gates.save(ctx.work, gate, of)
    gates.save(ctx.out, gate, of)
    ctx.sink.event("gate", **{n: "testable" if ok else "untestable" for n, ok in gate.testable.items()})
    return gate


def _write(
    ctx: StageContext,
    cfg: EvaluateConfig,
    runs: dict[str, Sampling],
    rows: dict[str, list[Row]],
    batches: Batches,
    gate: gates.Gate,
) -> None:
    write_rows(ctx.out / "results.jsonl", [r for mine in rows.values() for r in mine])
    found = {}
    for name, mine in rows.items():
        splits = {
            split: {"n": len(part), "rates": as_json(rates(part)), "clustered": as_json(clustered_rates(part))}
            for split, part in by_split(mine).items()
        }
        found[name] = {"sampling": asdict(runs[name]), "nfe": mine[0].nfe, "splits": splits}
    summary = {"runs": found, "gate": gate.as_dict(), "prompt_seed": cfg.prompt_seed, "fps": cfg.fps}
    storage.write_json(ctx.out / "summary.json", {**summary, "intervals": INTERVALS})
    if cfg.save_latents:
        for name in runs:
            save_tensor(ctx.out / "latents" / f"{name}.safetensors", batches.latents(name))
    for row in (r for mine in rows.values() for r in mine if r.sample):
        (ctx.out / row.sample).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ctx.work / row.sample, ctx.out / row.sample)
    if batches.kept:
        write_image(ctx.out / "contact_sheet.png", contact_sheet([batches.frames(MAIN, i) for i in batches.kept]))
