"""`stepvideo align`: preference training with people in it (report §4.4), as far as they are, and again from there.

Every stage whose pairs people judge is run with its videos kept, becomes a study, and waits until that is closed; with
its votes the cascade goes on. What is there is taken: interrupted and started again, it waits for the same study.

    STUDIES/NAME/          the study of stage NAME (`pairs`, `fresh.2`, …)
    STUDIES/NAME.jsonl     its preference pairs, once it is closed
    STUDIES/NAME.key       key of the stage's artifact whose videos it shows: votes on others are refused
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.compose import compose
from flows.graph import build
from flows.rounds import judged_stages
from stepvideo import storage
from stepvideo.errors import ConfigError

if TYPE_CHECKING:
    from stepvideo.preference.session import Session

POLL_S = 10.0
Rows = Sequence[dict[str, Any]]  # of stages, as `stepvideo run --json` prints them


@dataclass(frozen=True)
class Asked:
    """What is to be aligned, and how people are asked.

    Attributes:
        overrides: settings of the cascade. until: its last stage; "": all of it.
        studies: folder of the studies. study: their settings, "key=value".
    """

    overrides: list[str]
    studies: str
    until: str = ""
    study: list[str] = field(default_factory=list)


def align(
    asked: Asked,
    run: Callable[[list[str], str | None], Rows],
    wait: Callable[[str, Path], None],
    say: Callable[[str], None],
) -> Rows:
    """Run the cascade to its end with people's votes; what its stages made.

    Args:
        run: (overrides, until) → rows of the stages. wait: (stage, study) returns when that is closed.

    Raises:
        ConfigError: `until` ends before the first stage that is judged, or a study shows other videos than the stage
            makes with these settings.
    """
    cfg = compose(asked.overrides)
    names = [n.name for n in build(cfg, asked.until or None)]
    wanted = [name for name in judged_stages(cfg) if name in names]
    if not wanted:
        raise ConfigError(f"until={asked.until}: no stage before it is judged by people; the first is `pairs`")
    overrides = list(asked.overrides)
    for name in wanted:
        votes = Path(asked.studies).absolute() / f"{name}.jsonl"
        rows = run([*overrides, f"only.{name}.save_videos=true"], name)
        made = next(r for r in rows if r["stage"] == name)
        _check_key(votes, made["key"])
        if not votes.exists():
            _ask(asked, votes, Path(made["path"]), wait, say)
        overrides.append(f"only.{name}.runtime.votes={quoted(str(votes))}")
    return run(overrides, asked.until or None)


def quoted(value: str) -> str:
    """For Hydra, whatever is in it."""
    return value if re.fullmatch(r"[\w./-]+", value) else "'" + value.replace("'", "\\'") + "'"


def _check_key(votes: Path, key: str) -> None:
    """A study is of one artifact: which one is written down before the study is made."""
    from stepvideo.preference.study import FILE

    folder, kept = votes.with_suffix(""), votes.with_suffix(".key")
    if not (folder / FILE).exists() and not votes.exists():
        storage.write_atomic(kept, key)
        return
    shown = kept.read_text("utf-8") if kept.exists() else "an unknown key"
    if shown != key:
        raise ConfigError(
            f"the study {folder} shows videos of the artifact {shown}, stage {folder.name} now makes {key}: votes on "
            "other videos say nothing of these. Give the settings that it was made with, or another --studies folder"
        )


def _ask(asked: Asked, votes: Path, made: Path, wait: Callable[[str, Path], None], say: Callable[[str], None]) -> None:
    from stepvideo.preference.study import FILE

    folder = votes.with_suffix("")
    name = folder.name
    if not (folder / FILE).exists():
        _make(folder, made, asked.study)
    say(f"{name} waits for people: stepvideo study add-annotator {folder} NAME; stepvideo study serve {folder}; at the")
    say(f"end stepvideo study close {folder}. This goes on by itself then, or by the same command again")
    while not is_closed(folder):
        wait(name, folder)
    say(f"{name}: {_take_votes(folder, votes)}")


def _take_votes(folder: Path, votes: Path) -> str:
    """The preference pairs of a closed study, by its own rules of exclusion and by majority; what became of its pairs,
    in words.
    """
    from stepvideo.preference.adjudicate import adjudicate
    from stepvideo.preference.pairs_table import pairs, write_pairs
    from stepvideo.preference.quality import screen
    from stepvideo.preference.table import vote_rows

    with _opened(folder) as session:
        found = screen(vote_rows(session, folder), session.study.config.rules)
        rows, left_out = pairs(session.study, adjudicate(found))
        write_pairs(votes, rows)
    decided, ties = len(rows) - left_out["ties"], left_out["ties"]
    return f"{decided} preferences; no preference: {ties} ties, {left_out['undecided']} undecided, not trained on"


def _make(folder: Path, made: Path, settings: list[str]) -> None:
    """The study of what a `pairs` stage made with save_videos."""
    from omegaconf import OmegaConf

    from stepvideo import config
    from stepvideo.preference.build import create
    from stepvideo.preference.config import StudyConfig
    from stepvideo.preference.sources import from_folder, read_prompts

    given = OmegaConf.to_container(OmegaConf.from_dotlist(settings))
    assert isinstance(given, dict)
    how = config.load(StudyConfig, {"kind": "prefer"} | {str(k): v for k, v in given.items()}, "study")
    sources = from_folder("policy", made / "videos", read_prompts(made / "prompts.jsonl"))
    create(folder, folder.name, how, sources)


def is_closed(folder: Path) -> bool:
    """Whether a study takes no more votes."""
    from stepvideo.preference.table import is_closed as closed

    with _opened(folder) as session:
        return closed(session)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Session]:
    from stepvideo.preference.arguments import open_session

    session = open_session(argparse.Namespace(study=folder, database=""))
    try:
        yield session
    finally:
        session.store.close()
