"""The random latent cache for the tests of this folder."""

from __future__ import annotations

from latent_cache import cache, stage, subsets  # noqa: F401
