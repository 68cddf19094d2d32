"""`stepvideo serve`: options, then the server. Torch-free until it is called."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.inference.arguments import add_machine
from stepvideo.inference.serve.limits import Limits

HELP = "generation as an HTTP service with a web page; text encoders and VAE as services of their own"
PARTS = ("all", "text", "vae")
LIMITS = {  # options of the command line: fields of Limits
    "max_queue": "requests that may wait",
    "max_pixels": "frames x height x width of a video",
    "max_steps": "sampling steps of a video",
    "max_videos": "videos of one request",
    "max_prompt": "characters of a text",
}

Located = tuple[dict[str, Any], dict[str, str]]  # arguments of StepVideoPipeline.from_pretrained, names of the weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part", choices=PARTS, default="all", help="the whole model, or the text encoders or VAE alone"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="any other than this needs a token")
    parser.add_argument("--port", type=int, default=8000, metavar="INT", help="0 takes a free one (8000)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its content is what clients must send; or set STEPVIDEO_TOKEN"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/served"),
        metavar="DIR",
        help="where videos and history are kept (runs/served)",
    )
    parser.add_argument("--preset", default="", metavar="NAME", help="settings of a released model: t2v, ti2v or turbo")
    group = parser.add_argument_group("limits of one request")
    for name, text in LIMITS.items():
        default = getattr(Limits, name)
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=int, default=default, metavar="INT", help=f"{text} ({default})")
    add_machine(parser)


def folders(args: argparse.Namespace) -> Located:
    """--model, --vae and --text as folders in the released layout."""
    given = {role: Path(getattr(args, role)) for role in ("model", "vae", "text") if getattr(args, role)}
    if "model" not in given:
        raise StepVideoError("give --model DIR, the folder of a model")
    return dict(given), {role: path.resolve().name for role, path in given.items()}


def call(args: argparse.Namespace, locate: Callable[[argparse.Namespace], Located] = folders) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        locate: finds what --model, --vae, --text name.
    """
    try:
        limits = Limits(**{f.name: getattr(args, f.name) for f in fields(Limits) if hasattr(args, f.name)})
    except ValueError as e:
        raise StepVideoError(str(e)) from e
    from stepvideo.inference.serve.access import Access, read_token

    access = Access(args.host, read_token(args.token_file))
    listener = listen(args.host, args.port)
    from stepvideo.inference.serve.server import open_service, serve

    return serve(open_service(args, limits, partial(locate, args)), access, listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises StepVideoError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or e
        raise StepVideoError(f"cannot listen on {host} port {port}: {reason}; choose another --port (0: any)") from e
    return listener
