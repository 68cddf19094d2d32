"""The random latent cache and the catalog of clips for the tests of this folder."""

from __future__ import annotations

from clip_catalog import curated  # noqa: F401
from latent_cache import cache  # noqa: F401
