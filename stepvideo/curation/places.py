"""A catalog and what was made from it: where commands find them, in a store or by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stepvideo.artifact import Store
from stepvideo.errors import StepVideoError

ROLES = {"subsets": "subsets", "captions": "captions", "labels": "captions"}  # people's corrections are captions, too
TABLES = ("tags", "concepts")  # kinds with side tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`place` and its options; `locate` reads them."""
    parser.add_argument("place", metavar="DIR", help="an artifact store, or the folder of a curated catalog")
    parser.add_argument("--subsets", type=Path, metavar="DIR", help="artifact of the stage subsets")
    parser.add_argument("--captions", type=Path, metavar="DIR", help="artifact of the stage captions, or labels")
    parser.add_argument(
        "--tables", type=Path, action="append", default=[], metavar="DIR", help="artifact with side tables (tags)"
    )


def locate(args: argparse.Namespace) -> dict[str, Any]:
    """curate, subsets, captions (each a folder, or left out) and tables (folders), as options say and else as found.

    Raises:
        StepVideoError: there is no catalog.
    """
    found = located(Path(args.place).expanduser())
    return found | {role: given for role in ("subsets", "captions", "tables") if (given := getattr(args, role))}


def located(place: Path) -> dict[str, Any]:
    """Of a catalog's folder, itself; of a store, its newest catalog and the newest of what was made from it.

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
    tables: dict[str, Path] = {}
    known = {curated[-1].digest}
    for made in artifacts:  # oldest first, so that what something was made from comes before it
        if not known & {ref["digest"] for ref in made.manifest["inputs"].values()}:
            continue
        known.add(made.digest)
        kind = made.manifest["kind"]
        if kind in ROLES:
            found[ROLES[kind]] = made.out
        elif kind in TABLES:
            tables[made.manifest["stage"]] = made.out
    return found | {"tables": [tables[stage] for stage in sorted(tables)]}
