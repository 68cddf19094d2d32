"""The folder of a team stack: ports, secrets, logs, data, and the environment that people source.

stack.json        the first port                     secrets.json, pgpass   mode 0600
team.env          mode 0600, for `source`            parts/NAME.json        who runs: pid and its identity
logs/NAME.log     what each service says             postgresql/, ceph/, prefect/, mlflow/   their data
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ConfigError

PORT = 26300
PORTS = ("postgresql", "s3-monitor", "s3", "mlflow", "prefect")  # from the first on; the S3 store takes ten more
HOST = "127.0.0.1"
USER = "team"  # of MLflow, of Prefect's auth string, and PostgreSQL's superuser
BUCKET = "stepvideo"
POOL = "stepvideo"
ENV = "team.env"
NAME = "STEPVIDEO_TEAM"  # the folder of a stack on this machine, where the doctor looks closer
MIRROR = "STEPVIDEO_MIRROR"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Stack:
    """A stack's folder and its first port. `open_stack` makes or finds one."""

    folder: Path
    first_port: int

    def port(self, name: str) -> int:
        return self.first_port + PORTS.index(name)

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.port(name)}"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    @cached_property
    def secrets(self) -> dict[str, str]:
        """{what: secret}, made once. Raises ArtifactError if the file is damaged."""
        path = self.folder / "secrets.json"
        if not path.exists():
            made = {name: secrets.token_urlsafe(24) for name in ("postgresql", "mlflow", "prefect", "sessions")}
            write_private(path, json.dumps(made, indent=1) + "\n")
        return storage.read_json(path)

    def keep(self, **more: str) -> None:
        """Add secrets that a service made."""
        self.secrets.update(more)
        write_private(self.folder / "secrets.json", json.dumps(self.secrets, indent=1) + "\n")

    def database(self, name: str, driver: str) -> str:
        """A URL without password: drivers take it from `PGPASSFILE`."""
        user = "prefect" if name == "prefect" else "mlflow"
        return f"postgresql+{driver}://{user}@{HOST}:{self.port('postgresql')}/{name}"

    @property
    def passwords(self) -> dict[str, str]:
        return {"PGPASSFILE": str(self.folder / "pgpass")}

    def s3(self) -> dict[str, str]:
        """What a client of the S3 server needs. Raises ConfigError as long as that has not made its keys."""
        if "s3_secret_key" not in self.secrets:
            raise ConfigError("the S3 server has made no keys yet; start it first: stepvideo team start")
        return {
            "AWS_ENDPOINT_URL": self.url("s3"),
            "AWS_ACCESS_KEY_ID": self.secrets["s3_access_key"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["s3_secret_key"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def clients(self) -> dict[str, str]:
        """What a run on this stack needs: the content of team.env."""
        return {
            NAME: str(self.folder),
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.secrets['prefect']}",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.secrets["mlflow"],
            MIRROR: f"s3://{BUCKET}/store",
            **self.s3(),
        }

    def write_env(self) -> Path:
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.clients().items()]
        write_private(self.folder / ENV, "".join(["# written by `stepvideo team start`; secrets\n", *lines]))
        return self.folder / ENV


def service_environment(**more: str) -> dict[str, str]:
    """Of a service: what every program needs, nothing else of the caller's, who may have secrets of other systems."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return {k: os.environ[k] for k in kept if k in os.environ} | quiet | more


def open_stack(folder: Path | str | None = None, first_port: int | None = None) -> Stack:
    """The stack of a folder, which is made, private, where there is none; `runs/team` by default.

    Raises:
        ConfigError: the folder has a stack with another port, lies where git tracks, or others may write to it.
        ArtifactError: it cannot be made.
    """
    where = folder_of(folder)
    known = where / "stack.json"
    if known.exists():
        said: dict[str, Any] = storage.read_json(known)
        if first_port not in (None, said["port"]):
            raise ConfigError(f"{where} has a stack at port {said['port']}, not {first_port}; give another --folder")
        if where.stat().st_uid != os.getuid():
            raise ConfigError(f"{where} belongs to another user (uid {where.stat().st_uid}); give another --folder")
        return Stack(where, said["port"])
    port = PORT if first_port is None else first_port
    if not 1024 <= port <= 65500:
        raise ConfigError(f"port {port} cannot be the first of a stack; give one from 1024 to 65500")
    if where.exists() and any(where.iterdir()):
        raise ConfigError(f"{where} is not empty and has no stack; give another --folder")
    for each in (where, where / "logs", where / "parts"):
        try:
            each.mkdir(parents=True, exist_ok=True)
            each.chmod(0o700)
        except OSError as e:
            raise ConfigError(f"cannot make {each}: {e.strerror}; give another --folder") from e
    storage.write_json(known, {"port": port})
    return Stack(where, port)


def folder_of(folder: Path | str | None) -> Path:
    """The folder that is meant: what is given, else $STEPVIDEO_TEAM, else `runs/team` of the checkout."""
    return Path(folder or os.environ.get(NAME) or ROOT / "runs" / "team").expanduser().absolute()


def find_stack(folder: Path | str | None = None) -> Stack | None:
    """A stack that is there already; nothing is made."""
    where = folder_of(folder)
    return Stack(where, storage.read_json(where / "stack.json")["port"]) if (where / "stack.json").exists() else None


def write_private(path: Path, text: str) -> None:
    """A file that is never readable for others, whole or not at all."""
    tmp = path.with_name(f".{path.name}.new")
    tmp.unlink(missing_ok=True)
    with open(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(tmp, path)
