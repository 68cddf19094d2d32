"""Where a model's parts lie in the released layout. Torch-free."""

from __future__ import annotations

PARTS = {"dit": ("transformer",), "vae": ("vae",), "text": ("step_llm", "hunyuan_clip")}
"""Folders of each part of a model."""

BESIDE = {"dit": ("sampling.json",), "vae": (), "text": ("text_lengths.json",)}
"""Files of ours beside them, which the release lacks."""
