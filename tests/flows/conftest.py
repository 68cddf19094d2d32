"""The toy cascade for the tests of this folder."""

from __future__ import annotations

from fixtures import mini, new_mlflow, new_prefect, toys  # noqa: F401
from retraining import first_champion, place  # noqa: F401
