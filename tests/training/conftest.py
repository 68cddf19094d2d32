"""The random latent cache for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toys"))

from latent_cache import cache, stage, subsets  # noqa: E402, F401
