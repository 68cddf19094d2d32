"""What `stepvideo doctor` asks a team's servers, those that the environment names; each line says what to do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepvideo import s3 as buckets
from stepvideo import storage
from stepvideo.doctor import Check, installed
from stepvideo.errors import StepVideoError
from tasks.team import databases, parts, postgresql, processes
from tasks.team.answers import ask, basic
from tasks.team.layout import ENV, MIRROR, NAME, POOL, Stack, find_stack

SERVERS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", MIRROR)
Environment = Mapping[str, str]


def team_checks(environment: Environment | None = None) -> list[Check]:
    """A line for every part of the team's servers; none if the environment names no server."""
    env = os.environ if environment is None else environment
    named = [name for name in SERVERS if "://" in env.get(name, "") and not env[name].startswith("sqlite")]
    if not named and not env.get(NAME):
        return []
    stack = find_stack(env[NAME]) if env.get(NAME) else None
    found = _stack(stack, env) if env.get(NAME) else []
    return [*found, *mlflow(env, stack), *prefect(env, stack), *bucket(env, stack)]


def mlflow(env: Environment, stack: Stack | None = None) -> list[Check]:
    """Reached, logged in, of our version, and able to use its artifacts."""
    name, url = "team mlflow", env.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if wrong := _address(name, url, "MLFLOW_TRACKING_URI", stack):
        return [wrong]
    user = env.get("MLFLOW_TRACKING_USERNAME", "")
    login = basic(f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}") if user else {}
    code, text = ask(f"{url}/api/2.0/mlflow/experiments/search", login, {"max_results": 1})
    if code in (401, 403):
        which = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return [_refused(name, url, f"user {user!r}" if user else "who does not say who it is", which, stack)]
    if code != 200:
        return [_silent(name, url, code, text, "mlflow", stack)]
    found = [_version(name, url, ask(f"{url}/version", login)[1].strip(), "mlflow")]
    code, text = ask(f"{url}/api/2.0/mlflow-artifacts/artifacts?path=", login)
    if code not in (200, 404):  # 404: it does not serve artifacts, clients write them themselves
        fix = "stepvideo team start s3" if stack else "have the server's bucket and keys checked"
        found.append(
            Check("team mlflow artifacts", "missing", f"MLflow cannot use its bucket ({code}): {_said(text)}", fix)
        )
    return found


def prefect(env: Environment, stack: Stack | None = None) -> list[Check]:
    """Reached, logged in, of our version, with its database, and with a worker that waits for runs."""
    name, url = "team prefect", env.get("PREFECT_API_URL", "").rstrip("/")
    if wrong := _address(name, url, "PREFECT_API_URL", stack):
        return [wrong]
    auth = env.get("PREFECT_API_AUTH_STRING", "")
    login = basic(auth) if auth else {}
    if not auth and (key := env.get("PREFECT_API_KEY", "")):
        login = {"Authorization": f"Bearer {key}"}
    code, text = ask(f"{url}/admin/version", login)
    if code in (401, 403):
        return [_refused(name, url, "this password" if login else "no password", "PREFECT_API_AUTH_STRING", stack)]
    if code != 200:
        if code == 404:
            text = "that is no Prefect API; the address ends with /api"
        return [_silent(name, url, code, text, "prefect", stack)]
    found = [_version(name, url, text.strip().strip('"'), "prefect")]
    code, text = ask(f"{url}/work_pools/{POOL}/workers/filter", login, {})
    if code >= 500 or code == 0:
        return [_silent(name, url, code, text, "prefect", stack)]
    workers = json.loads(text) if code == 200 else []
    online = [w["name"] for w in workers if w.get("status") == "ONLINE"]
    if online:
        return [*found, Check("team worker", "ok", f"{len(online)} in the pool {POOL}")]
    fix = "stepvideo team start worker" if stack else "stepvideo worker"
    return [*found, Check("team worker", "warn", f"none in the pool {POOL}: scheduled runs wait", fix)]


def bucket(env: Environment, stack: Stack | None = None) -> list[Check]:
    """Whether the store's bucket can be listed and written."""
    name, url = "team bucket", env.get(MIRROR, "")
    if not url:
        return [
            Check(name, "untested", f"{MIRROR} is not set: artifacts stay in the store", f"{MIRROR}=s3://BUCKET/FOLDER")
        ]
    probe = f"{url.rstrip('/')}/.probe-{os.getpid()}"
    try:
        bucket, folder = buckets.split(url)
        asked = {"Bucket": bucket, "Prefix": folder, "MaxKeys": 1}
        with buckets.explained(url):
            storage.filesystem(url).call_s3("list_objects_v2", **asked)  # an answer to HEAD has no words
    except StepVideoError as e:
        said, _, fix = str(e).partition("; ")
        if stack:
            fix += f", or have this machine's made and answer: stepvideo team start, source {stack.folder / ENV}"
        return [Check(name, "missing", said, fix or "look at the server's log")]
    try:
        with buckets.explained(url):
            filesystem = storage.filesystem(url)
            filesystem.pipe_file(probe, b"ok")
            filesystem.rm_file(probe)
    except StepVideoError as e:
        fix = "use keys that may write there, or set " + MIRROR + " to a folder where these may"
        return [Check(name, "missing", f"can be read, not written: {e}", fix)]
    return [Check(name, "ok", f"{url} can be read and written")]


