"""Making a study: items from videos, checks mixed in, and every video in one form."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.errors import ArtifactError
from stepvideo.preference import labelling, media, rules
from stepvideo.preference.config import StudyConfig
from stepvideo.preference.sources import Source
from stepvideo.preference.spoil import spoil
from stepvideo.preference.study import FILE, MEDIA, Item, Side, Study, opaque, save

GUIDE = Path(__file__).with_name("pages") / "guide.json"
SPOIL = "spoil"  # a treatment that is to be chosen when the frames are seen

Done = Callable[[int, int], None]


def create(
    folder: Path, name: str, config: StudyConfig, sources: Sequence[Source], pairs: int = 1, secret: str = "",
    progress: Done = lambda done, total: None,
) -> Study:  # fmt: skip
    """Write a study into an empty folder.

    Args:
        sources: of every model, one video a prompt or more; for `prefer`, several of one model.
        pairs: of `prefer`, how many pairs of a prompt's samples are compared.
        secret: hexadecimal key of the opaque names; "" draws one.
        progress: called with videos done and videos in all.

    Raises:
        ArtifactError: the folder has a study already, a source is broken, or the sources make no item.
    """
    if (folder / FILE).exists():
        raise ArtifactError(f"{folder} has a study already; give another folder")
    secret = secret or secrets.token_hex(32)
    form = media.common(config.media, [media.probe(s.path) for s in sources])
    config = replace(config, media=form)
    named = _Namer(secret)
    items = [*_votes(config, sources, pairs, named)]
    if not items:
        raise ArtifactError(f"these videos make no item of kind {config.kind}: {_needs(config)}")
    items += _checks(config, sources, named, len(items))
    items = _written(folder / MEDIA, items, config, progress)
    folder.chmod(0o700)  # the database knows sides and checks, and the dates of media in which order they were made
    study = Study(name, config, secret, texts(config.kind), tuple(items), rules.digest(config.rules))
    save(study, folder)
    return study


def texts(kind: str) -> dict[str, Any]:
    """What annotators of this kind of study read: title, guide, and scales or questions."""
    said = json.loads(GUIDE.read_text(encoding="utf-8"))
    more = {"rate": lambda: {"scales": said["scales"]}, "label": lambda: {"questions": labelling.questions()}}
    return said[kind] | more.get(kind, dict)()


class _Namer:
    """Items by number, and opaque names of their videos."""

    def __init__(self, secret: str) -> None:
        self._secret, self._count = secret, 0

    def item(self, role: str, source: Source, other: Source | None = None, **more: Any) -> Item:
        self._count += 1
        name = f"i{self._count:05d}"
        if role == "vote" and other and int(opaque(self._secret, "slot", name)[-1], 16) % 2:
            source, other = other, source  # else what is said of a would be said of the model that was named first
        treatment = more.pop("treatment", "")
        a = self._side(name, "a", source, "" if other else treatment)
        b = self._side(name, "b", other, treatment) if other else None
        return Item(name, role, source.prompt_id, dict(source.prompt), source.category, a, b, **more)

    def _side(self, item: str, slot: str, source: Source, treatment: str) -> Side:
        file = f"{opaque(self._secret, 'file', item, slot)}.mp4"
        return Side(source.model, str(source.path), file, source.seed, treatment)


def _votes(config: StudyConfig, sources: Sequence[Source], pairs: int, named: _Namer) -> Iterator[Item]:
    by_prompt: dict[str, list[Source]] = {}
    for s in sources:
        by_prompt.setdefault(s.prompt_id, []).append(s)
    models = list(dict.fromkeys(s.model for s in sources))
    for i, (_, mine) in enumerate(sorted(by_prompt.items())):
        if not config.paired:
            yield from (named.item("vote", s) for s in mine)
        elif config.kind == "prefer":
            both = list(combinations(mine, 2))
            order = np.random.default_rng([config.seed, i]).permutation(len(both))
            yield from (named.item("vote", *both[k]) for k in order[:pairs])
        else:
            of = {(s.model, s.key): s for s in mine}
            for key in dict.fromkeys(s.key for s in mine):
                if lacking := [m for m in models if (m, key) not in of]:
                    raise ArtifactError(f"{lacking[0]} has no video for {key}, which another model has")
                yield from (named.item("vote", of[m, key], of[n, key]) for m, n in combinations(models, 2))


def _checks(config: StudyConfig, sources: Sequence[Source], named: _Namer, votes: int) -> Iterator[Item]:
    """Known-bad, A/A and practice items, of videos that the seed draws."""
    whole = votes / (1 - config.gold - config.aa - config.repeats)
    order = np.random.default_rng([config.seed, 1 << 20]).permutation(len(sources))
    drawn = (sources[order[i % len(order)]] for i in range(1 << 30))
    spoiled: dict[str, Any] = {"treatment": SPOIL, "expected": 1}
    same: dict[str, Any] = {"expected": 0}
    if config.kind == "label":
        gold = aa = 0
    else:
        gold, aa = ceil(config.gold * whole), ceil(config.aa * whole) if config.paired else 0
    if not config.paired:
        yield from (named.item("gold", next(drawn), treatment=SPOIL) for _ in range(gold))
        yield from (named.item("practice", next(drawn)) for _ in range(config.practice))
        return
    kinds = [("gold", spoiled)] * gold + [("aa", same)] * aa
    kinds += [("practice", (spoiled, same)[i % 2]) for i in range(config.practice)]
    for role, more in kinds:
        source = next(drawn)
        yield named.item(role, source, source, **more)


def _written(folder: Path, items: Sequence[Item], config: StudyConfig, progress: Done) -> list[Item]:
    """Encode every video; the items, with the treatments that were chosen."""
    out, total = [], sum(2 if i.b else 1 for i in items)
    for n, item in enumerate(items):
        sides: dict[str, Side] = {}
        for slot, side in (("a", item.a), ("b", item.b)):
            if side is None:
                continue
            frames = media.frames_of(Path(side.source), config.media)
            if side.treatment == SPOIL:
                frames, treatment = spoil(frames, config.seed + n)
                side = replace(side, treatment=treatment)
            media.encode(folder / side.media, frames, config.media)
            sides[slot] = side
            progress(sum(2 if i.b else 1 for i in out) + len(sides), total)
        out.append(replace(item, **sides))
    groups: dict[str, list[Path]] = {}
    for item in out:
        group = item.item if config.paired else item.prompt_id
        groups.setdefault(group, []).extend(folder / s.media for s in (item.a, item.b) if s)
    for paths in groups.values():
        media.equalise(paths)
    return out


def _needs(config: StudyConfig) -> str:
    return {
        "compare": "give videos of two models or more for the same prompts",
        "prefer": "give two samples of a prompt or more",
    }.get(config.kind, "give at least one")
