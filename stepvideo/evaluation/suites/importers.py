"""Public prompt files as suites. The files themselves are a user's; only counts and names are known here.

An importer returns the prompts, and every way in which the file is not the public one, in words.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation.suites.schema import Prompt, Suite
from stepvideo.storage import sha256_file

Names = Mapping[str, Mapping[str, str]]
Read = Callable[[Path], tuple[list[Prompt], list[str]]]

T2V_SHA256 = "02a404b88e14b55fb54770ef2e096dc11b102cef56d129dad2cfe90fcb5a965b"
T2V_CATEGORIES = (  # key, zh, en, prompts: Table 7's sizes, in the order of the file's lines
    ("sports", "运动", "Sports", 12),
    ("food", "美食", "Food", 11),
    ("scenery", "风景", "Scenery", 12),
    ("animals", "动物", "Animals", 12),
    ("festivals", "节日", "Festivals", 11),
    ("combined_concepts", "组合概念", "Combined Concepts", 12),
    ("surreal", "超现实", "Surreal", 11),
    ("people", "人物", "People", 12),
    ("3d_animation", "3D 动画", "3D Animation", 12),
    ("cinematography", "镜头语言", "Cinematography", 11),
    ("style", "风格", "Style", 12),
)
TI2V_SUBSETS = {"real": ("real-world", "真实场景", 178), "ani": ("anime", "动漫", 120)}
TI2V_SIDES = {"H": "horizontal", "S": "square", "V": "vertical"}
VBENCH_ROWS, VBENCH_UNIQUE, VBENCH_DIMENSIONS = 946, 944, 16
MOVIEGEN_ROWS, MOVIEGEN_UNIQUE = 1003, 998
MOVIEGEN_GROUPS = {  # as in Table 12; a prompt may have several
    "human": "人物",
    "physics": "物理",
    "unusual": "罕见活动与主体",
    "animal": "动物",
    "scene": "场景",
    "sequential motion": "连续动作",
    "camera motion": "镜头运动",
}


@dataclass(frozen=True)
class Format:
    """A public file that a user may have."""

    name: str
    what: str  # to give, and how much is in it
    source: str
    licence: str
    read: Read
    categories: Names = field(default_factory=dict)


def import_suite(
    form: str, path: Path, *, allow_different: bool = False, other_language: Path | None = None, lang: str = "zh"
) -> Suite:
    """The suite in `path`, which is of the format `form`.

    Args:
        allow_different: take a file that is not the public one; the suite says so ever after.
        other_language: a file with a line a prompt, in the same order, in the language that the suite lacks.
        lang: of a format that does not say it ("lines").

    Raises:
        ConfigError: no such format; a file that differs from the public one.
        ArtifactError: the file is missing or of another kind.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is not known; choose of {', '.join(FORMATS)}")
    found = FORMATS[form]
    prompts, differs = _lines_in(path, lang) if form == "lines" else found.read(path)
    if differs and not allow_different:
        raise ConfigError(
            f"{path} is not the public {form}: {'; '.join(differs)}. Get it from {found.source}, or take it as it is "
            "with --allow-different, which the suite will say"
        )
    if other_language is not None:
        prompts = _with_other_language(prompts, other_language)
    prompts = [replace(p, licence=p.licence or found.licence) for p in prompts]
    name = path.stem if form == "lines" else form
    return Suite(name, tuple(prompts), found.licence, found.source, found.categories, tuple(differs))


def _t2v_eval(path: Path) -> tuple[list[Prompt], list[str]]:
    """128 lines without categories. They lie in the order of Table 7, whose votes give the sizes."""
    lines = text_lines(path)
    expected = sum(n for *_, n in T2V_CATEGORIES)
    differs = [f"{len(lines)} prompts instead of {expected}"] if len(lines) != expected else []
    if not differs and sha256_file(path) != T2V_SHA256:
        differs = [f"its sha256 begins with {sha256_file(path)[:12]} instead of {T2V_SHA256[:12]}"]
    categories = [key for key, *_, n in T2V_CATEGORIES for _ in range(n)]
    if len(lines) != expected:
        categories = [""] * len(lines)  # line numbers say nothing about another file
    return [Prompt(f"{i:03d}", zh=t, category=c) for i, (t, c) in enumerate(zip(lines, categories), 1)], differs


