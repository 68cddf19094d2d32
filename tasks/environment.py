"""Environment defaults for the tools around the library; what the user has set wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def set_defaults(cfg: dict[str, Any]) -> None:
    """Before Prefect, MLflow or GX is imported: local databases below `work`, no telemetry, quiet logs."""
    work = Path(cfg["work"])
    if url := cfg["tracking"].get("prefect_url"):
        os.environ["PREFECT_API_URL"] = url
    for name, value in {
        "PREFECT_HOME": str(work / ".prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 by default, too short on a cold machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",  # MLflow takes only the literal "true"
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that is down must not hold a run for minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which belongs to --json
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
