"""`stepvideo embed`: encode texts once; `generate --embeddings FILE` then needs no text encoder.

Torch-free until it is called.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from stepvideo.errors import StepVideoError
from stepvideo.inference.requests import Request, from_file
from stepvideo.models.layout import PARTS

HELP = "encode prompts into a file, so that generating from them needs no text encoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="one or several texts")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a file of prompts, as `generate` takes it")
    parser.add_argument("--text", type=Path, required=True, metavar="DIR", help="of the text encoders, or of a model")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what videos should not look like; encoded too")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="appended to every prompt, as `generate` does")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--offload", action="store_true", help="keep the Step-LLM's layers in host memory until used")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Encode, and write one file.

    Raises:
        StepVideoError: no text, a folder without encoders, a file that cannot be read or written.
    """
    texts = _texts(args)
    parts = PARTS["text"]
    for part in parts:
        if not (args.text / part).is_dir():
            raise StepVideoError(f"{args.text} holds no {part}/; give --text DIR, a folder with {' and '.join(parts)}")
    from stepvideo.diffusion.conditions import TextFeatures, encode_texts
    from stepvideo.diffusion.pipeline import best_device
    from stepvideo.inference.embed.files import save_embeddings
    from stepvideo.inference.memory.text import read_text_by_layer
    from stepvideo.models.text_encoders import load_text_encoders
    from stepvideo.storage import sampled_digest

    device = best_device(args.device)
    encoders = read_text_by_layer(args.text, device) if args.offload else load_text_encoders(args.text, device)
    features = TextFeatures(texts, encode_texts(encoders, texts))
    digest = sampled_digest(args.text / part for part in parts)
    save_embeddings(args.out, features, digest, {"text": args.text.resolve().name})
    if args.json:
        shapes = {k: list(v.shape) for k, v in features.conditions.items()}
        made = {"out": str(args.out), "texts": texts, "encoder": digest, "shapes": shapes}
        print(json.dumps(made))
    else:
        print(f"{args.out}: {len(texts)} texts, the negative one included; {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _texts(args: argparse.Namespace) -> list[str]:
    """Every text that `generate` would encode for these prompts: with suffixes, and the negative ones."""
    common = Request("", args.out, options={"negative_prompt": args.negative, "positive_suffix": args.suffix})
    requests = [replace(common, prompt=p) for p in args.prompt]
    if args.prompts is not None:
        requests += from_file(args.prompts, args.out.parent, common, 1)
    if not requests:
        raise StepVideoError("there is no text; give PROMPT … or --prompts FILE")
    texts = [r.prompt + (r.options.get("positive_suffix") or "") for r in requests]
    return list(dict.fromkeys([*texts, *(r.options.get("negative_prompt") or "" for r in requests)]))
