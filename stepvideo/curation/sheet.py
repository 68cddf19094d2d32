"""Kind `sheet`: a contact sheet of a curated catalog, a folder with `index.html` and `media/` that needs no network.

Counts and histograms are of all clips; clips that play are a sample, some of every fate: of each subset's, and of those
that each filter removed. What plays is the clip as training reads it, cut and cropped, made small.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stepvideo import storage
from stepvideo.curation import sheet_data, sheet_page, side_tables
from stepvideo.curation.preview import moving, poster
from stepvideo.curation.sheet_config import SheetConfig
from stepvideo.curation.sheet_data import Card, Sheet
from stepvideo.curation.verdicts import Verdicts
from stepvideo.errors import ArtifactError
from stepvideo.stage import StageContext

PAGE = "index.html"


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate; subsets and captions, if there are; all others are side tables.

    Returns:
        clips (rows of the catalog), shown.
    """
    if ctx.rank:
        return {}
    given = dict(sorted(ctx.inputs.items()))
    curate, subsets, captions = given.pop("curate"), given.pop("subsets", None), given.pop("captions", None)
    shown = _write(ctx.out, curate, subsets, given.values(), captions, ctx.config, ctx)
    return {"clips": float(shown.total), "shown": float(len(shown.cards))}


def write_report(
    out: Path,
    curate: Path,
    subsets: Path | None = None,
    tables: Iterable[Path] = (),
    captions: Path | None = None,
    config: SheetConfig | None = None,
) -> Path:
    """Write the contact sheet into the folder `out`; the page's path.

    Args:
        curate: artifact of the stage `curate`.
        subsets: artifact of the stage `subsets`; without it nothing is in or out.
        tables: artifacts with side tables, such as those of the stage `tags`.
        captions: artifact of the stage `captions`.

    Raises:
        ArtifactError: an input is missing or damaged. A clip that cannot be decoded is said on its card.
    """
    _write(out, curate, subsets, tables, captions, config or SheetConfig(), None)
    return out / PAGE


def _write(
    out: Path,
    curate: Path,
    subsets: Path | None,
    tables: Iterable[Path],
    captions: Path | None,
    config: SheetConfig,
    ctx: StageContext | None,
) -> Sheet:
    sheet, cards = sheet_data.read(curate, Verdicts.read(subsets), side_tables.find([*tables, captions]), captions)
    sheet.cards = sheet_data.spread(cards, config.clips)
    for i, card in enumerate(sheet.cards):
        _film(card, curate, out, config)
        if ctx:
            ctx.sink.progress(i + 1, len(sheet.cards), "clips")
    page = sheet_page.page(sheet, config.listed)
    storage.write_atomic(out / PAGE, page.encode("utf-8", "replace"))  # names of files may be no text
    return sheet


def _film(card: Card, curate: Path, out: Path, config: SheetConfig) -> None:
    name = f"media/{card.clip.clip_id}"
    try:
        if card.clip.kind == "clip":
            picture = moving(curate, card.clip, config.side, config.seconds, out / f"{name}.mp4")
            card.media = f"{name}.mp4"
        else:
            picture = poster(curate, card.clip, config.side)
    except ArtifactError as e:
        card.error = str(e).replace(f"{curate}/", "")
        return
    storage.write_atomic(out / f"{name}.jpg", picture)
    card.picture = f"{name}.jpg"
