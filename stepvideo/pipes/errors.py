"""What goes wrong at a pipe."""

from __future__ import annotations

from stepvideo.errors import StepVideoError


class PipeError(StepVideoError):
    """A pipe cannot do what was asked."""


class WireError(PipeError):
    """A peer sent what no peer of ours sends: its connection is given up."""


class Replaced(PipeError):
    """A later life of the same name has joined; this one has to stop."""
