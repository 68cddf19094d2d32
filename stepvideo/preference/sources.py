"""What a study can be made of: videos of models, each with its prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepvideo.errors import ArtifactError
from stepvideo.preference.media import IMAGES, VIDEOS
from stepvideo.preference.study import LANGUAGES

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Source:
    """One video of one model.

    Attributes:
        key: what pairs it with those of other models.
        prompt_id: the unit that intervals resample.
        category: tags, separated by ";".
    """

    model: str
    path: Path
    key: str
    prompt_id: str
    prompt: Mapping[str, str]
    category: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Prompt:
    id: str
    text: Mapping[str, str]
    category: str = ""


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a .jsonl (id, zh, en, category) or of a .txt, one a line, whose ids are 000, 001, …

    Raises:
        ArtifactError: names the file, the line and what is wrong with it.
    """
    try:
        lines = [(i, t) for i, t in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1) if t.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} cannot be read: {e}") from e
    if path.suffix != ".jsonl":
        return [Prompt(f"{n:03d}", {_language(t): t.strip()}) for n, (_, t) in enumerate(lines)]
    found: dict[str, Prompt] = {}
    for number, line in lines:
        try:
            row = json.loads(line)
            text = {k: str(row[k]) for k in LANGUAGES if row.get(k)}
            prompt = Prompt(str(row["id"]), text, str(row.get("category") or ""))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ArtifactError(f"{path} line {number}: give an object with id, and zh or en, or both") from None
        if not text or prompt.id in found:
            raise ArtifactError(f"{path} line {number}: id {prompt.id!r} is there twice, or has neither zh nor en")
        found[prompt.id] = prompt
    return list(found.values())


def from_folder(model: str, folder: Path, prompts: Sequence[Prompt]) -> list[Source]:
    """Videos of a folder: the file of prompt ID is ID.mp4, of several samples ID-0.mp4, ID-1.mp4 (or ID_0).

    Raises:
        ArtifactError: a prompt has no video. A model that has not made one cannot be compared on it.
    """
    files = {p.stem: p for p in sorted(Path(folder).glob("*")) if p.suffix.lower() in (*VIDEOS, *IMAGES)}
    found, missing = [], []
    for prompt in prompts:
        pattern = re.compile(re.escape(prompt.id) + r"(?:[-_](\d+))?")
        mine = [(m, p) for stem, p in files.items() if (m := pattern.fullmatch(stem))]
        if not mine:
            missing.append(prompt.id)
        mine.sort(key=lambda m: int(m[0][1] or 0))
        for n, (match, path) in enumerate(mine):
            seed = int(match[1]) if match[1] else None
            found.append(Source(model, path, f"{prompt.id} {n}", prompt.id, prompt.text, prompt.category, seed))
    if missing:
        raise ArtifactError(f"{folder} has no video for {len(missing)} prompts, such as {missing[0]}: make them first")
    return found


def from_manifest(model: str, folder: Path) -> list[Source]:
    """Videos of a folder that `stepvideo suite generate` or `adopt` made. Raises ArtifactError: some are missing."""
    from stepvideo.evaluation import manifest

    videos = manifest.load(folder).videos
    texts: dict[str, dict[str, str]] = {}
    for v in videos:
        texts.setdefault(v.id, {})[v.lang] = v.text
    return [Source(model, folder / v.file, v.name, v.cluster, texts[v.id], v.category, v.seed) for v in videos]


def has_manifest(folder: Path) -> bool:
    from stepvideo.evaluation import manifest

    return (folder / manifest.MANIFEST).exists() or (folder / manifest.PLAN).exists()


def _language(text: str) -> str:
    return "zh" if CHINESE.search(text) else "en"
