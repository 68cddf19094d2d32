"""Config of telemetry (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TelemetryConfig:
    """Timers and data statistics of a training, of every rank (docs/telemetry.md). Changes nothing of its result."""

    enabled: bool = True
    folder: str = ""  # for segments; a disk of the node is better than a shared one. By default STORE/_telemetry
