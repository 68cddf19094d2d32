"""Names and shapes of the full networks, built on the meta device: no weights are allocated.

A key list is a json without `kind` whose entries (dit_t2v, video_vae_v2, …) have a `config`, the list `keys` of
[name, shape], and parameter counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from stepvideo.inference.parity.compare import MISS, OK, Row, Tolerance
from stepvideo.inference.parity.configs import dit_config, step_llm_config, vae_config
from stepvideo.inference.parity.golden import Asked, NotUnderstood
from stepvideo.models.dit import DiT
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.video_vae import VideoVAE

EXACT = Tolerance(0.0)


def is_key_list(raw: Any) -> bool:
    return isinstance(raw, dict) and "kind" not in raw and bool(entries(raw))


def entries(raw: Mapping[str, Any]) -> list[str]:
    """The networks that a key list describes."""
    return [name for name, entry in raw.items() if isinstance(entry, dict) and "keys" in entry]


def check(case: str, raw: Mapping[str, Any], name: str) -> Iterator[Row]:
    """How many names or shapes of a network differ, then how far its parameter counts are off.

    Raises:
        NotUnderstood: another network, or a key of its entry or config without a meaning here.
    """
    start = time.perf_counter()
    entry: Asked[Any] = Asked(raw[name], f"{case}.json: {name}")
    entry.skip("num_keys", "diffsynth_md5", "verified_against_release", "differs_from_t2v_in", "note")
    listed = {key: list(shape) for key, shape in entry["keys"]}
    config = entry.within("config")
    with torch.device("meta"):
        model = _network(name, config)
    counts = {key: entry[key] for key in ("param_count", "encoder_params", "decoder_params") if key in entry}
    if rest := entry.rest() + config.rest():
        raise NotUnderstood(f"{', '.join(rest)} not understood")
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    wrong = [key for key in listed.keys() | ours.keys() if listed.get(key) != ours.get(key)]
    yield _row(case, f"{name} keys", len(wrong), start, ", ".join(sorted(wrong)[:3]))
    for key, count in counts.items():
        part = model if key == "param_count" else getattr(model, key.removesuffix("_params"))
        off = abs(sum(p.numel() for p in part.parameters()) - count)
        yield _row(case, f"{name} {key}", off, time.perf_counter())


def _network(name: str, config: Asked[Any]) -> nn.Module:
    if name.startswith("dit_"):
        return DiT(dit_config(config))
    if name.startswith("video_vae_"):
        return VideoVAE(vae_config(config))
    if name.startswith("step_llm"):
        return StepLLM(step_llm_config(config))
    raise NotUnderstood("no network of that name: dit_*, video_vae_* and step_llm* are known")


def _row(case: str, output: str, off: int, start: float, note: str = "") -> Row:
    return Row(case, output, MISS if off else OK, time.perf_counter() - start, float(off), EXACT, note=note)
