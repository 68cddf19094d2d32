"""The smoke cascade for the tests of this folder."""

from __future__ import annotations

from fixtures import mini, new_mlflow  # noqa: F401
from retraining import first_champion, place  # noqa: F401
from s3_gateway import call, gateway  # noqa: F401
from whole import smoke  # noqa: F401
