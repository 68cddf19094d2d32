"""The smoke cascade for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toys"))

from whole import smoke  # noqa: E402, F401
