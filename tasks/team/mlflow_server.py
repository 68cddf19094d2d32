"""MLflow with users and passwords, its tables in PostgreSQL, artifacts in the bucket: clients send them through it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tasks.team import python_packages
from tasks.team.answers import basic, status
from tasks.team.layout import BUCKET, HOST, USER, Stack, service_environment
from tasks.team.processes import Part

AUTH = """\
[mlflow]
default_permission = READ
database_uri = {database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# a password is checked once a minute, not at every request, as that takes long by design
auth_cache_ttl_seconds = 60
"""


def part(stack: Stack) -> Part:
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", HOST, "--port", str(stack.port("mlflow"))]
    return Part(
        name="mlflow",
        command=command,
        answers=lambda: _answers(stack),
        environment=lambda: _environment(stack),
        prepare=lambda: _prepare(stack),
        about=f"artifacts in s3://{BUCKET}/mlflow, user {USER}",
        place=stack.url("mlflow"),
    )


def _prepare(stack: Stack) -> None:
    python_packages.linked(stack.folder / "python")
    (stack.folder / "mlflow").mkdir(mode=0o700, exist_ok=True)
    text = AUTH.format(database=stack.database("mlflow_auth", "psycopg"))
    (stack.folder / "mlflow" / "auth.ini").write_text(text)


def _environment(stack: Stack) -> Mapping[str, str]:
    """Everything comes this way: arguments can be read by everybody."""
    return service_environment(
        **stack.passwords,
        **stack.s3(),
        PYTHONPATH=str(stack.folder / "python"),
        MLFLOW_S3_ENDPOINT_URL=stack.url("s3"),
        MLFLOW_BACKEND_STORE_URI=stack.database("mlflow", "psycopg"),
        MLFLOW_ARTIFACTS_DESTINATION=f"s3://{BUCKET}/mlflow",
        MLFLOW_AUTH_CONFIG_PATH=str(stack.folder / "mlflow" / "auth.ini"),
        MLFLOW_AUTH_ADMIN_USERNAME=USER,
        MLFLOW_AUTH_ADMIN_PASSWORD=stack.secrets["mlflow"],
        MLFLOW_FLASK_SERVER_SECRET_KEY=stack.secrets["sessions"],
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # eight processes, of which nothing here makes use
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="3",
    )


def _answers(stack: Stack) -> bool:
    url = f"{stack.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    return status(url, basic(f"{USER}:{stack.secrets['mlflow']}")) == 200