def _ti2v_eval(path: Path) -> tuple[list[Prompt], list[str]]:
    """ti2v_eval_{real,ani}/{H,S,V}/NNN.txt, each with NNN.png beside it, below `path`."""
    prompts: list[Prompt] = []
    differs: list[str] = []
    for short, (category, _, expected) in TI2V_SUBSETS.items():
        texts = sorted(path.rglob(f"ti2v_eval_{short}/[HSV]/*.txt"), key=lambda p: (p.stem, p.parent.name))
        if len(texts) != expected:
            differs.append(f"{len(texts)} prompts in ti2v_eval_{short} instead of {expected}")
        for text in texts:
            image = text.with_suffix(".png")
            aux = {"image": image.relative_to(path).as_posix()}
            aux["image_sha256"] = sha256_file(image) if image.is_file() else ""
            side = TI2V_SIDES[text.parent.name]
            said = _read(text).strip()
            prompts.append(Prompt(f"{short}-{text.stem}", zh=said, category=category, dimensions=(side,), aux=aux))
    if not prompts:
        raise ArtifactError(f"{path} holds no ti2v_eval_real/H/001.txt and the like; give the folder above them")
    return prompts, differs


def _vbench(path: Path) -> tuple[list[Prompt], list[str]]:
    """VBench_full_info.json: [{prompt_en, dimension, auxiliary_info}]."""
    try:
        rows = json.loads(_read(path))
        prompts = [
            Prompt(
                f"{i:04d}",
                en=row["prompt_en"],
                dimensions=tuple(row["dimension"]),
                aux={"auxiliary_info": row["auxiliary_info"]} if row.get("auxiliary_info") else {},
            )
            for i, row in enumerate(rows, 1)
        ]
    except (ValueError, TypeError, KeyError) as e:
        raise ArtifactError(f"{path} is not VBench's JSON, a list of {{prompt_en, dimension}}: {e!r}") from e
    dimensions = len({d for p in prompts for d in p.dimensions})
    differs = _counts(prompts, VBENCH_ROWS, VBENCH_UNIQUE)
    if dimensions != VBENCH_DIMENSIONS:
        differs.append(f"{dimensions} dimensions instead of {VBENCH_DIMENSIONS}")
    return prompts, differs


def _moviegen(path: Path) -> tuple[list[Prompt], list[str]]:
    """MovieGenVideoBenchWithTag.csv (prompt, concept, motion_level), or the .txt with a prompt a line."""
    if path.suffix.lower() != ".csv":
        prompts = [Prompt(f"{i:04d}", en=t) for i, t in enumerate(text_lines(path), 1)]
        return prompts, _counts(prompts, MOVIEGEN_ROWS, MOVIEGEN_UNIQUE)
    rows = list(csv.DictReader(io.StringIO(_read(path))))
    if not rows or not {"prompt", "concept", "motion_level"} <= set(rows[0]):
        raise ArtifactError(f"{path} has no columns prompt, concept, motion_level; give MovieGenVideoBenchWithTag.csv")
    prompts = []
    for i, row in enumerate(rows, 1):
        tags = [t.strip() for t in (row["concept"] or "").split(",") if t.strip()]
        groups = tuple(dict.fromkeys(_group(t) for t in tags))
        aux = {"tags": tags, "motion_level": row["motion_level"]}
        first = groups[0] if groups else ""
        prompts.append(Prompt(f"{i:04d}", en=row["prompt"].strip(), category=first, dimensions=groups, aux=aux))
    differs = _counts(prompts, MOVIEGEN_ROWS, MOVIEGEN_UNIQUE)
    if unknown := sorted({g for p in prompts for g in p.dimensions} - set(MOVIEGEN_GROUPS)):
        differs.append(f"unknown concepts {', '.join(unknown)}")
    return prompts, differs


