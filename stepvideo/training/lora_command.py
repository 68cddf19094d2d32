"""`stepvideo lora-merge BASE ADAPTER --out DIR`: a model with adapters merged, in the released layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.errors import ConfigError
from stepvideo.subcommands import MODEL_DIR, needs

HELP = "add LoRA adapters to the weights they were trained on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="BASE", help="model in the released layout, as trained on")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="folder with adapter_config.json, ours or peft's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def call(args: argparse.Namespace) -> int:
    """Memory holds a shard of the result at a time."""
    if args.out.exists() and any(args.out.iterdir()):
        raise ConfigError(f"--out {args.out} is not empty; choose another folder")

    needs(args.base, "transformer/config.json", MODEL_DIR)

    from stepvideo.training.flow import save_model
    from stepvideo.training.lora_files import find, merged

    model, value = merged(args.base, args.adapter)
    save_model(model, args.out, args.base, value=value)
    print(f"{args.out}: {args.base} with {len(find(args.adapter).layers)} adapted layers")
    return 0
