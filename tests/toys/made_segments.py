"""Made telemetry as ranks write it: segments that grow."""

from __future__ import annotations

import time
from pathlib import Path

from made_training import Made, durations

from stepvideo.telemetry.frames import encode, encode_identity
from stepvideo.telemetry.segments import FOLDER


class Ranks:
    """All ranks of a made training. opened: s since 1970, when their segments were."""

    def __init__(self, folder: Path, made: Made, degrees: bool = True, opened: float | None = None) -> None:
        """degrees: whether they tell them, as they do at the start of an attempt."""
        self.made, self.done, self._found = made, 0, durations(made)
        self.opened = time.time() if opened is None else opened
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        told = [(0, f"parallel.{name}", 0, n) for name, n in (("tensor", float(made.tensor)), ("ulysses", 1.0))]
        self._paths = []
        for rank in range(made.ranks):
            who = {"run": made.run, "stage": made.stage, "rank": rank, "node": made.node(rank)}
            head = encode_identity({**who, "attempt": made.attempt}, int(self.opened * 1e9))
            self._paths.append(folder / FOLDER / f"r{rank:05d}-{made.attempt}-000001.open")
            self._paths[-1].write_bytes(head + (encode("counter", told) if degrees else b""))

    def write(self, steps: int) -> None:
        """The next so many."""
        names = [
            (name, name.split("/")[0], name.partition("/")[2] or ("" if name == "step" else "step"))
            for name in self._found
        ]
        for rank, path in enumerate(self._paths):
            rows = [
                (self.made.first + i, name, parent, 0, int(self._found[key][i, rank] * 1e6), "cpu")
                for i in range(self.done, min(self.done + steps, self.made.steps))
                for key, name, parent in names
            ]
            with path.open("ab") as f:
                f.write(encode("span", rows))
        self.done += steps
