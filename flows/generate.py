"""`stepvideo generate`: find the model and what decodes it, then hand over to the library."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows import screen
from flows.lineage import find
from flows.status import store_of
from stepvideo.artifact import Artifact, Store
from stepvideo.diffusion.sampling import Sampling, default_sampling
from stepvideo.emulator.memory import Job
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.inference.arguments import memory_of, parallel_of, requests
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.report import plan, read_networks, table
from stepvideo.inference.requests import Request
from stepvideo.inference.settings import SAMPLING_NAMES, resolve
from stepvideo.models.config_files import dit_config
from stepvideo.parallel.config import ParallelConfig
from stepvideo.parallel.launch import exit_code, is_rank, rank, run_ranks
from stepvideo.storage import sha256_file

if TYPE_CHECKING:
    from stepvideo.diffusion.conditions import TextFeatures
    from stepvideo.inference.pipeline import StepVideoPipeline

Say = Callable[[str], None]
Count = Callable[[int, int], None]
NEWEST_FIRST = ("turbo", "dpo", "average", "sft.1", "t2vi_540.s6", "t2vi_192.s3", "t2i.2", "t2i")


def generate_command(args: argparse.Namespace) -> int:
    """Generate with the most refined model of the store, with the one that --model refers to, or with a folder in the
    released layout; on several ranks if they are asked for."""
    memory, ranks = memory_of(args), parallel_of(args)
    folders, lineage = locate(args)
    if args.plan:
        return _plan(args, folders, memory)
    wanted = requests(args)
    if ranks.world_size > 1 and not is_rank():
        check_ranks(ranks, folders["model"])
        return exit_code(run_ranks(["-m", "stepvideo.cli", *sys.argv[1:]], ranks.world_size, quiet=True))
    pipe, features = open_model(args, folders, lineage, wanted, memory, ranks)
    from stepvideo.inference.generate import generate
    from stepvideo.models.tokenizers import UnknownToken

    with progress(pipe, quiet=args.json) as (say, on_step):
        try:
            made = generate(
                pipe,
                wanted,
                fps=args.fps,
                preview=args.preview,
                overwrite=args.overwrite,
                lineage=lineage,
                features=features,
                say=say,
                on_step=on_step,
            )
        except UnknownToken as e:
            raise ConfigError(
                f"the prompt has {e.token!r}, which is in none of the captions that this model learnt from; use their "
                f"words, or train on captions that have it (weights.text=train, docs/howto/own-videos.md)"
            ) from e
    if args.json and pipe.is_main:
        rows = [{"path": str(g.path), "nfe": g.nfe, "seconds": g.seconds, "cached": g.cached} for g in made]
        print(json.dumps([row | g.settings.to_dict() for row, g in zip(rows, made)], ensure_ascii=False, indent=1))
    elif args.prompt is not None and len(made) == 1 and pipe.is_main:
        seed = args.seed + 1
        again = made[0].path.with_stem(f"{made[0].path.stem}-s{seed}")
        print(f"next: the same with --seed {seed} --out {shlex.quote(str(again))}")
    return 0


def open_model(
    args: argparse.Namespace,
    folders: dict[str, Any],
    lineage: dict[str, str],
    wanted: Sequence[Request],
    memory: MemoryConfig | None,
    ranks: ParallelConfig,
) -> tuple[StepVideoPipeline, TextFeatures | None]:
    """The model that the options describe, with room for `wanted`, and text features if they are given as a file;
    `lineage` gains the digest of that file."""
    defaults = default_sampling(folders["model"], args.preset)
    if rank() == 0:
        names = ", ".join(f"{k} {v}" for k, v in lineage.items())
        screen.console(stderr=True).print(names, highlight=False)
    from stepvideo.inference.pipeline import StepVideoPipeline

    pipe = StepVideoPipeline.from_pretrained(
        **folders,
        device=args.device,
        precision=args.precision,
        preset=args.preset,
        memory=memory,
        parallel=ranks,
        largest=_largest(wanted, defaults),
        embedded=args.embeddings is not None,
    )
    if args.embeddings is None:
        return pipe, None
    from stepvideo.inference.embed.files import load_embeddings

    features = load_embeddings(args.embeddings, pipe.engine.dit.cfg.caption_channels)
    lineage["embeddings"] = sha256_file(args.embeddings)[:16]
    return pipe, features


def check_ranks(ranks: ParallelConfig, model: Path) -> None:
    """Before ranks are started, so that the mistake is told once."""
    dit = dit_config(model)
    try:
        ranks.check(dit.num_attention_heads, 4 * dit.inner_dim)
    except ValueError as e:
        raise ConfigError(str(e)) from e


def _largest(wanted: Sequence[Request], defaults: Sampling) -> dict[str, Any]:
    """Sizes of the largest video that is asked for; what a request does not say, the defaults do."""
    names = {"num_frames": "frames", "height": "height", "width": "width"}
    return {f: max(r.options.get(name, getattr(defaults, f)) for r in wanted) for name, f in names.items()}


def _plan(args: argparse.Namespace, folders: dict[str, Any], memory: MemoryConfig | None) -> int:
    """What the command would take, before anything is loaded."""
    model = folders["model"]
    here = {role: f if isinstance(f := folders.get(role), Path) else None for role in ("vae", "text")}
    embedded = args.embeddings is not None or isinstance(folders.get("text"), str)  # or encoded elsewhere
    nets = read_networks(model, **here, embedded=embedded)
    said = {SAMPLING_NAMES[k]: getattr(args, k) for k in SAMPLING_NAMES if getattr(args, k) is not None}
    unit = nets.vae.spatial_factor * nets.dit.patch_size
    sampling, notices = resolve(default_sampling(model, args.preset), nets.vae, unit, **said)
    try:
        gpus = tuple(float(g) for g in args.gpus.split(","))
        if not all(0 < g < float("inf") for g in gpus):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--gpus {args.gpus}: give sizes in GB, such as 80,48,24") from None
    job = Job(sampling, precision=args.precision)
    if args.json:
        print(json.dumps(plan(nets, job, gpus, memory), indent=1))
    else:
        print("\n".join([*notices, table(nets, job, gpus, memory)]))
    return 0


def locate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """The folders that `StepVideoPipeline.from_pretrained` takes, and what they are called.

    `args` has store, model, vae, text: each of the last three a folder in the released layout or an artifact, "" for
    what belongs to the model. A store is needed only for what is an artifact.
    """
    model = Path(args.model) if args.model else None
    artifact = None
    if model is None or not (model / "transformer").is_dir():
        artifact = _find(args.store, args.model, "transformer") if args.model else _best(store_of(args.store))
        model = artifact.out
    folders: dict[str, Any] = {"model": model}
    names = {"model": _name(artifact, model)}
    for role, part in (("vae", "vae"), ("text", "step_llm")):
        given: str = getattr(args, role)
        if given.startswith(("http://", "https://")):
            folders[role] = names[role] = given
        elif given and (Path(given) / part).is_dir():
            folders[role], names[role] = Path(given), Path(given).resolve().name
        elif behind := _find(args.store, given, part) if given else _behind(args.store, artifact, role, model / part):
            folders[role], names[role] = behind.out, _name(behind, behind.out)
    return folders, names


def _find(folder: str | None, ref: str, part: str) -> Artifact:
    if ref.startswith(("/", "./", "../")) and not Path(ref).exists():
        raise ArtifactError(f"{ref} does not exist; give a folder in the released layout, or an artifact such as turbo")
    try:
        return find(store_of(folder), ref)
    except ArtifactError:
        if Path(ref).is_dir():
            raise ArtifactError(
                f"{ref} holds no {part}/; give a folder in the released layout, or an artifact"
            ) from None
        raise


def _name(artifact: Artifact | None, folder: Path) -> str:
    return f"{artifact.manifest['stage']}/{artifact.manifest['key'][:8]}" if artifact else folder.resolve().name


@contextmanager
def progress(
    pipe: StepVideoPipeline, quiet: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """What `generate` is told to say and to count with, on the terminal of rank 0; `quiet` leaves stdout alone."""
    console = screen.console(stderr=quiet)

    def say(text: str) -> None:
        if pipe.is_main:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    with Progress(
        TextColumn("{task.completed}/{task.total} steps"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not pipe.is_main or not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("steps", total=None)
        yield say, lambda done, total: bar.update(task, completed=done, total=total)


def _best(store: Store) -> Artifact:
    for stage in NEWEST_FIRST:
        if any(store.root.glob(f"{stage}/*/manifest.json")):
            return store.resolve(stage)
    raise ArtifactError(f"there is no trained model in {store.root} yet; `stepvideo run` trains one (or give --model)")


def _behind(folder: str | None, artifact: Artifact | None, role: str, own: Path) -> Artifact | None:
    """The nearest artifact that served as `role` to the model or to what it was made from; None if the model has its
    `own`, or is no artifact."""
    if artifact is None or own.is_dir():
        return None
    store = store_of(folder)
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
