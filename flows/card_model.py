"""The card of a model: what it is, what it was trained on, how well it does with intervals, how to make it again."""

from __future__ import annotations

from typing import Any

from flows.card_parts import UNKNOWN, front, origin, sources, table
from flows.comparison.measures import rates_of
from flows.comparison.subjects import evaluation_of
from flows.lineage import ancestors
from flows.lineage_clips import clips_behind, used_subsets
from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.evaluation.stats import Estimate

TRAINS = ("text", "vae", "train", "dpo", "turbo", "reward", "average", "shipped", "given")
Rates = dict[tuple[str, str, str], Estimate | None]


def model_card(store: Store, artifact: Artifact) -> str:
    """Markdown with YAML before it, as model hubs read it."""
    m = artifact.manifest
    evaluation = evaluation_of(store, artifact)
    rates = rates_of(evaluation) if evaluation else {}
    name = f"{m['stage']}/{m['key'][:8]}"
    behind = [*reversed(ancestors(store, artifact)), artifact]
    clips = clips_behind(store, artifact)
    parts = [
        front(_metadata(artifact, name, rates)),
        f"# {name}\n",
        "A text-to-video model of the stepvideo cascade. Written from manifests; nothing in it was typed.\n",
        f"## What it is\n\n{table(('', ''), _facts(behind, artifact))}",
        f"## How well it does\n\n{_rates(evaluation, rates)}",
        f"## Training\n\n{table(('stage', 'kind', 'subset', 'steps', 'ranks', 'seconds', 'loss'), _stages(behind))}",
        f"## Data\n\n{sources(clips.files, clips.clips)}",
        f"## Limits\n\nWhat is in no table above is {UNKNOWN}: other prompts and sizes, bias, harm.\n",
        f"## Where it is from\n\n{origin(artifact)}",
    ]
    return "\n".join(parts)


def _metadata(artifact: Artifact, name: str, rates: Rates) -> dict[str, Any]:
    about: dict[str, Any] = {
        "language": ["zh", "en"],
        "library_name": "stepvideo",
        "pipeline_tag": "text-to-video",
        "tags": ["stepvideo", artifact.manifest["kind"]],
    }
    results = [
        {
            "task": {"type": "text-to-video"},
            "dataset": {"name": f"prompts of the small world, {split}", "type": f"stepvideo-{split}"},
            "metrics": [
                {
                    "type": attribute,
                    "name": f"share right, {attribute} (95 % {e.low:.4f} to {e.high:.4f}, Wilson, n = {e.n})",
                    "value": e.value,
                }
                for (run, s, attribute), e in rates.items()
                if e and run == "main" and s == split
            ],
        }
        for split in dict.fromkeys(s for run, s, _ in rates if run == "main")
    ]
    results = [r for r in results if r["metrics"]]
    return about | ({"model-index": [{"name": name, "results": results}]} if results else {})


def _facts(behind: list[Artifact], artifact: Artifact) -> list[tuple[str, Any]]:
    own = artifact.out / "sampling.json"
    sampling = storage.read_json(own) if own.exists() else {}
    counted = [a.metrics["parameters"] for a in behind if "parameters" in a.metrics]
    config = artifact.out / "transformer" / "config.json"
    net = storage.read_json(config) if config.exists() else {}
    rows: list[tuple[str, Any]] = [("parameters of the DiT", int(counted[-1]) if counted else None)]
    shown = ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "patch_size")
    rows += [(f"DiT {n.replace('_', ' ')}", net.get(n)) for n in shown]
    rows += [(f"by default: {n}", sampling.get(n)) for n in ("frames", "height", "width", "steps", "cfg", "time_shift")]
    return [*rows, ("bytes", sum(f["size"] for f in artifact.manifest["files"].values()))]


def _rates(evaluation: Artifact | None, rates: Rates) -> str:
    if evaluation is None:
        return f"{UNKNOWN.capitalize()}: no evaluation of it is in the store.\n"
    rows = [
        (split, attribute, f"{100 * e.value:.1f} %", f"{100 * e.low:.1f} to {100 * e.high:.1f} %", e.n)
        if e
        else (split, attribute, f"{UNKNOWN} (the oracle cannot read it at this size)", "", "")
        for (run, split, attribute), e in rates.items()
        if run == "main"
    ]
    m = evaluation.manifest
    if not any(e for (run, _, _), e in rates.items() if run == "main"):
        said = f"{UNKNOWN.capitalize()}: {m['stage']}/{m['key'][:8]} could read no attribute in its videos"
        return f"{said}. Either nothing was learnt, or the pictures are too small for the oracle.\n"
    note = f"By {m['stage']}/{m['key'][:8]}: share of samples in which a program reads what the prompt asked for.\n\n"
    return note + table(("prompts", "attribute", "right", "95 % interval (Wilson)", "samples"), rows)


def _stages(behind: list[Artifact]) -> list[tuple[Any, ...]]:
    rows = []
    for a in sorted(behind, key=lambda a: a.manifest["started"]):
        m, config = a.manifest, a.manifest["config"]
        if m["kind"] in TRAINS:
            runtime = config.get("runtime", {})
            seconds = round(m["finished"] - m["started"], 1)
            name = f"{m['stage']}/{m['key'][:8]}"
            cells = (", ".join(used_subsets(m)) or "–", config.get("steps", "–"), runtime.get("nproc", 1), seconds)
            rows.append((name, m["kind"], *cells, a.metrics.get("loss", "–")))
    return rows
