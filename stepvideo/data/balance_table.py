"""What load balance gives: utilisation of data-parallel ranks by method, counted over the packs of many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stepvideo.data.balance import Plan
from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.balance_sizes import eq12, mean_size
from stepvideo.data.buckets import Bucket, sample_tflops
from stepvideo.models.config import DiTConfig, VAEConfig

VIDEOS = ("204x256x256", "204x192x320", "136x256x256", "136x192x320", "68x256x256", "68x192x320")  # report, Table 3
IMAGES = "1x256x256"
BAR, BAR_IMAGES = 0.98, 8  # mean utilisation that hybrid has to reach with so many images a rank
PACKS, SAMPLES = "packs", "samples"


@dataclass(frozen=True)
class Stream:
    """A stream of Table 3's rows: one pack a rank and step, one sample in a pack of the longest videos.

    `shares`: "packs" draws every row's packs equally often (the reading of "equal shares" that the bar is for: ranks
    spend about the same time on every row), "samples" has equally many samples of each, and numbers, one for each row
    of videos, weigh the samples.
    """

    ranks: int = 8
    steps: int = 1000
    seeds: int = 10
    shares: str | tuple[float, ...] = PACKS

    def sizes(self, batch_sizes: Mapping[str, int]) -> dict[str, int]:
        """Videos of each row, in whole packs, so many that the steps lie within an epoch."""
        weights = dict(zip(batch_sizes, self.shares)) if not isinstance(self.shares, str) else {}
        packs = {b: 1.0 if self.shares == PACKS else weights.get(b, 1.0) / n for b, n in batch_sizes.items()}
        scale = self.ranks * self.steps / sum(packs.values())
        return {b: (int(packs[b] * scale) + 1) * n for b, n in batch_sizes.items()}


def costs(dit: DiTConfig, text_len: int) -> dict[str, float]:
    """TFLOP of a training sample of every row of Table 3."""
    return {b: sample_tflops(Bucket.parse(b), dit, VAEConfig(), text_len) for b in (*VIDEOS, IMAGES)}


def utilisation(costs: np.ndarray) -> np.ndarray:
    """Mean over ranks / maximum over ranks, the last axis: the share of a step in which the average rank computes."""
    return costs.mean(-1) / costs.max(-1)


def simulate(flops: Mapping[str, float], stream: Stream, method: str, images: int, spread: bool) -> list[float]:
    """Mean utilisation over the steps, for each seed."""
    videos = {b: flops[b] for b in VIDEOS}
    batch_sizes = dict.fromkeys(videos, 1) if method == "none" else eq12(videos, max(videos.values()), 1.0)
    sizes = stream.sizes(batch_sizes)
    cfg = BalanceConfig(method, packs=stream.ranks, batch_size=1, spread=spread)
    if images:
        cfg = replace(cfg, video_to_image=mean_size(sizes, batch_sizes) / images)
    # so many images that none comes twice; their number has no influence
    total = stream.ranks * stream.steps * max(images, 1)
    found = []
    for seed in range(stream.seeds):
        plan = Plan(flops, sizes, total, cfg, seed)
        work = np.array([[plan.cost(p) for p in plan.packs(step)] for step in range(stream.steps)])
        found.append(float(utilisation(work).mean()))
    return found


def survey(model: str, dit: DiTConfig, text_len: int, stream: Stream, images: Sequence[int]) -> dict[str, Any]:
    """Everything the table shows, as JSON can hold it. "ok" is missing where the bar does not apply."""
    flops = costs(dit, text_len)
    padded = [(m, n, spread) for m, spread in (("uniform", False), ("hybrid", False), ("hybrid", True)) for n in images]
    rows = []
    for method, n, spread in [("none", 0, False), ("coarse", 0, False), *padded]:
        means = simulate(flops, stream, method, n, spread)
        rows.append({"method": method, "images": n, "spread": spread, "mean": float(np.mean(means)), "seeds": means})
    result = {
        "model": model,
        "text_len": text_len,
        "ranks": stream.ranks,
        "steps": stream.steps,
        "shares": stream.shares,
        "tflops": flops,
        "batch_sizes": eq12({b: flops[b] for b in VIDEOS}, max(flops.values()), 1.0),
        "rows": rows,
        "bar": BAR,
    }
    barred = [r["mean"] for r in rows if (r["method"], r["images"]) == ("hybrid", BAR_IMAGES) and r["spread"]]
    return result | ({"ok": barred[0] >= BAR} if barred else {})


def table(result: dict[str, Any]) -> str:
    """`survey` for people."""
    shares = result["shares"]
    drawn = {PACKS: "equally many packs of each", SAMPLES: "equally many samples of each"}.get(shares, f"{shares}")
    lines = [
        f"{result['model']}, {result['text_len']} text tokens; samples of Table 3, {drawn}:",
        "",
        "bucket        TFLOP a sample  videos a pack",
        *(f"{b:12}  {f:14,.2f}  {result['batch_sizes'].get(b, 'padding'):>13}" for b, f in result["tflops"].items()),
        "",
        f"Utilisation: work of the mean rank / of the busiest of {result['ranks']}, mean over {result['steps']} steps "
        f"and {len(result['rows'][0]['seeds'])} seeds.",
        "",
        "method          images a rank  utilisation  lowest seed",
    ]
    for r in result["rows"]:
        bar = _bar(r["mean"], 40)
        name = r["method"] + ", spread" * r["spread"]
        lines.append(f"{name:14}  {r['images']:13}  {r['mean']:11.4f}  {min(r['seeds']):11.4f}  {bar}")
    if "ok" in result:
        verdict = "reached" if result["ok"] else "MISSED"
        lines += [
            "",
            f"bar: hybrid, spread (the default) with {BAR_IMAGES} images a rank >= {result['bar']}: {verdict}",
        ]
    return "\n".join(lines)


def _bar(share: float, width: int) -> str:
    """A bar of eighths of a character."""
    whole, eighths = divmod(round(share * width * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()
