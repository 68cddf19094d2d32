"""Arguments that several commands have."""

from __future__ import annotations

import argparse

OVERRIDES = 'settings, for example: profile=smoke stages.sft.steps=50 cluster=debug raw=DIR (see conf/ and "plan")'
REF = "stage, stage/key, a path, or model@alias of the registry"


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="the artifact store; runs/store of the checkout by default")


def add_model(parser: argparse.ArgumentParser) -> None:
    text = REF + ", or a folder in the released layout"
    parser.add_argument("--model", default="", metavar="REF", help=text + "; by default the most refined one")
    parser.add_argument("--vae", default="", metavar="REF", help="the VAE, if not the model's own")
    parser.add_argument("--text", default="", metavar="REF", help="the text encoders, if not the model's own")


def add_overrides(parser: argparse.ArgumentParser, text: str = OVERRIDES) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)


def add_json(parser: argparse.ArgumentParser, text: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=text)
