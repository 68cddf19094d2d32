"""Videos that were made elsewhere, taken in by their file names; what nobody knows of them is null in the manifest."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation import manifest
from stepvideo.evaluation.manifest import Manifest, Video
from stepvideo.evaluation.suites.schema import Prompt, Suite

VBENCH, NUMBERS = "vbench", "NNNN"
FROM_1, FROM_0 = "{number:04d}", "{number0:04d}"
FIELDS = {"id", "prompt", "prompt50", "category", "lang", "number", "number0", "n"}


def adopt(folder: Path, suite: Suite, naming: str, lang: str = "", samples: int = 1, partial: bool = False) -> Manifest:
    """Find a file for every prompt and sample of a suite, and write the manifest into the folder.

    Args:
        naming: a file's name without ending, with fields as in `FIELDS`; "vbench" is `{prompt}-{n}`, "NNNN" a number of
            four digits from 0 or from 1, as the files say.
        lang: of the prompts; the first that all of them have.
        samples: videos a prompt, numbered by `{n}` from 0.

    Raises:
        ConfigError: a pattern that cannot be read, or that gives two prompts one name.
        ArtifactError: files are missing (unless `partial`), ambiguous, in no row, or no videos.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}")
    if (folder / manifest.PLAN).exists():
        raise ConfigError(f"{folder} has a {manifest.PLAN} already; its videos were generated or adopted before")
    lang = lang or next(iter(suite.languages), "")
    if not lang:
        raise ConfigError(f"the prompts of {suite.name} have no common language; give --lang")
    files = _by_stem(folder)
    pattern = _pattern(naming, len(suite.prompts), files)
    if samples > 1 and "n" not in _fields(pattern):
        raise ConfigError(f"--naming {naming!r} has no {{n}}, so {samples} samples would share a name")
    rows, missing = [], []
    for video, stem in _expected(suite, pattern, lang, samples):
        file = files.get(_plain(stem))
        if file is None:
            missing.append(video.name)
        rows.append((replace(video, file=file or f"{_plain(stem)}.mp4"), file))
    if missing and (not partial or len(missing) == len(rows)):
        first = next(stem for _, stem in _expected(suite, pattern, lang, samples) if _plain(stem) not in files)
        raise ArtifactError(
            f"{folder}: no file for {len(missing)} of {len(rows)} videos: {', '.join(missing[:8])}"
            f"{' …' if len(missing) > 8 else ''}; the first would be {first}.mp4. "
            "Mend --naming, or take what is there with --partial"
        )
    if strange := sorted(set(files.values()) - {file for _, file in rows if file}):
        raise ArtifactError(f"{folder}: no prompt for {', '.join(strange[:8])}; move them away or mend --naming")
    known = {file: _facts(folder / file) for _, file in rows if file}
    videos = [replace(video, **known.get(file or "", {})) for video, file in rows]
    manifest.begin(folder, suite.head(), videos)
    manifest.write(folder, [v for v in videos if v.sha256])
    return manifest.load(folder, partial)


def _expected(suite: Suite, pattern: str, lang: str, samples: int) -> Iterator[tuple[Video, str]]:
    """Every video and its file's name without ending."""
    owner: dict[str, str] = {}
    for number, p in enumerate(suite.prompts, 1):
        for n in range(samples):
            stem = _name(pattern, p, lang, number, n)
            cluster = suite.clusters[p.id]
            if owner.setdefault(_plain(stem), cluster) != cluster:
                raise ConfigError(
                    f"--naming {pattern!r} gives prompts {owner[_plain(stem)]} and {p.id} one name: {stem}"
                )
            text = p.text(lang)
            yield (
                Video(suite.digest, p.id, cluster, lang, n, "", text, p.category, p.dimensions, p.aux),
                stem,
            )


def _name(pattern: str, p: Prompt, lang: str, number: int, n: int) -> str:
    text = p.text(lang)
    values = {"id": p.id, "prompt": text, "prompt50": text[:50], "category": p.category, "lang": lang, "n": n}
    return pattern.format(**values, number=number, number0=number - 1)


def _pattern(naming: str, prompts: int, files: dict[str, str]) -> str:
    if naming == VBENCH:
        return "{prompt}-{n}"
    if naming == NUMBERS:
        first, last = "0000" in files, f"{prompts:04d}" in files
        if first == last:
            raise ConfigError(f"--naming NNNN: files do not say where they count from; give {FROM_0!r} or {FROM_1!r}")
        return FROM_0 if first else FROM_1
    if not (names := _fields(naming)) or names - FIELDS:
        raise ConfigError(f"--naming {naming!r}: give a pattern with some of {', '.join(sorted(FIELDS))} in braces")
    return naming


def _fields(pattern: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError as e:
        raise ConfigError(f"--naming {pattern!r}: {e}") from e


def _by_stem(folder: Path) -> dict[str, str]:
    """Plain name without ending → file. Raises ArtifactError where two files have one name."""
    found: dict[str, str] = {}
    for file in manifest.media(folder, stills=False) or manifest.media(folder, stills=True):
        stem = _plain(file.rpartition(".")[0])
        if stem in found:
            raise ArtifactError(f"{folder}: both {found[stem]} and {file} could be meant; move one away")
        found[stem] = file
    if not found:
        raise ArtifactError(f"{folder} holds no video ({', '.join(manifest.MEDIA)})")
    return found


def _plain(stem: str) -> str:
    """Names as file systems may have changed them: composed letters, no slash or surrounding space."""
    return unicodedata.normalize("NFC", stem).replace("/", "_").strip()


def _facts(path: Path) -> dict[str, Any]:
    """What the file itself says. Raises ArtifactError if it is no video."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            said = {
                "codec": stream.codec_context.name,
                "fps": float(stream.average_rate) if stream.average_rate else None,
                "frames": stream.frames or None,
                "height": stream.height,
                "width": stream.width,
                "pix_fmt": stream.pix_fmt,
            }
    except (av.FFmpegError, OSError, IndexError) as e:
        raise ArtifactError(f"{path} cannot be read as video: {e}") from e
    return {**said, "sha256": storage.sha256_file(path)}
