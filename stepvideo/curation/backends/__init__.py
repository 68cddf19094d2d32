"""What measures a tag: plug-ins with a name and a version, one side table of the catalog each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.errors import StepVideoError


class Absent(StepVideoError):
    """A backend cannot work here: its weights or its package are not there. Its tags are null, with this reason."""


class Backend(Protocol):
    """Made once a worker, `Backend(weights, **options)`; called once a clip.

    Attributes:
        version: another one whenever the values change for the same pictures; it is in the catalog.
        columns: name → Arrow type ("double", "int32", "string", "bool", "list<float>").
        note: what a reader of the numbers must know, such as that it stands in for a large network.

    Raises (when it is made):
        Absent: without what it needs.
    """

    version: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    note: ClassVar[str]

    def __init__(self, weights: str = "") -> None: ...

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        """One value a column; None where there is none. Depends on the clip alone."""
        ...
