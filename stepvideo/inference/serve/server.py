"""The running server: opens what is served, tells people where it is, stops cleanly."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from stepvideo.inference.arguments import memory_of
from stepvideo.inference.remote.token import TOKEN_VARIABLE
from stepvideo.inference.serve.access import Access
from stepvideo.inference.serve.app import Service, create_app
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.parts import TextPart, VAEPart
from stepvideo.inference.serve.worker import Worker

Locate = Callable[[], tuple[dict[str, Any], dict[str, str]]]


def open_service(args: argparse.Namespace, limits: Limits, locate: Locate) -> Service:
    """What the command line asks to serve. Weights are read at the first request.

    Args:
        locate: finds the arguments of `StepVideoPipeline.from_pretrained`, and names of the weights.

    Raises:
        StepVideoError: a folder or a part of a model is missing.
    """
    if args.part == "text":
        text = TextPart.open(_part(args, locate, "text", "step_llm"), args.device)
        return Service(Worker(limits.max_queue), limits, text=text)
    if args.part == "vae":
        vae = VAEPart.open(_part(args, locate, "vae", "vae"), args.device, args.precision, limits)
        return Service(Worker(limits.max_queue), limits, vae=vae)
    from stepvideo.inference.pipeline import StepVideoPipeline
    from stepvideo.inference.serve.engine import PipelineEngine
    from stepvideo.inference.serve.jobs import History
    from stepvideo.inference.serve.videos import Videos

    where, names = locate()
    pipe = StepVideoPipeline.from_pretrained(
        **where, device=args.device, precision=args.precision, preset=args.preset, memory=memory_of(args)
    )
    worker = Worker(limits.max_queue)
    videos = Videos(PipelineEngine(pipe, names), History(args.out), worker, limits)
    return Service(worker, limits, videos, TextPart(pipe.engine.text), VAEPart(pipe.engine.vae, limits))


def _part(args: argparse.Namespace, locate: Locate, role: str, folder: str) -> Path:
    """Where one part of a model lies; the rest of the model need not be there."""
    root = Path(getattr(args, role) or args.model)
    if (root / folder).is_dir():
        return root
    where, _ = locate()
    return where.get(role) or where["model"]


class _Server(uvicorn.Server):
    """Ends what runs before it waits for connections, which follow it."""

    def __init__(self, config: uvicorn.Config, service: Service, greeting: str) -> None:
        super().__init__(config)
        self.service, self.greeting = service, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.greeting, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = threading.Thread(target=self.service.close, daemon=True)
        closing.start()
        while closing.is_alive() and not self.force_exit:  # a second Ctrl-C
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)


def serve(service: Service, access: Access, listener: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM; 0. The running video ends as failed, what waits is kept for the next start."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("stepvideo").setLevel(logging.INFO)
    config = uvicorn.Config(
        create_app(service, access), log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught once more when it is done
        signal.signal(number, lambda *_: None)
    _Server(config, service, greeting(service, access, listener)).run([listener])
    return 0


def greeting(service: Service, access: Access, listener: socket.socket) -> str:
    """Where it is, what it is, what to try next."""
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    token = f' -H "Authorization: Bearer ${TOKEN_VARIABLE}"' if access.token else ""
    about = service.describe()
    lines = [f"serving {url}  (Ctrl-C stops)"]
    if model := about["model"]:
        kind = "image to video" if model["image_to_video"] else "text to video"
        lines.append(f"model   {model['name']}, {kind}, {model['device']}, {model['precision']}")
        lines += [f"note    {notice}" for notice in model["notices"]]
        lines.append(f"videos  {service.videos.history.folder if service.videos else ''}")
        example = '{"prompt": "' + model["examples"][0].replace('"', '\\"') + '"}'
        lines.append(f"try     curl{token} {url}/v1/videos --json '{example}'")
    elif about["text"]:
        lines.append(f"text    encoders of widths {about['text']['widths']}, {about['text']['device']}")
        lines.append(
            f"""try     curl{token} {url}/v1/text-encode --json '{{"prompts": ["一只猫"]}}' -o features.safetensors"""
        )
    else:
        lines.append(f"vae     {about['vae']['device']}")
        lines.append(f"try     curl{token} {url}/v1/model")
    return "\n".join(lines)
