"""`stepvideo browse`: a local page that filters a curated catalog and plays its clips. Light until it is called."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from stepvideo.artifact import Artifact, Store
from stepvideo.errors import StepVideoError
from stepvideo.inference.remote.client import TOKEN_VARIABLE

HELP = "a local web page that filters a curated catalog by its tags and plays the clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR", help="an artifact store, or the folder of a curated catalog")
    parser.add_argument("--subsets", type=Path, metavar="DIR", help="artifact of the stage subsets")
    parser.add_argument("--captions", type=Path, metavar="DIR", help="artifact of the stage captions")
    parser.add_argument(
        "--tables", type=Path, action="append", default=[], metavar="DIR", help="artifact with side tables (tags)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="any other than this needs a token")
    parser.add_argument("--port", type=int, default=8010, metavar="INT", help="0 takes a free one (8010)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"its content is what browsers must send; or {TOKEN_VARIABLE}"
    )


def call(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises StepVideoError when there is no catalog, or the address is taken."""
    from stepvideo.inference.serve.access import Access, read_token
    from stepvideo.inference.serve.command import listen

    access = Access(args.host, read_token(args.token_file))
    found = locate(Path(args.place).expanduser())
    for role in ("subsets", "captions", "tables"):
        if given := getattr(args, role):
            found[role] = given
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


def locate(place: Path) -> dict[str, Any]:
    """Arguments of `Catalog`: of a store, its newest catalog and the newest of what was made from it.

    Raises:
        StepVideoError: there is no catalog.
    """
    from stepvideo.data.clips import CATALOG

    for folder in (place, place / "out"):
        if (folder / CATALOG).is_file():
            return {"curate": folder}
    artifacts = Store(place).artifacts()
    curated = [a for a in artifacts if a.manifest["kind"] == "curate"]
    if not curated:
        raise StepVideoError(
            f"{place} is no catalog (it has no {CATALOG}), and no store with one; see stepvideo curate"
        )
    found: dict[str, Any] = {"curate": curated[-1].out}
    of_it = [a for a in artifacts if _made_from(a, curated[-1])]
    found |= {a.manifest["kind"]: a.out for a in of_it if a.manifest["kind"] in ("subsets", "captions")}
    tables = {a.manifest["stage"]: a.out for a in of_it if (a.out / "tables").is_dir()}
    return found | {"tables": [tables[stage] for stage in sorted(tables)]}


def _made_from(artifact: Artifact, source: Artifact) -> bool:
    return source.digest in [ref["digest"] for ref in artifact.manifest["inputs"].values()]
