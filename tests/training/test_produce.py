"""A producer's own life: when there is nothing to produce for, when a pack is too large, when its disk is full."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import streamed_run
import torch

from stepvideo.data.feed import Feed, Wish
from stepvideo.data.feed_config import FeedConfig
from stepvideo.errors import ConfigError
from stepvideo.sink import NullSink
from stepvideo.training import produce, produce_command
from stepvideo.training.config import ProduceConfig
from stepvideo.training.streaming import stop_alone

WISH = Wish("t2vi", 0, 1, "x", "p", 1, 9, 2)


def server(folder: Path, stop: threading.Event, **feed: float) -> produce._Server:
    cfg = ProduceConfig(folder=str(folder))
    cfg.train.runtime.feed = FeedConfig(lease_s=0.1, **feed)
    ctx = SimpleNamespace(sink=NullSink(), should_stop=stop.is_set)
    work = SimpleNamespace(digest="p", encoder=SimpleNamespace(batches=0, samples=0))
    return produce._Server(ctx, cfg, "a", work)


def test_one_whose_turn_comes_after_the_end_of_its_stage_ends_at_once(tmp_path):
    said = []
    sink = SimpleNamespace(event=lambda name, **_: said.append(name))
    out = tmp_path / "out"
    out.mkdir()
    cfg = ProduceConfig(folder=str(tmp_path / "work" / "feed"))
    assert produce.run(SimpleNamespace(config=cfg, sink=sink, out=out)) == {}
    assert said == ["no_stage"] and not (tmp_path / "work").exists() and (out / "produced.json").exists()


def test_none_is_started_by_hand_for_a_stage_that_is_complete(tmp_path):
    stage = streamed_run._spec({}, tmp_path, "t2vi", "train", {**_config(), "seed": 0}, tmp_path / "t2vi" / "key")
    (stage / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="is complete"):
        produce_command.call(argparse.Namespace(stage=stage, name="by-hand"))
    assert not (stage / "work").exists() and not (stage / "producers").exists()


def test_a_pack_that_is_larger_than_the_window_is_told_by_the_name_of_the_setting(tmp_path):
    Feed(tmp_path, 0.1)
    one = server(tmp_path, threading.Event(), window_mb=1)
    with pytest.raises(ConfigError, match=r"pack 3 of step 2 takes 2.0 MiB, above runtime.feed.window_mb=1: raise it"):
        one._send((2, 3), {"llm": torch.zeros(2 << 20, dtype=torch.uint8)}, {}, [WISH])


def test_a_full_disk_for_a_moment_is_no_death(tmp_path, monkeypatch):
    feed, stop, full, renew = Feed(tmp_path, 0.1), threading.Event(), threading.Event(), Feed.beat
    full.set()

    def beat(self: Feed, name: str, about: dict) -> None:
        if full.is_set():
            full.clear()
            raise OSError(28, "No space left on device")
        renew(self, name, about)
        stop.set()

    monkeypatch.setattr(Feed, "beat", beat)
    killer = threading.Timer(5, stop.set)
    killer.start()
    server(tmp_path, stop).serve()
    killer.cancel()
    assert not full.is_set() and killer.finished.is_set()
    assert feed.producers() == {}, "it left"


def test_one_rank_of_several_does_not_leave_the_others_in_a_collective():
    def asked(ranks: int) -> bool:
        return stop_alone(SimpleNamespace(world_size=ranks, should_stop=lambda: True))  # type: ignore[arg-type]

    assert asked(1) and not asked(2)


def test_a_producer_imports_no_lightning():
    """Which took two thirds of its start, beside every stage that is streamed."""
    seen = "import sys, stepvideo.training.produce; print('lightning' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def _config() -> dict:
    from stepvideo.config import dump, load
    from stepvideo.training.config import TrainConfig

    runtime = {**streamed_run.CONFIG["runtime"], "data": "streamed", "feed": streamed_run.FEED}
    return dump(load(TrainConfig, {**streamed_run.CONFIG, "runtime": runtime}, "t2vi"))
