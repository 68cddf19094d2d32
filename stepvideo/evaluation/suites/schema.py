"""One schema for prompt suites: JSONL, a head line and then a line a prompt. Torch-free.

    suite = read(Path("t2v-eval.jsonl"))
    suite.prompts[0].text("zh"), suite.digest

Every line and the whole have a sha256, so a score says of which prompts it speaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import canonical, digest
from stepvideo.errors import ArtifactError, ConfigError

LANGUAGES = ("zh", "en")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes part of file names


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique within the suite whatever the case of its letters.
        zh, en: the same request in both languages; "" where the suite has none.
        category: what results are grouped by; named in `Suite.categories`.
        dimensions: what the prompt tests; results are also grouped by these, and they may overlap.
        aux: what a metric may know of the answer, such as objects, a first frame (`image`), or own `seeds`.
        licence: SPDX name, or words.
    """

    id: str
    zh: str = ""
    en: str = ""
    category: str = ""
    dimensions: tuple[str, ...] = ()
    aux: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise ConfigError(f"prompt id {self.id!r}: give up to 64 letters, digits, '.', '_' and '-'")
        if not self.zh.strip() and not self.en.strip():
            raise ConfigError(f"prompt {self.id} has no text; give zh, en, or both")

    def text(self, lang: str) -> str:
        """Raises ConfigError if there is none in `lang`."""
        if not (found := getattr(self, lang)):
            raise ConfigError(f"prompt {self.id} has no text in {lang}; it has {', '.join(self.languages)}")
        return found

    @property
    def languages(self) -> list[str]:
        return [lang for lang in LANGUAGES if getattr(self, lang)]

    @cached_property
    def digest(self) -> str:
        """sha256 of everything above."""
        return digest(asdict(self))

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "sha256": self.digest}


@dataclass(frozen=True)
class Suite:
    """Prompts in order.

    Attributes:
        source: where a user gets the file that it was made from.
        categories: key → its name in each language.
        differs: how that file differs from the public one, as the user accepted it; empty if it does not.
    """

    name: str
    prompts: tuple[Prompt, ...]
    licence: str = ""
    source: str = ""
    categories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError(f"suite {self.name} holds no prompt")
        seen: set[str] = set()
        for p in self.prompts:
            if p.id.lower() in seen:
                raise ConfigError(f"suite {self.name}: two prompts have the id {p.id}; give each its own")
            seen.add(p.id.lower())

    @cached_property
    def digest(self) -> str:
        """sha256 over the prompts' in their order: equal prompts, equal digest, whatever the suite is called."""
        return digest([p.digest for p in self.prompts])

    @cached_property
    def duplicates(self) -> list[list[str]]:
        """Ids of prompts with the same text in some language; they stay in the suite, and count as one prompt when
        intervals are made."""
        groups: dict[str, list[str]] = {}
        for p in self.prompts:
            groups.setdefault(self.clusters[p.id], []).append(p.id)
        return [ids for ids in groups.values() if len(ids) > 1]

    @cached_property
    def clusters(self) -> dict[str, str]:
        """Id → id of the first prompt with the same text."""
        first: dict[tuple[str, str], str] = {}
        found: dict[str, str] = {}
        for p in self.prompts:
            texts = [(lang, getattr(p, lang).strip()) for lang in p.languages]
            found[p.id] = next((first[t] for t in texts if t in first), p.id)
            for t in texts:
                first.setdefault(t, found[p.id])
        return found

    @property
    def languages(self) -> list[str]:
        """Those in which every prompt has a text."""
        return [lang for lang in LANGUAGES if all(getattr(p, lang) for p in self.prompts)]

    def head(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "suite": self.name,
            "prompts": len(self.prompts),
            "sha256": self.digest,
            "licence": self.licence,
            "source": self.source,
            "categories": {k: dict(v) for k, v in self.categories.items()},
            "differs": list(self.differs),
            "duplicates": self.duplicates,
        }


def write(path: Path, suite: Suite) -> None:
    """Whole or not at all; equal suites give equal bytes."""
    lines = [suite.head(), *(p.row() for p in suite.prompts)]
    storage.write_atomic(path, "".join(canonical(line) + "\n" for line in lines))


def read(path: Path) -> Suite:
    """A suite with all its digests checked.

    Raises:
        ArtifactError: names the line that is no prompt, or was changed.
    """
    rows = storage.read_json_lines(path)
    head = rows[0] if rows else {}
    if not isinstance(head.get("suite"), str):
        raise ArtifactError(f"{path} has no head line of a suite; make it with `stepvideo suite import`")
    try:
        prompts = tuple(_prompt(row, f"{path} line {n}") for n, row in enumerate(rows[1:], 2))
        suite = Suite(
            head["suite"],
            prompts,
            head.get("licence", ""),
            head.get("source", ""),
            head.get("categories", {}),
            tuple(head.get("differs", ())),
        )
    except ConfigError as e:
        raise ArtifactError(f"{path}: {e}") from e
    if head.get("sha256") != suite.digest:
        raise ArtifactError(
            f"{path}: prompts were added, removed or reordered since it was made (sha256 {suite.digest[:16]}, the head "
            f"says {str(head.get('sha256'))[:16]}); import it again, or write it under a name of its own"
        )
    return suite


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    said = row.pop("sha256", None)
    known: Sequence[str] = [f.name for f in fields(Prompt)]
    if unknown := sorted(set(row) - set(known)):
        raise ArtifactError(f"{where}: unknown keys {', '.join(unknown)}; a prompt has {', '.join(known)}")
    try:
        prompt = Prompt(**{**row, "dimensions": tuple(row.get("dimensions", ()))})
    except TypeError as e:
        raise ArtifactError(f"{where} is no prompt: {e}") from e
    if said != prompt.digest:
        raise ArtifactError(f"{where}: prompt {prompt.id} was changed since it was made; import it again")
    return prompt
