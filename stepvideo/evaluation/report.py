"""The `report` stage: one self-contained `report.html`, and `report.json` with every figure in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from stepvideo import storage
from stepvideo.evaluation.claims import Claim, claims
from stepvideo.evaluation.collect import Collected, Run, collect, label
from stepvideo.evaluation.config import ReportConfig
from stepvideo.evaluation.page import Film, Shown, claims_html, films_html, gate_html, page, scores_html
from stepvideo.evaluation.page_data import curves_html, funnel_html, lineage_html
from stepvideo.evaluation.results import INTERVALS, as_json, by_split, clustered_rates, rates
from stepvideo.evaluation.switches import chained, families, switches
from stepvideo.stage import StageContext

TYPES = {".mp4": "video/mp4", ".png": "image/png"}


def run(ctx: StageContext) -> dict[str, float]:
    """Write the page and its figures.

    Returns:
        prompts (shown with videos), claims, and how many of them are met (targets), or hold (comparisons).

    Raises:
        ArtifactError: an input is incomplete or damaged.
    """
    cfg: ReportConfig = ctx.config
    data = collect(cfg, ctx.inputs)
    found = claims(cfg, data.runs)
    storage.write_json(ctx.out / "report.json", figures(data, found))
    runs = list(data.runs.values())
    parts = [
        ("findings", "What came out", claims_html(found)),
        ("videos", "Videos", ""),
        ("scores", "Scores", scores_html(runs)),
        ("oracle", "Can the oracle read it", gate_html(runs)),
        ("training", "Training", curves_html(data.curves)),
        ("data", "Data", funnel_html(data)),
        ("lineage", "Lineage", lineage_html(data.lineage)),
    ]
    rest = len(page(cfg.title, parts, _lead(data, found)).encode())
    rows, left_out = shown(runs, cfg.prompts, round(cfg.max_mb * 1e6) - rest)
    parts[1] = ("videos", "Videos", films_html(rows, left_out))
    html = page(cfg.title, parts, _lead(data, found))
    storage.write_atomic(ctx.out / "report.html", html)
    ctx.sink.event("report", bytes=len(html.encode()), prompts=len(rows), left_out=left_out)
    counts = {v: sum(c.verdict == v for c in found) for v in ("met", "preferred", "supported")}
    return {"prompts": float(len(rows)), "claims": float(len(found)), **{k: float(n) for k, n in counts.items()}}


def figures(data: Collected, found: Sequence[Claim]) -> dict[str, Any]:
    """Every figure of the page, as JSON."""
    models = {}
    for ref, r in data.runs.items():
        splits = {
            s: {"n": len(rows), "rates": as_json(rates(rows)), "clustered": as_json(clustered_rates(rows))}
            for s, rows in by_split(r.rows).items()
        }
        models[ref] = {
            "label": r.label,
            "sampling": dict(r.sampling),
            "nfe": r.nfe,
            "testable": dict(r.testable),
            "gate": dict(r.gate),
            "splits": splits,
        }
    curves = {c.stage: {"columns": c.columns, "last": c.rows[-1], "steps": len(c.rows)} for c in data.curves}
    chains = {name: members for name, members in families(data.curves).items() if chained(members)}
    return {
        "intervals": INTERVALS,
        "models": models,
        "claims": [c.as_dict() for c in found],
        "curves": curves,
        "switches": {name: [s.as_dict() for s in switches(members)] for name, members in chains.items()},
        "curate": data.curate,
        "subsets": data.subsets,
        "lineage": data.lineage,
    }


def shown(runs: Sequence[Run], most: int, budget: int) -> tuple[list[Shown], int]:
    """Prompts that every run of videos kept a sample of, training and held-out ones in turn, as far as bytes allow.

    Runs of stills are shown for the prompts that they have. Returns the rows, and how many kept prompts do not fit.
    """
    kept = [{r.index: r for r in run.rows if r.sample} for run in runs]
    texts: dict[str, list[tuple[int, int]]] = {}  # text → (run, row index); stills have prompts of their own
    for i, rows in enumerate(kept):
        for row in rows.values():
            texts.setdefault(f"{row.index}:{row.text}", []).append((i, row.index))
    train = [t for t, at in texts.items() if not kept[at[0][0]][at[0][1]].held_out]
    heldout = [t for t in texts if t not in train]
    order = [t for pair in zip(train, heldout) for t in pair]
    order += [t for t in (*train, *heldout) if t not in order]
    # Prompts with more models beside each other say more.
    order.sort(key=lambda t: -len(texts[t]))
    out: list[Shown] = []
    for text in order[:most]:
        films = []
        for i, index in texts[text]:
            row = kept[i][index]
            aspect = runs[i].sampling["width"] / runs[i].sampling["height"]
            films.append(Film(runs[i].label, _uri(runs[i], row.sample), row.right, row.nfe, aspect))
        first = kept[texts[text][0][0]][texts[text][0][1]]
        item = Shown(first.text, first.lang, first.held_out, films)
        size = len(films_html([item], 0).encode())
        if size > budget:
            break
        budget -= size
        out.append(item)
    return out, len(order) - len(out)


def _uri(run: Run, sample: str) -> str:
    path = run.folder / sample
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _lead(data: Collected, found: Sequence[Claim]) -> str:
    if not data.runs:
        return "No model was evaluated in this run."
    models = list(dict.fromkeys(label(ref.partition("/")[0]) for ref in data.runs))
    n = max(len(r.rows) for r in data.runs.values())
    settled = [c for c in found if c.verdict not in ("untestable", "not measured")]
    reached = sum(c.verdict in ("met", "preferred", "supported") for c in settled)
    names = ", ".join(models[:-1]) + (" and " if len(models) > 1 else "") + models[-1]
    outcome = f"{reached} of {len(settled)} findings that could be measured turned out as hoped." if settled else ""
    return f"{escape(names)}, each on up to {n} prompts. {outcome}"
