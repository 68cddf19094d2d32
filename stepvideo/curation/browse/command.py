"""`stepvideo browse`: a local page that filters a curated catalog and plays its clips. Light until it is called."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from stepvideo.curation import places
from stepvideo.inference.remote.token import TOKEN_VARIABLE

HELP = "a local web page that filters a curated catalog by its tags and plays the clips; or SQL over its tables"
SQL = "the view clips joins the catalog with every side table, see docs/curation.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places.add_arguments(parser)
    parser.add_argument("--sql", metavar="QUERY", help=f"no page: print what DuckDB answers; {SQL}")
    parser.add_argument("--csv", action="store_true", help="with --sql, as CSV")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="any other than this needs a token")
    parser.add_argument("--port", type=int, default=8010, metavar="INT", help="0 takes a free one (8010)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"its content is what browsers must send; or {TOKEN_VARIABLE}"
    )


def call(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, or answer one query.

    Raises:
        StepVideoError: there is no catalog, the query cannot be answered, or the address is taken.
    """
    found = places.locate(args)
    if args.sql:
        from stepvideo.curation.views import answer

        print(answer(args.sql, args.csv, **found))
        return 0
    from stepvideo.inference.serve.access import Access, read_token
    from stepvideo.inference.serve.command import listen

    access = Access(args.host, read_token(args.token_file))
    listener = listen(args.host, args.port)
    import uvicorn

    from stepvideo.curation.browse.app import create_app
    from stepvideo.curation.browse.catalog import Catalog

    catalog = Catalog(**found)
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        create_app(catalog, access), log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    listener.listen()  # from here on a browser may come, and waits for the answer
    print(f"serving http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C stops)", flush=True)
    print(f"catalog {found['curate']}, {len(catalog.clips)} clips, frames and images", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught once more when it is done
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run([listener])
    finally:
        catalog.close()
    return 0
