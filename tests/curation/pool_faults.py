"""Workers that fail on purpose; imported by pool processes."""

from __future__ import annotations

import os
import time


def work(items: list[str]) -> list[str]:
    for item in items:
        if item == "abort":
            os.abort()
        if item == "hang":
            time.sleep(600)
        if item == "raise":
            raise OSError("disk full")
    return [item.upper() for item in items]
