"""What measures a tag: plug-ins with a name and a version, one side table of the catalog each."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
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

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        """The files, or folders whole, that one with these weights is made from, beside packages; nothing is loaded.

        Raises Absent as `__init__` does.
        """
        ...

    def __init__(self, weights: str = "") -> None: ...

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        """One value a column; None where there is none. Depends on the clip alone."""
        ...


class Weightless:
    """Base of the backends that are computed."""

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        if weights:
            raise ValueError(f"{cls.__name__}: it has no weights, {weights!r} was given; leave it empty")
        return ()

    def __init__(self, weights: str = "") -> None:
        self.needs(weights)


def look_for(*packages: str) -> None:
    """Raises Absent if one of them is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise Absent(f"the package {missing[0]} is not installed; pip install 'stepvideo[curate]'")
