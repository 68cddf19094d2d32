"""`stepvideo generate`: find the model and what decodes it, then hand over to the library."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows import screen
from flows.lineage import find
from flows.status import store_of
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

NEWEST_FIRST = ("turbo", "dpo", "average", "sft.1", "t2vi_540.s6", "t2vi_192.s3", "t2i")


def generate_command(args: argparse.Namespace) -> int:
    """Generate with the most refined model of the store, with the one that --model refers to, or with a folder in the
    released layout."""
    from stepvideo.inference.arguments import requests

    wanted = requests(args)
    folders, lineage = locate(args)
    screen.console(stderr=True).print("model " + ", ".join(f"{k} {v}" for k, v in lineage.items()), highlight=False)
    from stepvideo.inference.generate import generate
    from stepvideo.inference.pipeline import StepVideoPipeline

    pipe = StepVideoPipeline.from_pretrained(
        **folders, device=args.device, precision=args.precision, preset=args.preset
    )
    console = screen.console(stderr=args.json)
    with _progress(console, args.json) as progress:
        task = progress.add_task("steps", total=None)
        made = generate(
            pipe,
            wanted,
            fps=args.fps,
            preview=args.preview,
            overwrite=args.overwrite,
            lineage=lineage,
            say=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
            on_step=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if args.json:
        rows = [{"path": str(g.path), "nfe": g.nfe, "seconds": g.seconds, "cached": g.cached} for g in made]
        print(json.dumps([row | g.settings.to_dict() for row, g in zip(rows, made)], ensure_ascii=False, indent=1))
    elif len(made) == 1:
        again = made[0].path.with_stem(f"{made[0].path.stem}-{args.seed + 1}")
        prompt = shlex.quote(args.prompt)
        console.print(
            f"next: stepvideo generate {prompt} --seed {args.seed + 1} --out {shlex.quote(str(again))}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return 0


def locate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """The folders that `StepVideoPipeline.from_pretrained` takes, and what they are called.

    `args` has store, model, vae, text: each of the last three a folder in the released layout or an artifact, "" for
    what belongs to the model.
    """
    store = store_of(args.store)
    model = Path(args.model) if args.model else None
    artifact = None
    if model is None or not (model / "transformer").is_dir():
        artifact = find(store, args.model) if args.model else _best(store)
        model = artifact.out
    folders, names = {"model": model}, {"model": _name(artifact, model)}
    for role, part in (("vae", "vae"), ("text", "step_llm")):
        given: str = getattr(args, role)
        if given and (Path(given) / part).is_dir():
            folders[role], names[role] = Path(given), Path(given).resolve().name
        elif behind := find(store, given) if given else _behind(store, artifact, role, model / part):
            folders[role], names[role] = behind.out, _name(behind, behind.out)
    return folders, names


def _name(artifact: Artifact | None, folder: Path) -> str:
    return f"{artifact.manifest['stage']}/{artifact.manifest['key'][:8]}" if artifact else folder.resolve().name


def _progress(console: Console, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.completed}/{task.total} steps"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
        transient=True,
    )


def _best(store: Store) -> Artifact:
    for stage in NEWEST_FIRST:
        if any(store.root.glob(f"{stage}/*/manifest.json")):
            return store.resolve(stage)
    raise ArtifactError(f"there is no trained model in {store.root} yet; `stepvideo run` trains one (or give --model)")


def _behind(store: Store, artifact: Artifact | None, role: str, own: Path) -> Artifact | None:
    """The nearest artifact that served as `role` to the model or to what it was made from; None if the model has its
    `own`, or is no artifact."""
    if artifact is None or own.is_dir():
        return None
    todo, seen = [artifact], set()
    while todo:
        inputs = todo.pop(0).manifest["inputs"]
        if role in inputs and (found := store.find(inputs[role]["stage"], inputs[role]["key"])):
            return found
        for ref in inputs.values():
            if (ref["stage"], ref["key"]) not in seen:
                seen.add((ref["stage"], ref["key"]))
                if source := store.find(ref["stage"], ref["key"], verify=False):
                    todo.append(source)
    raise ArtifactError(f"{artifact.manifest['stage']} has no {role} behind it in {store.root}; was it removed?")
