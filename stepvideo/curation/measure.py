"""A clip decoded once and given to every backend that is to measure it. What a worker of the stage `tags` runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.curation.backends import Backend
from stepvideo.curation.clip_frames import ClipFrames, Window
from stepvideo.errors import ArtifactError

LOST, DETAIL = "lost", "detail"  # of a row without values: a reason and what there is to say
UNREADABLE = "unreadable"  # the one reason that is the clip's alone, and not the machine's
Row = dict[str, Any]
Measured = tuple[str, dict[str, Row]]  # clip id, table → row


@dataclass(frozen=True)
class Table:
    """A side table that was asked for, with all that its values follow from but the clips."""

    name: str
    made_by: type[Backend]
    weights: str
    key: str


@dataclass(frozen=True)
class Order:
    """A clip, and the tables to measure it for; for none it is only decoded."""

    clip_id: str
    window: Window
    tables: tuple[Table, ...] = ()


def work(orders: Sequence[Order], root: Path, samples: int) -> list[Measured]:
    """For every order a row a table: its columns, or `lost` and `detail`.

    Args:
        root: of the catalog.
        samples: frames of a clip that backends see in colour.

    Raises:
        Absent and whatever else keeps a backend from being made: no clip is to blame.
    """
    return [_measured(order, root, samples) for order in orders]


def lost(order: Order, reason: str, detail: str) -> Measured:
    return order.clip_id, {t.name: {LOST: reason, DETAIL: detail} for t in order.tables}


def _measured(order: Order, root: Path, samples: int) -> Measured:
    backends = {t.name: _made(t) for t in order.tables}
    window = order.window
    try:
        seen = ClipFrames.of(order.clip_id, window.frames, window.pictures(root), window.fps, samples)
    except ArtifactError as e:
        return lost(order, UNREADABLE, str(e).replace(str(root), "curate"))
    except MemoryError:
        return lost(order, "memory", "its frames do not fit into a worker's memory")
    except Exception as e:  # one odd clip must not stop the others
        return lost(order, "error", f"{type(e).__name__}: {e}".replace(str(root), "curate"))
    return order.clip_id, {name: _row(backend, seen) for name, backend in backends.items()}


def _row(backend: Backend, clip: ClipFrames) -> Row:
    try:
        return dict(backend(clip))
    except MemoryError:
        return {LOST: "memory", DETAIL: f"{type(backend).__name__} needs more than a worker's memory"}
    except Exception as e:
        return {LOST: "error", DETAIL: f"{type(backend).__name__}: {type(e).__name__}: {e}"}


@functools.cache
def _made(table: Table) -> Backend:
    """Once a worker: networks are loaded here."""
    return table.made_by(table.weights)
