"""`stepvideo upgrade`: a store's files, and the databases of MLflow and Prefect, as this version has them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from flows import screen
from flows.compose import ROOT
from flows.status import store_of
from stepvideo.artifact import SCHEMA, Store
from stepvideo.errors import ConfigError
from tasks.migration import check_idle, migrate, outdated, papers
from tasks.migration_databases import BEHIND, UNKNOWN, Database, Found, look, upgrade
from tasks.record import records

URLS = (  # variables of the environment that name a database
    "MLFLOW_BACKEND_STORE_URI",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)


def upgrade_command(folder: str | None, apply: bool, as_json: bool) -> int:
    """Say which files of a store are of an older version, or bring them up."""
    store = store_of(folder)
    console = screen.console(stderr=True)
    old = outdated(store)
    if apply and old:
        store.check_writable()
        with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task("upgrading", total=len(old))
            migrate(store, lambda _: bar.advance(task))
    count = Counter(f"{p.name} of schema {schema}" for p, schema in old.items())
    if as_json:
        print(json.dumps({"store": str(store.root), "schema": SCHEMA, "outdated": count, "applied": apply}, indent=1))
        return 0
    said = ", ".join(f"{n} {what}" for what, n in sorted(count.items()))
    if not old:
        print(f"{store.root}: all {sum(1 for _ in papers(store))} files have schema {SCHEMA}; nothing to do")
    elif apply:
        print(f"{store.root}: brought up to schema {SCHEMA}: {said}; keys and artifacts are as they were")
    else:
        print(f"{store.root}: {said}; they are read as they are, and --apply writes them with schema {SCHEMA}")
    more = " --apply" if old and not apply else " --databases"
    print(f"next: stepvideo upgrade{f' --store {folder}' if folder else ''}{more}")
    return 0


def databases_command(folder: str | None, urls: Sequence[str], apply: bool, as_json: bool) -> int:
    """Say how MLflow's and Prefect's databases stand to what is installed, or upgrade them.

    Exit code 1 if one cannot be used as it is.
    """
    root = Path(folder) if folder else ROOT / "runs" / "store"
    store = Store(root) if root.is_dir() else None
    databases = _given(urls) if urls else _of(store)
    if not databases:
        raise ConfigError("no database is known: no run here has told any; name one with --url mlflow=sqlite:///…")
    found = [look(d) for d in databases]
    done: dict[str, str] = {}
    if apply:
        if store:
            check_idle(store)
        for each in found:
            if each.state == BEHIND:
                done[each.database.shown] = str(upgrade(each.database) or "")
        found = [look(d) for d in databases]
    if as_json:
        print(json.dumps([_row(f, done) for f in found], indent=1))
    else:
        _say(found, done)
    return 1 if any(f.state in (BEHIND, UNKNOWN) for f in found) else 0


def _say(found: list[Found], done: dict[str, str]) -> None:
    for f in found:
        at = f"revision {f.revision or 'none'}, installed {f.head}"
        print(f"{f.database.owner} {f.database.shown}: {f.state} ({at})")
        if f.state == UNKNOWN:
            print(f"  {f.advice}")
        if f.database.shown in done:
            copy = done[f.database.shown]
            print("  upgraded" + (f"; as it was: {copy}" if copy else ""))
    behind = any(f.state == BEHIND for f in found)
    print("next: stepvideo upgrade --databases --apply" if behind else "next: make ui | stepvideo run")


def _row(found: Found, done: dict[str, str]) -> dict[str, str]:
    about = {"owner": found.database.owner, "database": found.database.shown, "state": found.state}
    about |= {"revision": found.revision, "installed": found.head, "advice": found.advice}
    return about | ({"backup": done[found.database.shown]} if found.database.shown in done else {})


def _of(store: Store | None) -> list[Database]:
    """Those of a store's runs, and of the environment; servers look after their own."""
    found: dict[str, Database] = {}
    configs = [r.data["config"] for r in records(store)] if store else []
    for cfg in configs:
        uri = cfg["tracking"]["mlflow_uri"]
        if cfg["tracking"]["mlflow"] and uri.startswith(("sqlite:", "postgresql")):
            found[uri] = Database("mlflow", uri)
        prefect = Path(cfg["work"]) / ".prefect" / "prefect.db"
        if cfg["tracking"]["prefect"] and prefect.exists():
            found[str(prefect)] = Database("prefect", f"sqlite+aiosqlite:///{prefect}")
    for name in URLS:
        if url := os.environ.get(name):
            found[url] = Database(name.partition("_")[0].lower(), url)
    return [d for d in found.values() if d.file is None or d.file.exists()]


def _given(urls: Sequence[str]) -> list[Database]:
    """ "mlflow=URL"; a URL with a password is taken from a variable of the environment: "mlflow=$NAME"."""
    found = []
    for text in urls:
        owner, _, url = text.partition("=")
        if url.startswith("$"):
            if url[1:] not in os.environ:
                raise ConfigError(f"--url {text}: the environment has no {url[1:]}")
            url = os.environ[url[1:]]
        if owner not in ("mlflow", "prefect") or not url.startswith(("sqlite", "postgresql")):
            raise ConfigError(f"--url {text}: give mlflow=URL or prefect=URL, of sqlite:/// or postgresql://")
        found.append(Database(owner, url))
    return found
