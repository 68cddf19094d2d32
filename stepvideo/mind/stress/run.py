"""A node's stress test: every test of the machine, and of its ranks together, short or long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepvideo.errors import ConfigError
from stepvideo.mind.stress.expectations import Expectation, Verdict, judge, learn
from stepvideo.storage import read_json, write_json


@dataclass(frozen=True)
class Profile:
    """seconds: of each test; passes: of all of them, the worst counts; ranks: of the group on a CPU (a GPU: all)."""

    seconds: float
    passes: int = 1
    ranks: int = 2


PROFILES = {
    "quick": Profile(0.05),
    "short": Profile(2.0),
    "long": Profile(60.0, passes=20),  # the load test: nearly three hours
}
GROUP_S = 120.0
BITS = "gemm_repeats"  # 1 or nothing: needs no fleet to be held against


def profile(name: str) -> Profile:
    """Raises ConfigError: no such profile."""
    if name not in PROFILES:
        raise ConfigError(f"no stress profile {name}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def measure(kind: str, wanted: Profile, folder: Path) -> dict[str, float]:
    """The worst of all passes of every test; a group of ranks that fails measures 0.

    Args:
        kind: auto, cpu or cuda.
        folder: on the disk that is tested.
    """
    from stepvideo.emulator.calibrate import device_of
    from stepvideo.mind.stress import single

    device = device_of(kind)
    worst = group(device.type, wanted)  # first: its ranks are forks of a process that has no threads yet
    for _ in range(wanted.passes):
        found: dict[str, float] = {}
        for test in single.ON_DEVICE.values():
            found |= test(device, wanted.seconds)
        found |= single.disk(folder, wanted.seconds)
        worst |= {name: min(value, worst.get(name, value)) for name, value in found.items()}
    return worst


def group(kind: str, wanted: Profile) -> dict[str, float]:
    """Exchanges among ranks on this machine: links between its GPUs, or the loopback. {}: it has one GPU."""
    from stepvideo.mind.stress.group import SIZES, run_group

    ranks = wanted.ranks
    if kind == "cuda":
        import torch

        ranks = torch.cuda.device_count()
        if ranks < 2:
            return {}
    seconds = wanted.seconds * wanted.passes
    found = run_group(ranks, seconds, GROUP_S + 4 * len(SIZES) * seconds, kind == "cuda")
    return {f"{name}_gbs": found.get(name, 0.0) for name in SIZES}


def held(measured: Mapping[str, float], expected: Mapping[str, Expectation], tolerance: float) -> list[Verdict]:
    """Verdicts; that products repeat needs no expectation, nor that a group works at all."""
    verdicts = judge({k: v for k, v in measured.items() if k != BITS}, expected, tolerance)
    verdicts = [Verdict(v.test, v.value, False) if v.ok is None and v.value <= 0 else v for v in verdicts]
    if BITS in measured:
        verdicts.append(Verdict(BITS, measured[BITS], measured[BITS] == 1.0, measured[BITS]))
    return verdicts


class Expectations:
    """A file of what kinds of machines reach: {"KIND PROFILE": {test: expectation}}."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, kind: str) -> dict[str, Expectation]:
        return {test: Expectation(**row) for test, row in self._read().get(kind, {}).items()}

    def learn(self, kind: str, samples: Mapping[str, Mapping[str, float]], least: int = 3) -> dict[str, Expectation]:
        """From what nodes of a kind measured, and writes it."""
        found = learn(samples, least)
        write_json(self._path, {**self._read(), kind: {test: asdict(e) for test, e in found.items()}})
        return found

    def _read(self) -> dict[str, Any]:
        return read_json(self._path) if self._path.exists() else {}


def device_kind(name: str) -> str:
    """What machines are compared with each other by: the GPU's name, or the CPU's kind."""
    from stepvideo.emulator.calibrate import device_name, device_of

    return device_name(device_of(name))


def timed(kind: str, name: str, folder: Path) -> tuple[dict[str, float], float]:
    """What a profile measures, and how long it took."""
    begun = time.monotonic()
    return measure(kind, profile(name), folder), time.monotonic() - begun
