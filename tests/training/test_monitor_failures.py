"""Clips that could not be decoded are counted over all ranks, and named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_flow import ToyFlow, ToyFlowSource, flow_context

from stepvideo.sink import latest_metrics, read_events
from stepvideo.training.fit import fit

BROKEN = {2: [1, 6], 5: [1]}  # step: samples of the global batch


class Broken(ToyFlowSource):
    def _batch(self, step, rows):
        batch = super()._batch(step, rows)
        return batch | {"failed": [(f"clip-{step}-{i}", "torn") for i in rows if i in BROKEN.get(step, ())]}


def _train(folder: str, stop: int = 0) -> None:
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    module = ToyFlow(8)
    module.source = Broken({})
    ctx = flow_context(Path(folder), rank, ranks, log_every=3)
    ctx.config.max_failed = 0.5
    if stop:
        module.before_step = lambda step: 1 / (step - stop)
    fit(module, ctx)


@pytest.mark.parametrize("n", [1, 2])
def test_counted_and_named_also_after_a_crash(ranks, tmp_path, n):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ranks(n, _train, str(tmp_path), 5)
    ranks(n, _train, str(tmp_path))
    rows = latest_metrics(tmp_path / "events.jsonl")
    assert {s: row.get("samples_failed") for s, row in rows.items()} == {3: 2, 4: 2, 6: 3, 8: 3}
    said = [e for e in read_events(tmp_path / "events.jsonl")[0] if e.get("name") == "samples_failed"]
    assert [(e["step"], e["times"], e["clips"]) for e in said] == [
        (3, 2, {"clip-2-1": "torn", "clip-2-6": "torn"}),
        (6, 1, {"clip-5-1": "torn"}),
    ]
