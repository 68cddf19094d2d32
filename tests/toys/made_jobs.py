"""A made job for StepMind: healthy by default, and whatever a test makes of it. No clock, no cluster."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from stepvideo.mind.decide import Action, Decision, Mind, Policy
from stepvideo.mind.signals import NodeView, Observation

BUSY = {"compute": 600.0, "traffic": 40e6, "storage": 0.0}
IDLE = {"compute": 90.0, "traffic": 0.0, "storage": 0.0}
NODES = ("a", "b", "c", "d")


class Job:
    """Steps of `step_s` on four nodes, observed every second; `tick` gives what the mind decided."""

    def __init__(self, policy: Policy | None = None, step_s: float = 0.5, seed: int = 0) -> None:
        self.mind, self.step_s = Mind(policy), step_s
        self.now, self.step, self.checkpoints, self.logged = 1000.0, 0.0, 0, 0.0
        self.rng = random.Random(seed)

    def view(self, name: str, gauges: Mapping[str, float]) -> NodeView:
        noisy = {k: v * self.rng.uniform(0.9, 1.1) for k, v in gauges.items()}
        return NodeView(name, age_s=self.rng.uniform(0.1, 1.2), processes=8, gauges=noisy)

    def tick(
        self,
        gauges: Mapping[str, float] = BUSY,
        steps: bool = True,
        seconds: float = 1.0,
        change: Callable[[dict[str, NodeView]], None] = lambda views: None,
        log: bool | None = None,
    ) -> Decision:
        """`change` alters the views of the nodes; `log`: whether something was logged, by default as `steps`."""
        self.now += seconds
        if steps:
            self.step += seconds / self.step_s
        if steps if log is None else log:
            self.logged += 1
        views = {name: self.view(name, gauges) for name in NODES}
        change(views)
        return self.mind.observe(Observation(self.now, self.logged, int(self.step), self.checkpoints, views))

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            assert self.tick().action == Action.WAIT


def alter(name: str, **changes) -> Callable[[dict[str, NodeView]], None]:
    """Of one node, or of all of them ("*")."""

    def change(views: dict[str, NodeView]) -> None:
        for each in views if name == "*" else (name,):
            views[each] = replace(views[each], **changes)

    return change
