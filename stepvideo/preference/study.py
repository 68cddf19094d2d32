"""A study as it lies in its folder: `study.json` with what every item truly is, `votes.db`, `media/`, `exports/`.

Nothing of `study.json` but prompts and texts is ever sent to an annotator.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stepvideo import config as configs
from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.preference import private, rules
from stepvideo.preference.config import StudyConfig

FILE, DATABASE, MEDIA, EXPORTS = "study.json", "votes.db", "media", "exports"
FORMAT = 1
LANGUAGES = ("zh", "en")
ROLES = ("vote", "gold", "aa", "practice")  # of items; an assignment may also be a "repeat" of a vote


@dataclass(frozen=True)
class Side:
    """One video of an item, and where it is from.

    Attributes:
        source: the file it was made from, as the manifest names it.
        media: its file's name in `media/`.
        treatment: what was done to it: "" nothing, or a name of `spoil.TREATMENTS`.
    """

    model: str
    source: str
    media: str
    seed: int | None = None
    treatment: str = ""


@dataclass(frozen=True)
class Item:
    """What is judged: one video (`a`) or two.

    Attributes:
        prompt: language → text.
        expected: of gold and A/A pairs: 1 a is better, 0 tie, -1 b is better.
    """

    item: str
    role: str
    prompt_id: str
    prompt: Mapping[str, str]
    category: str
    a: Side
    b: Side | None = None
    expected: int | None = None


@dataclass(frozen=True)
class Study:
    """A study with its truth.

    Attributes:
        secret: hexadecimal; key of all opaque names.
        texts: title, guide, scales, questions: what annotators read, frozen when the study was made.
        rules_sha256: digest of `config.rules` when the study was made.
    """

    name: str
    config: StudyConfig
    secret: str
    texts: Mapping[str, Any]
    items: tuple[Item, ...]
    rules_sha256: str
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.config.kind

    @cached_property
    def by_id(self) -> dict[str, Item]:
        return {i.item: i for i in self.items}

    @cached_property
    def by_role(self) -> dict[str, tuple[Item, ...]]:
        return {role: tuple(i for i in self.items if i.role == role) for role in ROLES}

    @property
    def length_s(self) -> float:
        """Of every video, seconds."""
        return self.config.media.frames / self.config.media.fps

    def opaque(self, *parts: object) -> str:
        """A name that says nothing without the secret: 32 hexadecimal digits."""
        return opaque(self.secret, *parts)


def opaque(secret: str, *parts: object) -> str:
    said = configs.canonical([str(p) for p in parts]).encode()
    return hmac.new(bytes.fromhex(secret), said, hashlib.sha256).hexdigest()[:32]


def save(study: Study, folder: Path) -> None:
    """Write `study.json`, last: a folder without it is no study yet. Raises ArtifactError."""
    said = asdict(study) | {"format": FORMAT, "items": [_without_nulls(asdict(i)) for i in study.items]}
    private.write_json(folder / FILE, said)


def load(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        ArtifactError: there is none, or its exclusion rules are not those that it was made with.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise ArtifactError(f"{path} is missing: make a study with `stepvideo study create`")
    said = storage.read_json(path)
    if said.pop("format", None) != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT}, which this version reads")
    try:
        items = tuple(_item(i) for i in said.pop("items"))
        study = Study(**(said | {"items": items, "config": configs.load(StudyConfig, said["config"], "study")}))
    except (KeyError, TypeError) as e:
        raise ArtifactError(f"{path} is damaged: {e}") from e
    if rules.digest(study.config.rules) != study.rules_sha256:
        raise ArtifactError(f"{path}: the exclusion rules were changed after the study was made; put the old ones back")
    return study


def _item(said: dict[str, Any]) -> Item:
    b = said.get("b")
    return Item(**(said | {"a": Side(**said["a"]), "b": Side(**b) if b else None}))


def _without_nulls(said: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in said.items() if v is not None}
