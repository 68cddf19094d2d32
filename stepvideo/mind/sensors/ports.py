"""InfiniBand and RoCE ports, from sysfs: state, traffic, how often the link went down within the last hour."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from stepvideo.mind.sensors.rate import Rate

WORD = 4  # bytes; port_*_data count such words
HOUR_S = 3600.0


class Ports:
    """Ports that were active once and are not any more are broken; one that never was may not be cabled."""

    def __init__(self, root: Path = Path("/sys/class/infiniband")) -> None:
        self._ports = sorted(root.glob("*/ports/*"))
        self._rates = {port: Rate() for port in self._ports}
        self._active: set[Path] = set()
        self._downs: dict[Path, deque[tuple[float, int]]] = {port: deque() for port in self._ports}

    def read(self, now: float) -> dict[str, Any]:
        """{rdma: {"mlx5_0/1": {state, was_active, downs, traffic: bytes/s or None}}}; {} without such a port."""
        return (
            {"rdma": {f"{p.parents[1].name}/{p.name}": self._port(p, now) for p in self._ports}} if self._ports else {}
        )

    def _port(self, port: Path, now: float) -> dict[str, Any]:
        state = _text(port / "state").partition(": ")[2] or "GONE"
        if state == "ACTIVE":
            self._active.add(port)
        counts = [_number(port / "counters" / name) for name in ("port_xmit_data", "port_rcv_data")]
        seen = {"state": state, "was_active": port in self._active, "downs": self._down(port, now)}
        return seen | {"traffic": self._rates[port](now, sum(counts) * WORD)}

    def _down(self, port: Path, now: float) -> int:
        history, count = self._downs[port], _number(port / "counters" / "link_downed")
        history.append((now, count))
        while history[0][0] < now - HOUR_S:
            history.popleft()
        return max(count - history[0][1], 0)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0
