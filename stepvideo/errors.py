"""Errors meant for people: each names what was wrong, the value, and the fix."""

from __future__ import annotations


class StepVideoError(Exception):
    """A failure with a message a user can act on; the CLI prints it without a traceback and exits 2."""


class ConfigError(StepVideoError):
    """An unknown key, a wrong type or an impossible value in the configuration."""


class ArtifactError(StepVideoError):
    """An artifact is missing, damaged or cannot be written."""


class StageFailed(StepVideoError):
    """A stage's job ended without a complete artifact."""


class Preempted(Exception):
    """Raised at a step boundary after the state was saved; the job exits with `EXIT_PREEMPTED`."""


class Shared(Exception):
    """An element of a job array has done its share of a stage's parts, and `missing` of the others are not there."""

    def __init__(self, missing: int) -> None:
        super().__init__(f"{missing} parts are left to the other elements")
        self.missing = missing


EXIT_PREEMPTED = 75  # EX_TEMPFAIL: "try again", which is what the driver does
