"""What is known of a clip before anyone describes it: measured tags under one name each, and the world's truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.curation.captioning.camera import Movement, movement
from stepvideo.data.clips import Clip
from stepvideo.errors import ArtifactError
from stepvideo.world.attributes import NAMES, Attrs


@dataclass(frozen=True)
class Facts:
    """Measured, or given with the clip; None: nobody measured it.

    Attributes:
        seconds: length; 0 for a still.
        still: one picture, no video.
        camera: how the camera moves.
        motion: mean flow, in pixels a second at 128 lines (`motion_rate`).
        saturation: mean, 0 (grey) to 255.
        grey: whether the picture has no colour at all.
        brightness: mean, 0 (black) to 255.
        text: what is written in the picture; "" where none was found.
        frozen: whether the clip's frames are all alike.
        objects: the generated world's own description of the clip.
    """

    seconds: float = 0.0
    still: bool = False
    camera: Movement | None = None
    motion: float | None = None
    saturation: float | None = None
    grey: bool | None = None
    brightness: float | None = None
    text: str | None = None
    frozen: bool | None = None
    objects: tuple[Attrs, ...] = ()


def facts(clip: Clip, tags: Mapping[str, Any]) -> Facts:
    """The facts of a clip; `tags` are its columns of the side tables, by name."""
    still = clip.kind != "clip"
    objects = tuple(o for a in clip.attributes or [] if (o := _object(a)))
    return Facts(
        seconds=0.0 if still or not clip.fps else clip.frames / clip.fps,
        still=still,
        camera=movement(tags.get("camera") or "") if not still else None,
        motion=None if still else clip.tags.get("motion_rate"),
        saturation=clip.tags.get("saturation_mean"),
        grey=tags.get("greyscale"),
        brightness=tags.get("brightness_mean"),
        text=tags.get("text"),
        frozen=None if still else tags.get("frozen"),
        objects=tuple(o.still() for o in objects) if still else objects,
    )


def read_tags(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """clip id → column → value, over every `tables/*.parquet` of the artifacts; columns of vectors are left out.

    Raises:
        ArtifactError: a table cannot be read or has no `clip_id`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, dict[str, Any]] = {}
    for path in (p for folder in folders for p in sorted(Path(folder).glob("tables/*.parquet"))):
        try:
            schema = pq.read_schema(path)
            names = [n for n in schema.names if not pa.types.is_list(schema.field(n).type)]
            for row in pq.read_table(path, columns=names).to_pylist():
                found.setdefault(row["clip_id"], {}).update(row)
        except (OSError, pa.ArrowInvalid, KeyError) as e:
            raise ArtifactError(f"{path} is no side table of a catalog: {e}") from e
    return found


def _object(attributes: Mapping[str, Any]) -> Attrs | None:
    """None where a sidecar's attributes are not the world's."""
    try:
        return Attrs.from_dict({name: attributes[name] for name in NAMES})
    except (KeyError, ValueError):
        return None
