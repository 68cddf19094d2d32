"""The table of `stepvideo generate --plan`: what each set of options needs, and which one a card gets. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.memory import Job, Networks
from stepvideo.errors import StepVideoError
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.plan import GIB, HEADROOM, PHASES, Plan, choose, predict, smallest, survey
from stepvideo.models.config_files import clip_text_config, dit_config, step_llm_config, vae_config

GPUS = (80.0, 48.0, 24.0)  # GiB
SHOWN = (
    MemoryConfig(),
    MemoryConfig(text="free"),
    MemoryConfig(text="free", cfg_batched=False),
    MemoryConfig(text="free", quantization="int8"),
    MemoryConfig(offload="component"),
    MemoryConfig(offload="component", quantization="int8"),
    MemoryConfig(offload="component", quantization="int8", cfg_batched=False, vae_tile=512),
    MemoryConfig(offload="layer"),
    MemoryConfig(offload="layer", cfg_batched=False, vae_tile=512),
    MemoryConfig(offload="layer", quantization="int8", cfg_batched=False, vae_tile=256),
)


def read_networks(model: Path, vae: Path | None = None, text: Path | None = None, embedded: bool = False) -> Networks:
    """The configurations of a model folder, or of three; no weights are read.

    Args:
        embedded: text features are given, so that no text encoder takes part.

    Raises:
        ArtifactError: a config.json is missing or not of its network.
    """
    text = text or model
    encoders = (None, None) if embedded else (step_llm_config(text), clip_text_config(text))
    return Networks(dit_config(model), vae_config(vae or model), *encoders)


def plan(nets: Networks, job: Job, gpus: tuple[float, ...] = GPUS, given: MemoryConfig | None = None) -> dict[str, Any]:
    """Everything the table shows, as JSON can hold it: bytes, and for each card (in GiB) the options chosen.

    Raises:
        StepVideoError: the VAE cannot code that length.
    """
    try:
        plans = survey(nets, job)
    except ValueError as e:
        raise StepVideoError(f"frames={job.sampling.frames}: {e}") from e
    rows = [predict(nets, job, m) for m in ((given,) if given else ()) + SHOWN if _applies(m, nets, job)]
    chosen = {f"{gpu:g}": choose(plans, int(gpu * GIB)) for gpu in gpus}
    return {
        "job": asdict(job),
        "headroom": HEADROOM,
        "rows": [_row(p, gpus) for p in rows],
        "chosen": {gpu: _row(p, gpus) if p else None for gpu, p in chosen.items()},
        "smallest": _row(smallest(plans), gpus),
    }


def table(nets: Networks, job: Job, gpus: tuple[float, ...] = GPUS, given: MemoryConfig | None = None) -> str:
    """`plan` for people."""
    result = plan(nets, job, gpus, given)
    s: Sampling = job.sampling
    lines = [
        f"Predicted peak on one card: {s.frames} frames of {s.height}x{s.width}, batch {job.batch}, {job.precision}.",
        f"GiB = 2^30 bytes of tensors. A card fits if {result['headroom']:.0%} of it stays free for the driver, the "
        "allocator and kernels.",
        "",
    ]
    used = [name for name in PHASES if any(name in r["phases"] for r in result["rows"])]
    head = ["options", *used, "peak", "host", *(f"{g:g} GB" for g in gpus)]
    body = [
        [
            r["describe"],
            *(_gib(r["phases"].get(name)) for name in used),
            _gib(r["peak"]),
            _gib(r["host"]),
            *("fits" if r["fits"][f"{g:g}"] else f"+{r['over'][f'{g:g}'] / GIB:.1f}" for g in gpus),
        ]
        for r in result["rows"]
    ]
    lines += _columns([head, *body])
    lines.append("")
    for gpu, row in result["chosen"].items():
        if row is None:
            low = result["smallest"]
            lines.append(
                f"{gpu} GB: nothing fits; the least is {_gib(low['peak'])} GiB with {low['describe']} (limit "
                f"{float(gpu) * (1 - HEADROOM):.1f}): choose fewer frames or a smaller size, or use several cards"
            )
        else:
            mark = "" if row["exact"] else "; the result changes slightly"
            lines.append(f"{gpu} GB: {row['describe']} ({_gib(row['peak'])} GiB{mark})")
    return "\n".join(lines)


def _applies(m: MemoryConfig, nets: Networks, job: Job) -> bool:
    """Leaves out rows that only repeat another."""
    no_text = nets.step_llm is None and m == replace(MemoryConfig(), text="free")
    return not (no_text or (not m.cfg_batched and not job.guided))


def _row(p: Plan, gpus: tuple[float, ...]) -> dict[str, Any]:
    over = {f"{g:g}": p.peak - int(g * GIB * (1 - HEADROOM)) for g in gpus}
    return {
        "options": asdict(p.memory),
        "describe": p.memory.describe(),
        "exact": p.memory.exact,
        "phases": {q.name: q.total for q in p.phases},
        "where": {q.name: q.where for q in p.phases},
        "peak": p.peak,
        "host": p.host,
        "fits": {g: o <= 0 for g, o in over.items()},
        "over": over,
    }


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["  ".join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:]))]).rstrip() for r in rows]
