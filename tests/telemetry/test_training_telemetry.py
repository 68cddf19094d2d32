"""A training's telemetry: all tables of every rank, the same result with it and without, and what a resume does."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
import torch
from toy_flow import BATCH, CONFIG, ToyFlow, flow_context

from stepvideo import storage
from stepvideo.data.sources import catalog_of, load_sources, source_name
from stepvideo.errors import Preempted
from stepvideo.stage import StageContext
from stepvideo.telemetry.config import TelemetryConfig
from stepvideo.telemetry.recorder import OFF
from stepvideo.telemetry.schema import FOLDER, parts
from stepvideo.telemetry.ship import ship
from stepvideo.training.fit import fit
from stepvideo.training.module import write_curve
from stepvideo.training.monitor.consumed import Consumption
from stepvideo.training.monitor.cost import DiTCost
from stepvideo.training.monitor_config import GuardConfig
from stepvideo.training.recording import next_attempt

STEPS = 10
TOLD = {"data_wait", "to_device", "forward", "backward", "grad_reduce", "grad_sync", "optimizer"}  # of every step


class Killed(BaseException):
    """Like kill -9: nothing of ours may run after it."""


def train(module: ToyFlow, ctx: StageContext) -> str:
    """Train and hand over; the digest of all that is in the artifact."""
    net = fit(module, ctx, cost=DiTCost(CONFIG))["net"]
    torch.save(net.state_dict(), ctx.out / "net.pt")
    write_curve(module, ctx)
    files = storage.checksums(ctx.out)
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def rows(folder: Path, table: str, what: str, rest: str = "") -> list[tuple]:
    ship(folder)
    files = [str(p) for p in parts(folder, table)]
    asked = f"select {what} from read_parquet($1, hive_partitioning = false) {rest}"
    return duckdb.execute(asked, [files]).fetchall()


def test_the_artifact_is_the_same_with_telemetry_and_without(tmp_path):
    on = flow_context(tmp_path / "on")
    off = flow_context(tmp_path / "off", telemetry=TelemetryConfig(enabled=False))
    module = ToyFlow(STEPS)
    assert train(ToyFlow(STEPS), on) == train(module, off)
    assert module.recorder is OFF and not (tmp_path / "off" / FOLDER).exists()
    folder = tmp_path / "on" / FOLDER
    spans = rows(folder, "span", "step, name, parent, duration_ns")
    for step in range(1, STEPS + 1):
        mine = {name: (parent, took) for n, name, parent, took in spans if n == step}
        assert set(mine) == TOLD | {"step"} | ({"checkpoint"} if step in (4, 8, 10) else set())
        ends = {name for name, (parent, _) in mine.items() if parent == ""}
        assert ends == set(mine) - TOLD, "a step, and after it its checkpoint"
        assert sum(took for parent, took in mine.values() if parent == "step") <= mine["step"][1]
    assert {n for n, *_ in spans} == set(range(1, STEPS + 1))
    counters = rows(folder, "counter", "step, name, value", "order by step")
    assert [(s, v) for s, name, v in counters if name == "samples"] == [(s, BATCH) for s in range(1, STEPS + 1)]
    assert {v for _, name, v in counters if name == "tokens"} == {BATCH * 12.0}
    assert {(0, "parallel.tensor", 1.0), (0, "parallel.ulysses", 1.0)} <= set(counters)
    samples = rows(folder, "sample", "step, sample_id, tokens")
    assert sorted(samples) == sorted((s, f"clip-{s - 1}-{i}", 12) for s in range(1, STEPS + 1) for i in range(BATCH))


def latest(folder: Path) -> Counter[tuple[int, str]]:
    """(step, clip) of every consumed sample, of the newest attempt at its step."""
    found = rows(folder, "sample", "step, sample_id", "qualify attempt = max(attempt) over (partition by stage, step)")
    return Counter(found)


def test_a_killed_training_repeats_steps_under_another_attempt(tmp_path):
    broken = ToyFlow(STEPS)

    def die(step: int) -> None:
        if step == 6:
            raise Killed

    broken.before_step = die
    with pytest.raises(Killed):
        fit(broken, flow_context(tmp_path))
    fit(ToyFlow(STEPS), flow_context(tmp_path))
    folder = tmp_path / FOLDER
    done = rows(folder, "span", "attempt, list(step order by step)", "where name = 'optimizer' group by 1 order by 1")
    assert done == [(1, [1, 2, 3, 4, 5, 6]), (2, [5, 6, 7, 8, 9, 10])]
    assert latest(folder) == Counter((s, f"clip-{s - 1}-{i}") for s in range(1, STEPS + 1) for i in range(BATCH))


def test_a_checkpoint_is_not_begun_before_its_steps_are_recorded(tmp_path, monkeypatch):
    from stepvideo.training.checkpoint import Checkpointer

    found: list[int] = []
    real = Checkpointer.save

    def save(self, step, state):  # as a reader sees it when the process is killed now
        (segment,) = (tmp_path / FOLDER / "segments").glob("*.open")
        found.append(segment.read_bytes().count(f"clip-{step - 1}-7".encode()))
        return real(self, step, state)

    monkeypatch.setattr(Checkpointer, "save", save)
    fit(ToyFlow(STEPS), flow_context(tmp_path))
    assert found == [1, 1, 1]


def test_preemption_and_rollback_are_attempts_too(tmp_path):
    ctx = flow_context(tmp_path / "stopped")
    module = ToyFlow(STEPS)
    module.before_step = lambda step: ctx.stop.set() if step == 2 else None
    with pytest.raises(Preempted):
        fit(module, ctx)
    fit(ToyFlow(STEPS), flow_context(tmp_path / "stopped"))
    folder = tmp_path / "stopped" / FOLDER
    done = rows(folder, "span", "attempt, min(step), max(step)", "where name = 'step' group by 1 order by 1")
    assert done == [(1, 1, 3), (2, 4, STEPS)]

    guard = GuardConfig(spike="rollback", min_history=8, window=8)
    fit(ToyFlow(16, bad={11: 1e6}), flow_context(tmp_path / "spike", guard=guard))
    folder = tmp_path / "spike" / FOLDER
    done = rows(folder, "span", "attempt, min(step), max(step)", "where name = 'forward' group by 1 order by 1")
    assert done == [(1, 1, 12), (2, 9, 16)]
    assert set(latest(folder).values()) == {1} and len(latest(folder)) == 16 * BATCH


def test_a_telemetry_folder_that_cannot_be_made_does_not_stop_training(tmp_path, capsys):
    ctx = flow_context(tmp_path)
    (tmp_path / FOLDER).write_text("in the way")
    module = ToyFlow(STEPS)
    fit(module, ctx)
    assert module.done == STEPS and "telemetry: cannot write" in capsys.readouterr().err


def _on_a_rank(folder: str) -> list[int]:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dropped = []
    for _ in range(2):  # the second one goes on from the last checkpoint: no step is left to do
        module = ToyFlow(2)
        fit(module, flow_context(Path(folder), rank, ranks), cost=DiTCost(CONFIG))
        dropped.append(module.recorder.dropped)
    return dropped


def test_every_rank_records_and_each_sample_is_told_once(ranks, tmp_path):
    assert ranks(2, _on_a_rank, str(tmp_path)) == [[0, 0]] * 2
    folder = tmp_path / FOLDER
    steps = rows(folder, "span", "rank, attempt, count(*)", "where name = 'step' group by all order by all")
    assert steps == [(0, 1, 2), (1, 1, 2)]
    begun = rows(folder, "counter", "rank, attempt", "where name = 'parallel.tensor' order by all")
    assert begun == [(0, 1), (0, 2), (1, 1), (1, 2)], "the ranks agree on the attempt"
    samples = rows(folder, "sample", "step, sample_id, rank")
    assert sorted(samples) == sorted((s, f"clip-{s - 1}-{i}", i % 2) for s in (1, 2) for i in range(BATCH))


def test_ranks_that_compute_on_the_same_samples_tell_them_once():
    def tells(rank: int, tensor: int) -> bool:
        parallel = SimpleNamespace(rank=rank, world_size=4, data_size=4 // tensor)
        return Consumption(OFF, parallel, {}).tells  # type: ignore[arg-type]

    assert [tells(r, 1) for r in range(4)] == [True] * 4
    assert [tells(r, 2) for r in range(4)] == [True, False, True, False]


def test_attempts_are_counted_by_run_and_stage(tmp_path):
    assert [next_attempt(tmp_path, "a", "t2i") for _ in range(3)] == [1, 2, 3]
    assert next_attempt(tmp_path, "a", "sft") == 1 and next_attempt(tmp_path, "b", "t2i") == 1


def test_sources_come_from_the_catalog_behind_the_subsets(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    catalog = tmp_path / "curate" / "1f" / "out"
    catalog.mkdir(parents=True)
    files = {"c1": ("raw", "holiday/a/1.mp4"), "c2": ("world", "2.mp4"), "c3": ("raw", "holiday/3.mp4")}
    role, file = zip(*files.values(), strict=True)
    table = {"clip_id": list(files), "source_role": role, "source_file": file}
    pq.write_table(pa.table(table), catalog / "catalog.parquet")
    subsets = tmp_path / "subsets" / "2e" / "out"
    subsets.mkdir(parents=True)
    assert catalog_of({"subsets": subsets}) is None and catalog_of({}) is None
    made_of = {"inputs": {"curate": {"stage": "curate", "key": "1f", "digest": "…"}}}
    storage.write_json(subsets.parent / "manifest.json", made_of)
    assert catalog_of({"subsets": subsets}) == catalog == catalog_of({"curate": catalog})
    assert load_sources(catalog) == {"c1": "raw/holiday", "c2": "world", "c3": "raw/holiday"}
    assert source_name(None, None) == ""
    monkeypatch.setattr("stepvideo.data.sources.MOST_CLIPS", 2)
    with pytest.raises(ValueError, match="3 clips, more than 2"):
        load_sources(catalog)
