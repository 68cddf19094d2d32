"""The DiT, text-to-video and image-to-video: its output and values inside it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.configs import dit_config
from stepvideo.inference.parity.golden import Case
from stepvideo.inference.parity.taps import Call, recorded
from stepvideo.models.dit import DiT

CLOSE = Tolerance(2e-5, 1e-4)
TAP = "tap_"


def build(case: Case) -> DiT:
    """The case's network with its weights."""
    case.config.skip("B", "F", "H", "W", "clip_len", "llm_len", "llm_valid", "timesteps")
    cfg = dit_config(case.config, image_to_video=case.kind == "dit_ti2v")
    with torch.device("meta"):
        model = DiT(cfg)
    return case.load(model)


def arguments(case: Case) -> dict[str, Any]:
    """What `DiT.forward` is called with."""
    names = [name for name in inspect.signature(DiT.forward).parameters if name in case.inputs]
    given: dict[str, Any] = {"encoder_hidden_states_2": None, **{name: case.inputs[name] for name in names}}
    if "motion_score" in case.config:
        given["motion_score"] = case.config["motion_score"]
    return given


def outputs(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`x`, and `tap_*` as far as this DiT has the place."""
    model, given = build(case), arguments(case)
    modules = dict(model.named_modules())
    places = {name: _place(name.removeprefix(TAP)) for name in case.outputs if name.startswith(TAP)}
    watched = {name: modules[place] for name, place in places.items() if place in modules}
    with recorded(watched) as calls:
        yield "x", model(**given), CLOSE
    text = [name for name in watched if name.endswith("_projection")]
    if text:  # above, only attended tokens were projected
        with recorded({name: watched[name] for name in text}) as whole:
            model(**given | {"encoder_attention_mask": None})
        calls |= whole
    for name in watched:
        yield name, _value(name.removeprefix(TAP), calls[name][0], case.outputs[name]), CLOSE


def _place(tap: str) -> str:
    """The module that a tap was recorded at: block0_attn1 is transformer_blocks.0.attn1."""
    if tap.startswith("adaln_"):
        return "adaln_single"
    return re.sub(r"^block(\d+)(?:_(.+))?$", lambda m: ".".join(filter(None, ("transformer_blocks", *m.groups()))), tap)


def _value(tap: str, call: Call, like: Tensor) -> Tensor:
    """The recorded value in the released layout."""
    if tap == "adaln_6d":
        return call.out[0].flatten(1)
    if tap == "adaln_embedded":
        return call.out[1]
    if tap == "pos_embed":  # [b, f·h·w, d] here, [b·f, h·w, d] there
        return call.out.reshape(-1, *like.shape[1:])
    return call.out
