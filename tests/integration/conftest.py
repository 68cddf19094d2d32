"""One whole smoke cascade for the tests of this folder."""

from __future__ import annotations

from whole import smoke  # noqa: F401
