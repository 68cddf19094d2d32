"""`stepvideo inspect attention`: which words of a prompt a model reads, and where. Torch-free until it is called."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.inference.arguments import add_machine, memory_of

HELP = "which words of a prompt a model's cross-attention reads, where in the video, and which it neglects"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for attention.json, pictures and a page"
    )
    text = "a phrase of the prompt to be taken as one word; several times if wanted"
    parser.add_argument("--word", action="append", default=[], metavar="PHRASE", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the noise")
    for name, text in (("steps", "sampling steps"), ("frames", "length"), ("height", "pixels"), ("width", "pixels")):
        parser.add_argument(f"--{name}", type=int, metavar="INT", help=f"{text}; the model says, if not given")
    parser.add_argument("--cfg", type=float, metavar="FLOAT", help="guidance scale; the model says, if not given")
    text = "exit with 1 if a word is neglected: has less than half of an equal share"
    parser.add_argument("--check", action="store_true", help=text)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(
    args: argparse.Namespace, locate: Callable[[argparse.Namespace], tuple[dict[str, Any], dict[str, str]]]
) -> int:
    """0; 1 with --check if a word is neglected.

    Raises:
        StepVideoError: an empty prompt, a phrase that it does not have, a model without cross-attention.
    """
    folders, names = locate(args)
    from stepvideo.inference.pipeline import StepVideoPipeline

    pipe = StepVideoPipeline.from_pretrained(
        **folders, device=args.device, precision=args.precision, memory=memory_of(args)
    )
    sizes = {k: getattr(args, k) for k in ("steps", "frames", "height", "width", "cfg") if getattr(args, k) is not None}
    found = inspect(pipe, args.prompt, args.out, args.word, sizes, args.seed, names)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for row in found["words"]:
            mark = "  neglected" if row["neglected"] else ""
            print(f"{row['of_words']:7.1%}  {row['word']['text']}{mark}")
        print(f"evenness {found['evenness']:.3f}; the page: {args.out / 'index.html'}")
        if found["neglected"]:
            least = min(found["words"], key=lambda row: row["of_words"])["word"]["text"]
            print(f'next: stepvideo generate "{args.prompt}" --repeat "{least}" --seed {args.seed} --out FILE.mp4')
    return int(args.check and bool(found["neglected"]))


def inspect(
    pipe: Any, prompt: str, out: Path, given: list[str], sizes: dict[str, Any], seed: int, names: dict[str, str]
) -> dict[str, Any]:
    """Generate, measure and write all files; returns what `attention.json` holds."""
    import torch

    from stepvideo import storage
    from stepvideo.inference.attention import page, words
    from stepvideo.inference.attention.record import record
    from stepvideo.inference.attention.summary import summarise

    if pipe.tokenizers is None:
        raise StepVideoError("attention needs the text encoders here, not as a service; give --text DIR")
    found = words.split(prompt, given)
    if not found:
        raise StepVideoError("the prompt has no word; give one")
    streams = len(pipe.engine.dit.cfg.caption_channels)
    tokens = words.tokens(prompt, pipe.tokenizers, streams)
    merge = words.merge(tokens, found)
    settings = pipe.engine.defaults.with_(sizes)
    with torch.inference_mode():
        seen, done = record(pipe.engine, prompt, merge, settings, seed=seed)
        frames = pipe.engine.decode(done.latents)[0]
    summary = summarise(seen, tokens, found, merge)
    page.write(out, prompt, frames, seen.maps.mean(0).numpy(), summary, seen.times.tolist())
    said = {"prompt": prompt, "seed": seed, "sampling": vars(settings), "model": names, "digest": pipe.digest}
    result = {**said, "times": seen.times.tolist(), "layers": seen.shares.shape[1], **summary.as_dict()}
    storage.write_json(out / "attention.json", result)
    return result
