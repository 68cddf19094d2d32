"""Suites of the small world's hard cases, with the truth that the oracle judges by (report §10.2, §10.3).

Categories, and what a row's `aux` says:

    action_sequence   attrs, event; rows come in twins of one object: "right, then up" and "up, then right"
    bouncing, falling attrs, event
    rare_combination  attrs and how often training sees the combination: "never" (held out), "seldom"
                      (`RenderConfig.rare_rate`) or "usual", the control; or `objects`, two different ones ("together")

`attrs` are colour, shape, direction, size and count. Equal arguments give equal suites.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stepvideo.errors import ConfigError
from stepvideo.evaluation.suites.schema import Prompt, Suite
from stepvideo.world.attributes import Attrs, held_out_combinations, rare_combinations, train_combinations
from stepvideo.world.captions import short
from stepvideo.world.config import LANGUAGES, RenderConfig
from stepvideo.world.events import KINDS, SEQUENCE, Event, all_events
from stepvideo.world.hard.captions import WORDINGS, event_caption
from stepvideo.world.hard.scenes import objects, render_event, trainable
from stepvideo.world.render import Frames, NoRoom, render

RARE = "rare_combination"
FREQUENCIES = ("never", "seldom", "usual", "together")
CATEGORIES = {
    "action_sequence": {"zh": "动作序列", "en": "Action sequences"},
    RARE: {"zh": "罕见组合", "en": "Rare combinations"},
    "bouncing": {"zh": "弹跳", "en": "Bouncing"},
    "falling": {"zh": "下落", "en": "Falling"},
}
SEED = 7_800_000  # of rendered truth; far from the seeds of training clips


def world_suite(per_category: int = 40, seed: int = 0, wording: str = "natural") -> Suite:
    """`per_category` prompts of each of the four categories, in zh and en.

    Args:
        wording: of events; "known" has only words that encoders trained without hard scenes can spell.

    Raises:
        ConfigError: no such wording, or fewer than 4 prompts: a category has up to four kinds of rows.
    """
    if wording not in WORDINGS:
        raise ConfigError(f"wording {wording!r}: choose of {', '.join(WORDINGS)}")
    if per_category < 4:
        raise ConfigError(
            f"--per-category {per_category}: give 4 or more, since a category has up to four kinds of scenes"
        )
    rows: list[Prompt] = []
    for kind in KINDS:
        rows += _events(kind, per_category, seed, wording)
    rows += _combinations(per_category, seed)
    order = list(CATEGORIES)
    rows.sort(key=lambda p: order.index(p.category))  # stable
    return Suite(f"world-hard-{wording}", tuple(rows), "MIT", "stepvideo suite world", CATEGORIES)


def _events(kind: str, n: int, seed: int, wording: str) -> Iterator[Prompt]:
    """Rounds over the kind's events; of sequences, an object does both orders one after the other."""
    rng = np.random.default_rng([seed, KINDS.index(kind), 31])
    seen = set(trainable())
    ways = [e for e in all_events() if e.kind == kind]
    if kind == SEQUENCE:
        ways = [e for a in ways if a.directions < a.directions[::-1] for e in (a, Event(kind, a.directions[::-1]))]
    group = 2 if kind == SEQUENCE else 1
    for i in range(n):
        at = i % len(ways)
        together = ways[at // group * group : at // group * group + group]
        if i % group == 0:  # what no combination of which is held out: this category is about the event
            fit = [a for a in objects() if all((a, e) in seen for e in together)]
            thing = fit[int(rng.integers(len(fit)))]
        event = ways[at]
        texts = {lang: event_caption(thing, event, lang, rng, wording=wording) for lang in LANGUAGES}
        aux = {"attrs": thing.as_dict(), "event": event.as_dict(), "wording": wording}
        yield Prompt(f"{kind}-{i:03d}", **texts, category=kind, dimensions=event.directions, aux=aux, licence="MIT")


def _combinations(n: int, seed: int) -> Iterator[Prompt]:
    rng = np.random.default_rng([seed, 32])
    usual = [a for a in train_combinations() if a not in rare_combinations()]
    pools: dict[str, list[Any]] = {
        "never": list(held_out_combinations()),
        "seldom": list(rare_combinations()),
        "usual": usual,
        "together": _pairs(usual, rng),
    }
    shuffled = {k: [v[i] for i in rng.permutation(len(v))] for k, v in pools.items()}
    for i in range(n):
        frequency = FREQUENCIES[i % 4]
        pool = shuffled[frequency]
        chosen = pool[i // 4 % len(pool)]
        group = [chosen] if isinstance(chosen, Attrs) else chosen
        texts = {lang: short(group, lang, rng, always_size=True) for lang in LANGUAGES}
        told = [a.as_dict() for a in group]
        aux = {"frequency": frequency} | ({"attrs": told[0]} if len(told) == 1 else {"objects": told})
        yield Prompt(f"{RARE}-{i:03d}", **texts, category=RARE, dimensions=(frequency,), aux=aux, licence="MIT")


def _pairs(usual: list[Attrs], rng: np.random.Generator, n: int = 200) -> list[list[Attrs]]:
    """Two small objects of different colour and shape, for which there is room in one frame."""
    singles = [a for a in usual if a.count == 1 and a.size == "small"]
    found: list[list[Attrs]] = []
    while len(found) < n:
        pair = [singles[i] for i in rng.integers(len(singles), size=2)]
        if pair[0].colour != pair[1].colour and pair[0].shape != pair[1].shape:
            found.append(pair)
    return found


def truth(prompt: Prompt, number: int, size: int, frames: int) -> Frames:
    """What row `number` asks for, rendered: uint8 [t, h, w, 3]. What the best model could show.

    Raises:
        ConfigError: not a row of such a suite.
    """
    aux, look, seed = prompt.aux, RenderConfig(size=size, frames=frames), [SEED, number]
    if "event" in aux:
        attrs, event = Attrs.from_dict(aux["attrs"]), Event.from_dict(aux["event"])
        return render_event(attrs, event, seed, look, allow_held_out=True)
    if told := aux.get("objects") or ([aux["attrs"]] if "attrs" in aux else []):
        group = [Attrs.from_dict(a) for a in told]
        for attempt in range(50):
            try:
                return render(group, [*seed, attempt], look, allow_held_out=True)
            except NoRoom:
                continue
    raise ConfigError(f"prompt {prompt.id} has no aux.attrs and no aux.objects that fit a frame: nothing to render")