def _stack(stack: Stack | None, env: Environment) -> list[Check]:
    """The services that run on this machine, and their databases."""
    if stack is None:
        fix = "stepvideo team start, or unset STEPVIDEO_TEAM"
        return [Check("team stack", "missing", f"{NAME}={env[NAME]} has no stack", fix)]
    found = []
    if lacking := parts.missing():
        found.append(Check("team packages", "missing", "; ".join(lacking), "install them, then stepvideo team start"))
    down = [name for name in parts.NAMES if processes.pid_of(stack, name) is None]
    if down:
        fix = "stepvideo team start"
        found.append(Check("team services", "missing", f"not running: {', '.join(down)}", fix))
    else:
        found.append(Check("team services", "ok", f"{len(parts.NAMES)} run ({stack.folder})"))
    private = [p for p in (stack.folder / n for n in (ENV, "secrets.json", "pgpass")) if p.exists() and _open(p)]
    if private:
        names = " ".join(map(str, private))
        found.append(Check("team secrets", "missing", f"others can read {names}", f"chmod 600 {names}"))
    return [*found, *_databases(stack)]


def _databases(stack: Stack) -> list[Check]:
    name, place = "team postgresql", f"127.0.0.1:{stack.port('postgresql')}"
    try:
        asyncio.run(postgresql.ask(stack, "postgres", "select 1"))
    except OSError as e:
        said = f"no answer from {place} ({e.strerror or type(e).__name__})"
        return [Check(name, "missing", said, "stepvideo team start postgresql")]
    except Exception as e:
        if "password" in str(e):
            fix = f"stepvideo team start, which writes it anew from {stack.folder / 'secrets.json'}"
            return [Check(name, "missing", f"{place} refuses the password of {stack.folder / 'pgpass'}", fix)]
        return [Check(name, "missing", f"{place}: {e}", f"look at {stack.log('postgresql')}")]
    found = [Check(name, "ok", f"{place} answers")]
    for schema in databases.SCHEMAS:
        try:
            at = databases.revision(stack, schema)
        except Exception as e:
            found.append(
                Check(f"team database {schema.database}", "missing", str(e), "stepvideo team start postgresql")
            )
            continue
        if not at:
            who = "mlflow" if schema.package == "mlflow" else "prefect"
            said = "has no tables yet"
            found.append(Check(f"team database {schema.database}", "warn", said, f"stepvideo team start {who}"))
        elif at != (wanted := databases.newest(schema)):
            said = f"is at revision {at}, {schema.package} {installed(schema.package)} expects {wanted}"
            found.append(Check(f"team database {schema.database}", "missing", said, "stepvideo team upgrade"))
        else:
            found.append(Check(f"team database {schema.database}", "ok", f"at revision {at}"))
    return found


def _address(name: str, url: str, variable: str, stack: Stack | None) -> Check | None:
    fix = f"source {stack.folder / ENV}" if stack else f"export {variable}=…, or source the team.env of your team"
    if not url:
        return Check(name, "missing", f"{variable} is not set", fix)
    if "@" in url.partition("://")[2].partition("/")[0]:
        said = f"{variable} has a user or a password in it, which would be written to every run"
        return Check(name, "missing", said, "put them into the variables of docs/team.md instead")
    if not url.startswith(("http://", "https://")):
        return Check(name, "untested", f"{variable} names no server")
    return None


def _refused(name: str, url: str, who: str, variables: str, stack: Stack | None) -> Check:
    again = f"source {stack.folder / ENV}" if stack else "ask who runs the server"
    return Check(name, "missing", f"{url} refuses {who}: wrong user, password or token", f"set {variables} ({again})")


def _silent(name: str, url: str, code: int, text: str, service: str, stack: Stack | None) -> Check:
    what = f"no answer from {url} ({_said(text)})" if code == 0 else f"{url} answers {code}: {_said(text)}"
    if stack:
        return Check(name, "missing", what, f"stepvideo team start; its log is {stack.log(service)}")
    return Check(name, "missing", what, "check the address; ask who runs the server")


def _version(name: str, url: str, theirs: str, package: str) -> Check:
    ours = installed(package) or "?"
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        fix = f"have the server at {package} {ours}, or this environment at {theirs}"
        return Check(name, "warn", f"{url} answers, with version {theirs}; here is {ours}", fix)
    return Check(name, "ok", f"{url} answers, version {theirs}")


def _said(text: str) -> str:
    """The message in an answer, in one line."""
    message: Any = text
    try:
        said = json.loads(text)
        message = said.get("message") or said.get("exception_message") or said.get("detail") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(str(message).split())[:200]


def _open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)
