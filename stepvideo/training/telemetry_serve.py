"""`stepvideo telemetry serve`: the page of telemetry, live. Here because telemetry knows no servers."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

from stepvideo.inference.remote.token import TOKEN_VARIABLE
from stepvideo.telemetry import command

HELP = "the page as a local server: what comes is shown as it comes, and stretches of steps can be looked at closely"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_run(parser)
    command.add_expectations(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="any other than this needs a token")
    parser.add_argument("--port", type=int, default=8020, metavar="INT", help="0 takes a free one (8020)")
    text = f"its content is what browsers must send; or {TOKEN_VARIABLE}"
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=text)


def call(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        StepVideoError: nothing to show, or the address is taken.
    """
    from stepvideo.inference.serve.access import Access, read_token
    from stepvideo.inference.serve.command import listen

    shares = command.shares_of(args.shares)
    with command.views_of(args) as views:
        about = f"{views.run}, steps {views.steps[0]} to {views.steps[1]}"
    access = Access(args.host, read_token(args.token_file))
    listener = listen(args.host, args.port)
    import uvicorn

    from stepvideo.telemetry.page.payload import payload
    from stepvideo.training.telemetry_app import create_app

    alone = threading.Lock()  # two questions at once would need twice the memory, and take as long

    def answer(first: int, last: int) -> dict[str, Any]:
        with alone, command.views_of(args) as views:
            return payload(views, shares=shares, predicted=args.predicted, first=first, last=last)

    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        create_app(answer, access), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    listener.listen()
    print(f"serving http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C stops)\n{about}", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught once more when it is done
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([listener])
    return 0
