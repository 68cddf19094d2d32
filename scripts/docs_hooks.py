"""What mkdocs does not do by itself: pages from the code, pages from outside docs/, links to files of the repository.

`mkdocs.yml` names this file under `hooks`; mkdocs calls the functions `on_…`. Whatever is wrong is logged as a warning,
which ends a strict build.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
for folder in (str(ROOT), str(ROOT / "scripts")):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import docs_reference as reference  # noqa: E402

log = logging.getLogger("mkdocs.stepvideo")

# Files of the repository that are pages of the site.
MIRRORED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "weights/README.md": "weights.md",
    "notebooks/README.md": "notebooks.md",
}
GENERATED = {
    "reference/commands.md": reference.commands_page,
    "reference/settings.md": reference.settings_page,
    "reference/kinds.md": reference.kinds_page,
    "decisions/index.md": lambda: decisions_page(),
}
# The library's pages: title, and the modules of each. What is public there and has a docstring is shown.
LIBRARY = {
    "core": ("Stages and storage", "stage config artifact storage sink errors job"),
    "inference": (
        "Generating",
        "inference.pipeline inference.settings inference.remote.client inference.export.assemble",
    ),
    "diffusion": (
        "Diffusion",
        "diffusion.path diffusion.timesteps diffusion.guidance diffusion.solvers diffusion.schedule"
        " diffusion.objectives diffusion.sampling diffusion.config",
    ),
    "models": ("Networks", "models.dit models.video_vae models.step_llm models.clip models.rope models.config"),
    "training": (
        "Training",
        "training.config training.train training.soup training.select training.lora_files training.dpo_module"
        " training.reward_model training.optim",
    ),
    "curation": ("Curation", "curation.segment curation.config curation.measure curation.funnel curation.subsets"),
    "evaluation": (
        "Evaluation and studies",
        "evaluation.stats evaluation.pairwise evaluation.ratings evaluation.agreement evaluation.planner"
        " evaluation.manifest preference.config preference.study",
    ),
    "emulator": (
        "Emulator",
        "emulator.flops emulator.memory emulator.communication emulator.step emulator.search emulator.split",
    ),
    "pipes": ("Pipes", "pipes.registry pipes.producer pipes.consumer pipes.config pipes.item"),
    "watching": (
        "Telemetry and StepMind",
        "telemetry.recorder telemetry.views telemetry.config mind.settings mind.score",
    ),
}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^()\s]+)\)")
LIST = re.compile(r"\s*([-*]|\d+\.) ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the list of decisions."""
    numbered = sorted(p.name for p in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    decisions = ["decisions/index.md", *(f"decisions/{name}" for name in numbered)]
    config.nav = [*(config.nav or []), {"Decisions": decisions}]
    return config


def decisions_page() -> str:
    """The list of decisions, by their headings."""
    lines = []
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        heading = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{heading}]({path.name})")
    return "# Decisions\n\nWhat was chosen against the obvious, and why, a page each.\n\n" + "\n".join(lines) + "\n"


def library_page(name: str) -> str:
    title, modules = LIBRARY[name]
    return f"# {title}\n\n" + "\n\n".join(f"::: stepvideo.{m}" for m in modules.split()) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    pages = {uri: make() for uri, make in GENERATED.items()}
    pages |= {f"reference/api/{name}.md": library_page(name) for name in LIBRARY}
    pages |= {uri: (ROOT / source).read_text(encoding="utf-8") for source, uri in MIRRORED.items()}
    pages["index.md"] = f"---\nhide: [navigation]\n---\n{pages['index.md']}"  # there is but one page beside it
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    source = next((s for s, mirrored in MIRRORED.items() if mirrored == uri), f"docs/{uri}")
    return outside_code(markdown, lambda text: spaced(LINK.sub(lambda m: _link(m, source, uri, files), text)))


def outside_code(markdown: str, change: Any) -> str:
    """Apply `change` to what lies between fenced blocks."""
    parts = re.split(r"(^ *```[^\n]*\n.*?^ *```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def spaced(text: str) -> str:
    """A list or table right below a paragraph begins one, as it does elsewhere; Python-Markdown wants an empty line."""
    out: list[str] = []
    for line in text.split("\n"):
        before = out[-1] if out else ""
        begins = LIST.match(line) and not LIST.match(before) and not before.startswith((" ", "\t"))
        if begins and before.strip():
            out.append("")
        out.append(line)
    return "\n".join(out)


def _link(found: re.Match[str], source: str, uri: str, files: Files) -> str:
    """A link of a page, as the site has it. Files of the repository that are no pages are named, not linked."""
    text, target = found[1], found[2]
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return found[0]
    path, _, anchor = target.partition("#")
    named = os.path.normpath(os.path.join(os.path.dirname(source), path))
    page = MIRRORED.get(named) or (named.removeprefix("docs/") if named.startswith("docs/") else None)
    if page == "decisions":
        page = "decisions/index.md"
    if page and files.get_file_from_path(page):
        relative = os.path.relpath(page, os.path.dirname(uri) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"
    if not (ROOT / named).exists():
        log.warning("%s links to %s, which is not in the repository", source, target)
    return text if text.strip("`") in (named, Path(named).name) and "`" in text else f"{text} (`{named}`)"
