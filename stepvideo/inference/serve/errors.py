"""What the service refuses; each error knows its HTTP status."""

from __future__ import annotations

from stepvideo.errors import StepVideoError


class Refused(StepVideoError):
    """The request cannot be met as it is."""

    status = 422


class NotFound(Refused):
    status = 404


class Conflict(Refused):
    """It contradicts what was asked before, or comes too late."""

    status = 409


class QueueFull(Refused):
    """`retry_after`: seconds after which a place may be free."""

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Stopping(Refused):
    status = 503