def _group(tag: str) -> str:
    """ "human - hand" → human; "unusual subject" → unusual"""
    return "unusual" if tag.startswith("unusual") else tag.split(" - ")[0]


def _lines_in(path: Path, lang: str) -> tuple[list[Prompt], list[str]]:
    return [
        Prompt(f"{i:04d}", zh=t if lang == "zh" else "", en=t if lang == "en" else "")
        for i, t in enumerate(text_lines(path), 1)
    ], []


def _counts(prompts: Sequence[Prompt], rows: int, unique: int) -> list[str]:
    different = len({p.en for p in prompts})
    found = [f"{len(prompts)} prompts instead of {rows}"] if len(prompts) != rows else []
    return found + ([f"{different} different ones instead of {unique}"] if different != unique else [])


def text_lines(path: Path) -> list[str]:
    """The lines that are not empty, stripped. Raises ArtifactError."""
    if not (lines := [line.strip() for line in _read(path).split("\n") if line.strip()]):
        raise ArtifactError(f"{path} holds no prompt; a line each is expected")
    return lines


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} cannot be read as UTF-8 text: {e}") from e


def _with_other_language(prompts: Sequence[Prompt], path: Path) -> list[Prompt]:
    lines = text_lines(path)
    if len(lines) != len(prompts):
        raise ConfigError(f"{path} has {len(lines)} lines for {len(prompts)} prompts; a line each, in the same order")
    lacking = [lang for lang in ("zh", "en") if not any(getattr(p, lang) for p in prompts)]
    if not lacking:
        raise ConfigError(f"{path}: the suite has both languages already; leave --other-language out")
    return [replace(p, **{lacking[0]: line}) for p, line in zip(prompts, lines)]


def _named(names: Mapping[str, str]) -> Names:
    return {key: {"zh": zh, "en": key.capitalize()} for key, zh in names.items()}


_STEP = "github.com/stepfun-ai"
FORMATS = {
    f.name: f
    for f in (
        Format(
            "t2v-eval",
            "a file of 128 Chinese prompts, a line each; categories follow from line numbers",
            f"{_STEP}/Step-Video-T2V, benchmark/Step-Video-T2V-Eval",
            "MIT",
            _t2v_eval,
            {key: {"zh": zh, "en": en} for key, zh, en, _ in T2V_CATEGORIES},
        ),
        Format(
            "ti2v-eval",
            "a folder with 298 Chinese prompts (178 real-world, 120 anime), each beside its first frame",
            f"{_STEP}/Step-Video-TI2V, benchmark/Step-Video-TI2V-Eval",
            "MIT",
            _ti2v_eval,
            {key: {"zh": zh, "en": key.capitalize()} for key, zh, _ in TI2V_SUBSETS.values()},
        ),
        Format(
            "vbench",
            "VBench_full_info.json: 946 English prompts (944 different), 16 dimensions",
            "github.com/Vchitect/VBench, vbench/VBench_full_info.json",
            "Apache-2.0",
            _vbench,
        ),
        Format(
            "moviegen",
            "MovieGenVideoBenchWithTag.csv: 1,003 English prompts (998 different) in 7 groups; or the .txt without",
            "github.com/facebookresearch/MovieGenBench, benchmark/",
            "CC-BY-NC-4.0",
            _moviegen,
            _named(MOVIEGEN_GROUPS),
        ),
        Format(
            "lines",
            "any text file, a prompt a line, in the language of --lang",
            "yours",
            "",
            lambda path: _lines_in(path, "zh"),
        ),
    )
}
