"""Studies without videos, for tests of what is made of their votes; and sessions that annotators answer directly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from stepvideo.preference import rules, tokens
from stepvideo.preference.build import texts
from stepvideo.preference.config import MediaConfig, StudyConfig
from stepvideo.preference.session import Session
from stepvideo.preference.store import Store
from stepvideo.preference.study import MEDIA, Item, Side, Study, save

SECRET = "5e" * 32
FORM = MediaConfig(32, 32, 10.0, 5)
NAMES = ("teacher-model", "student-model")


def item(n: int, role: str, paired: bool, prompt_id: str = "", expected: int | None = None) -> Item:
    both = NAMES if role == "vote" else (NAMES[0], NAMES[0])
    a, b = (Side(m, f"/x/{m}/p{n}-{k}.mp4", f"{n:04d}{'ab'[k]}.mp4", k) for k, m in enumerate(both))
    prompt = {"zh": f"第{n}个", "en": f'clip, "{n}"\nof two lines'}
    if expected is None and paired and role in ("gold", "aa"):
        expected = {"gold": 1, "aa": 0}[role]
    category = ("Sports", "Food")[n % 2]
    return Item(f"i{n:05d}", role, prompt_id or f"p{n}", prompt, category, a, b if paired else None, expected)


def study(kind: str = "compare", votes: int = 8, golds: int = 2, alike: int = 2, **settings: object) -> Study:
    """Items i00001 …; the first `votes` of them count."""
    config = StudyConfig(kind=kind, media=FORM, **settings)  # type: ignore[arg-type]
    roles = (
        ["vote"] * votes + ["gold"] * golds + ["aa"] * (alike if config.paired else 0) + ["practice"] * config.practice
    )
    items = [item(n, role, config.paired) for n, role in enumerate(roles, 1)]
    return Study("made", config, SECRET, texts(kind), tuple(items), rules.digest(config.rules))


def session(made: Study, folder: Path, people: Sequence[str] = ()) -> tuple[Session, dict[str, str]]:
    """The study in a folder, with a clock that stands still between votes; and the tokens of its people."""
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    for i in made.items:
        for side in (i.a, i.b):
            if side:
                (folder / MEDIA / side.media).write_bytes(side.media.encode())
    save(made, folder)
    seconds = itertools.count(1_000_000)
    found = Session(made, Store(folder, made.opaque("database")), lambda: float(next(seconds)))
    with found.store._engine.connect() as connection:  # these tests kill nobody; waiting for the disk is most of them
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
    given = {name: found.store.write(lambda c, n=name: tokens.add(c, n, 1.0, now=1_000_000.0)) for name in people}
    return found, given


def fidelity(made: Study, by_side: Mapping[str, float] | None = None) -> dict[str, float]:
    """media → quality: of the first side 0.8, of the second 0.5; of gold 0.9 and 0.2, of A/A equal."""
    known = {}
    for i in made.items:
        sides = [s for s in (i.a, i.b) if s]
        values = {"gold": (0.9, 0.2), "practice": (0.9, 0.2), "aa": (0.6, 0.6)}.get(i.role, (0.8, 0.5))
        known |= {s.media: v for s, v in zip(sides, values, strict=False)}
    return known | dict(by_side or {})
