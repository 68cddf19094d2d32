"""Anomalies of the job as a whole, as they happen: slower than before, slower than predicted, starved, interrupted."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepvideo.telemetry.anomalies import Anomaly, Bars, median, step_seconds
from stepvideo.telemetry.places import RUN, Layout
from stepvideo.telemetry.sections import DATA_WAIT, STEP, is_part, pause, waits
from stepvideo.telemetry.sequential import Growth, log_threshold

Array = NDArray[np.float64]
WINDOW = 50  # steps of which shares and ratios are
OFTEN = 0.1  # share of steps with unexplained spikes that is worth a warning
FEW = 0.1  # share of ranks that a spike of few ranks has at most


class Progress:
    """Fed every step, in constant memory. One false `throughput_regression` in `horizon` steps has a probability of at
    most `alpha` while step times are exchangeable (`sequential.Growth`); the other kinds are rules."""

    def __init__(self, layout: Layout, bars: Bars | None = None) -> None:
        self.layout, self.bars = layout, bars or Bars()
        self.growth = Growth(self.bars.margin)
        self.recent: deque[float] = deque(maxlen=4 * WINDOW)  # seconds of usual steps
        self.ratios: deque[float] = deque(maxlen=WINDOW)
        self.waited: deque[float] = deque(maxlen=WINDOW)
        self.spiked: deque[bool] = deque(maxlen=2 * WINDOW)
        self.usual: dict[str, float] = {}  # section: running mean of its seconds
        self.past: dict[str, float] = {}  # section: a mean with a ten times longer memory
        self.told: set[str] = set()

    def step(self, step: int, seconds: Mapping[str, ArrayLike], predicted: float = 0.0) -> list[Anomaly]:
        """One step: seconds of each section on every rank (NaN where absent), and what was predicted of it, if known.

        The first step should be left out: it warms up.
        """
        given = {name: np.asarray(v, np.float64) for name, v in seconds.items()}
        given = {name: v for name, v in given.items() if np.isfinite(v).any()}
        if not given:
            return []
        took = float(np.nanmax(step_seconds(given)))
        if len(self.recent) >= WINDOW // 5 and took > self.bars.spike * float(np.median(self.recent)):
            return self._spike(step, given, took)
        self.spiked.append(False)
        self.recent.append(took)
        self._remember(given)
        found = self._regression(step, took, predicted)
        found += self._prediction(step, took, predicted)
        return found + self._starvation(step, given, took)

    def _remember(self, given: Mapping[str, Array]) -> None:
        for name, values in given.items():
            now = median(values)
            for means, weight in ((self.usual, 0.1), (self.past, 0.01)):
                before = means.get(name, now)
                means[name] = before + weight * (now - before)

    def _regression(self, step: int, took: float, predicted: float) -> list[Anomaly]:
        self.growth.update(step, took / predicted if predicted else took)
        if self.growth.level < log_threshold(1, self.bars.horizon, self.bars.alpha):
            return []
        since, past = self.growth.since, self.growth.past
        new = max(1, step - since + 1)
        ratio = float(np.median(past[-new:]) / np.median(past[:-new] or past))
        self.growth.restart(past[-new:])
        grown = {n: self.usual[n] - self.past[n] for n in self.usual if is_part(n) and not waits(n)}
        section = max(grown, key=lambda n: grown[n], default="")
        evidence = {"slower": ratio - 1, "section": section, "step_s": took}
        text = "look at what changed at that step: a restart on other nodes, code, data, or a setting"
        return [Anomaly("throughput_regression", RUN, since, evidence, text)]

    def _prediction(self, step: int, took: float, predicted: float) -> list[Anomaly]:
        if not predicted:
            return []
        self.ratios.append(took / predicted)
        ratio = float(np.median(self.ratios))
        text = "see the breakdown for what takes longer than the emulator says, or calibrate it on this device"
        evidence = {"measured_over_predicted": ratio, "predicted_step_s": predicted}
        over = len(self.ratios) == WINDOW and ratio > 1 + self.bars.slower
        return self._once("below_prediction", over, step - WINDOW + 1, evidence, text)

    def _starvation(self, step: int, given: Mapping[str, Array], took: float) -> list[Anomaly]:
        if DATA_WAIT not in given:
            return []
        self.waited.append(median(given[DATA_WAIT]) / took)
        share = float(np.mean(self.waited))
        text = "more loader workers or prefetch, faster storage, or a cache of latents"
        over = len(self.waited) == WINDOW and share > self.bars.starved
        began = next((i for i, w in enumerate(self.waited) if w > self.bars.starved), 0)
        return self._once("data_starvation", over, step - WINDOW + 1 + began, {"share_of_step": share}, text)

    def _once(self, kind: str, over: bool, since: int, evidence: dict[str, float], text: str) -> list[Anomaly]:
        """When it begins; again only after it was over."""
        if not over:
            self.told.discard(kind)
            return []
        if kind in self.told:
            return []
        self.told.add(kind)
        return [Anomaly(kind, RUN, max(1, since), evidence, text)]

    def _spike(self, step: int, given: Mapping[str, Array], took: float) -> list[Anomaly]:
        excess = {
            name: values - self.usual.get(name, 0.0)
            for name, values in given.items()
            if name != STEP and not waits(name)
        }
        worst = {name: float(np.nanmax(v)) for name, v in excess.items()}
        section = max(worst, key=lambda n: worst[n], default="")
        over = took - float(np.median(self.recent))
        evidence: dict[str, object] = {"step_s": took, "section": section, "cause": "unknown"}
        where = RUN
        if worst.get(section, 0.0) >= over / 2:
            hit = np.flatnonzero(excess[section] > over / 2)
            evidence["cause"] = pause(section) or ("data" if section == DATA_WAIT else "everybody")
            if len(hit) <= FEW * len(self.layout.ranks) and evidence["cause"] in ("everybody", "data"):
                evidence["cause"] = "data of few ranks" if section == DATA_WAIT else "few ranks"
                where = self.layout.rank(self.layout.ranks[int(np.nanargmax(excess[section]))])
        meant = bool(pause(section))
        self.spiked.append(not meant)
        note = Anomaly("spike", where, step, evidence, "a pause that is meant" if meant else HINT, "note")
        if len(self.spiked) == 2 * WINDOW:
            share = sum(self.spiked) / len(self.spiked)
            first = step - 2 * WINDOW + 1
            return [note, *self._once("spikes", share > OFTEN, first, {"share_of_steps": share}, HINT)]
        return [note]


HINT = "garbage collection, a storage hiccup or a retried collective, unless it comes often"
