"""The random latent cache and the catalog of clips for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toys"))

from clip_catalog import curated  # noqa: E402, F401
from latent_cache import cache  # noqa: E402, F401
