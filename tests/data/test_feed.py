"""Who wants what and who makes it; what a rank keeps of what comes; how many producers the rates ask for."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepvideo.data.feed import Feed, Wish, _Alive
from stepvideo.data.feed_config import FeedConfig, feed_folder
from stepvideo.data.feed_rates import Rates, Told, producers_wanted
from stepvideo.data.inlet import Inlet
from stepvideo.data.unit import Sample, packed, unpacked
from stepvideo.errors import Preempted, StepVideoError


def wish(**changes) -> Wish:
    return Wish(
        **{"job": "t2vi", "rank": 0, "ranks": 2, "life": "x", "plan": "p", "packs": 4, "steps": 9, "ahead": 2} | changes
    )


def sample(value: float, kind: str = "video", bucket: str = "17x32x32") -> Sample:
    moments = torch.full((3, 8, 2, 2), value, dtype=torch.bfloat16)
    llm = torch.full((2 + int(value), 5), value, dtype=torch.bfloat16)
    return Sample(kind, bucket, int(value), [("c", "torn")] if value == 1 else [], moments, llm, llm[:2])


# ----------------------------------------------------------------------------------------------------------- the folder


def test_a_rank_wants_its_packs_of_the_next_steps_and_not_what_it_has():
    assert wish(position=3, have=[(3, 0)]).units() == [(3, 2), (4, 0), (4, 2)]
    assert wish(position=8, rank=1).units() == [(8, 1), (8, 3)], "nothing behind the last step"
    assert wish(position=9).units() == []


def test_wishes_and_producers_are_those_that_live(tmp_path):
    feed, w = Feed(tmp_path / "feed", lease_s=0.2), wish(have=[(0, 2)])
    feed.wish(w)
    feed.beat("a", {"sent": 1})
    assert feed.wishes() == [w] and feed.producers() == {"a": {"sent": 1}}
    time.sleep(0.3)
    feed.beat("a", {"sent": 2})
    assert feed.wishes() == [] and feed.producers() == {"a": {"sent": 2}}
    feed.wish(w)
    assert feed.wishes() == [w], "it had only been slow"
    feed.leave(w)
    assert feed.wishes() == [] and not feed.gone


def test_whose_clock_is_wrong_lives_all_the_same(tmp_path):
    import os

    now = 0.0
    alive, path = _Alive(5.0, lambda: now), tmp_path / "beat"
    for stamp in (10, 5, 1_000_000_000):  # of a node whose clock jumps
        path.write_text("")
        os.utime(path, (stamp, stamp))
        assert alive(path)
        now += 4.0
        assert alive(path)
    now += 4.0
    assert not alive(path) and not alive(tmp_path / "never")


def test_one_of_two_producers_makes_a_unit_and_the_other_takes_over_when_it_dies(tmp_path):
    a, b = Feed(tmp_path, 0.2), Feed(tmp_path, 0.2)
    for feed, name in ((a, "a"), (b, "b")):
        feed.beat(name, {})
    assert a.claim((0, 1), "a") and not b.claim((0, 1), "b") and a.claim((0, 1), "a")
    assert b.claim((0, 2), "b") and not a.claim((0, 2), "a")
    time.sleep(0.3)
    b.beat("b", {})
    assert b.claim((0, 1), "b"), "a is silent"
    assert b.owner((0, 1)) == "b"
    b.forget(below=1)
    assert not list((tmp_path / "claims").iterdir()) and b.owner((0, 1)) == ""


def test_jobs_of_two_plans_in_one_folder_take_nothing_from_each_other(tmp_path):
    one, other = Feed(tmp_path, 5.0, "p"), Feed(tmp_path, 5.0, "q")
    one.beat("a", {})
    other.beat("b", {})
    assert one.claim((0, 1), "a") and other.claim((0, 1), "b")
    one.forget(below=1)
    assert one.owner((0, 1)) == "" and Feed(tmp_path, 5.0, "q").owner((0, 1)) == "b"


def test_a_producer_brings_no_folder_back_and_opens_no_file_twice(tmp_path, monkeypatch):
    assert Feed(tmp_path / "gone", 5.0, make=False).gone and not (tmp_path / "gone").exists()
    feed, opened, read = Feed(tmp_path, 5.0), [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: (opened.append(path), read(path, *a, **k))[1])
    for position in (0, 1):
        feed.wish(wish(position=position))
        for _ in range(5):
            assert [w.position for w in feed.wishes()] == [position]
    assert len(opened) == 2


def test_who_renews_nothing_into_a_folder_that_is_gone_brings_it_not_back(tmp_path):
    feed = Feed(tmp_path / "feed", 1.0)
    (tmp_path / "feed").rename(tmp_path / "away")
    feed.wish(wish())
    feed.beat("a", {})
    assert feed.gone and not (tmp_path / "feed").exists()


def test_the_folder_is_the_stages_own_or_another_jobs():
    assert feed_folder("", Path("w")) == Path("w/feed") and feed_folder("/f", Path("w")) == Path("/f")
    with pytest.raises(ValueError, match=r"feed.most=1 is below feed.producers=2"):
        FeedConfig(producers=2)
    with pytest.raises(ValueError, match=r"feed.ahead=0 must be greater than 0"):
        FeedConfig(ahead=0)


# --------------------------------------------------------------------------------------------------------- what travels


def test_samples_come_out_as_they_went_in():
    sent = {7: sample(3), 2: sample(1), 9: sample(0, "image", "1x32x32"), 3: sample(2)}
    tensors, meta = packed((4, 1), "p", sent)
    found = unpacked(tensors, meta)
    assert list(found) == list(sent)
    for i, s in sent.items():
        assert found[i][:4] == s[:4]
        assert all(torch.equal(x, y) for x, y in zip(found[i][4:], s[4:], strict=True))
    with pytest.raises(StepVideoError, match="no pack of samples"):
        unpacked({"llm": tensors["llm"]}, meta)


# ------------------------------------------------------------------------------------------------------- the rank's end


class Pipe:
    """What producers send, by hand."""

    def __init__(self) -> None:
        self.items: queue.Queue = queue.Queue()
        self.acked = 0
        self.finished = False

    def send(self, step: int, pack: int, plan: str = "p") -> None:
        tensors, meta = packed((step, pack), plan, {10 * step + pack: sample(pack)})
        self.items.put(SimpleNamespace(tensors=tensors, meta=meta))

    def receive(self, timeout=None):
        try:
            return self.items.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None

    def ack(self, item) -> None:
        self.acked += 1

    def close(self, *, finished: bool = False) -> None:
        self.finished = finished


@pytest.fixture
def pipe():
    return Pipe()


@pytest.fixture
def inlet(tmp_path, pipe):
    opened = Inlet(Feed(tmp_path, 5.0), wish(), lambda: pipe, timeout_s=0.5, beat_s=0.02)
    yield opened
    if not pipe.finished:
        opened.close()


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_samples_are_put_in_order_and_everything_else_is_dropped(inlet, pipe, tmp_path):
    for unit in ((1, 2), (0, 2), (0, 2), (5, 0), (0, 1), (1, 0), (0, 0)):  # twice, too early, another rank's
        pipe.send(*unit)
    pipe.send(1, 0, plan="another")
    assert list(inlet.take(0)) == [0, 2] and list(inlet.take(0)) == [0, 2], "until it says that it passed on"
    inlet.passed(0)
    assert list(inlet.take(1)) == [10, 12]
    until(lambda: pipe.acked == 8)
    inlet.passed(1)
    assert (inlet.wish.received, inlet.wish.duplicates) == (4, 4)
    (told,) = Feed(tmp_path, 5.0).wishes()
    assert told.position == 2 and told.have == [] and told.units()[0] == (2, 0)


def test_the_stages_events_say_who_waits_for_whom(tmp_path, pipe):
    said: list[dict] = []
    sink = SimpleNamespace(event=lambda name, **fields: said.append({"name": name, **fields}))
    feed = Feed(tmp_path, 5.0)
    opened = Inlet(feed, wish(), lambda: pipe, 60.0, 0.02, sink=sink)
    opened._rates = Rates(every_s=0.0)
    feed.beat("a", {"idle_s": 0.0, "elapsed_s": 1.0})
    for pack in (0, 2):
        pipe.send(0, pack)
    opened.take(0)
    opened.close()
    (line,) = said
    assert line["name"] == "stream" and line["step"] == 0 and line["producers"] == 1 and line["says"]


def test_a_rank_never_holds_more_than_it_asked_for(inlet, pipe):
    for step in range(9):
        for pack in range(4):
            pipe.send(step, pack)
    until(lambda: pipe.acked == 36)
    assert inlet.wish.have == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_rolled_back_it_asks_again_under_a_new_life(inlet, pipe, tmp_path):
    for step in (0, 1):
        pipe.send(step, 0), pipe.send(step, 2)
        inlet.take(step)
        inlet.passed(step)
    life = inlet.wish.life
    pipe.send(0, 0)
    until(lambda: pipe.acked == 5)
    pipe.send(0, 0), pipe.send(0, 2)
    assert inlet.wish.life == life
    with pytest.raises(StepVideoError, match="no producer sent pack"):
        until(lambda: pipe.acked == 7)
        inlet.take(0)  # what came before it asked was dropped
    assert inlet.wish.life != life and inlet.wish.units()[0] == (0, 0)
    pipe.send(0, 0), pipe.send(0, 2)
    assert list(inlet.take(0)) == [0, 2]


def test_waiting_ends_when_nothing_can_come(tmp_path, pipe):
    feed, stop = Feed(tmp_path, 5.0), []
    opened = Inlet(feed, wish(), lambda: pipe, 60.0, 0.02, lambda: bool(stop))
    feed.fail("producer 1: no such clip")
    with pytest.raises(StepVideoError, match="step 0: its samples will not come: producer 1: no such clip"):
        opened.take(0)
    feed.fail("of one driver")
    feed.beat("another-driver-s", {})
    opened._timeout_s = 0.1
    with pytest.raises(StepVideoError, match="no producer sent pack 0"):
        opened.take(0)
    feed.fail("")
    stop.append(1)
    with pytest.raises(Preempted):
        opened.take(0)
    opened.close()
    assert pipe.finished and not feed.wishes()


def test_a_broken_pipe_is_told_to_who_trains(tmp_path, pipe):
    pipe.receive = lambda timeout=None: (_ for _ in ()).throw(RuntimeError("replaced"))
    opened = Inlet(Feed(tmp_path, 5.0), wish(), lambda: pipe, 60.0, 0.02)
    with pytest.raises(StepVideoError, match="the pipe of samples: replaced"):
        opened.take(0)
    opened.close()


# ------------------------------------------------------------------------------------------------------------ the rates


def test_rates_are_of_the_time_since_the_last_look():
    rates = Rates(every_s=0.0)
    early = rates.update([wish(waited_s=5.0, elapsed_s=10.0, received=20)], {"a": {"idle_s": 0.0, "elapsed_s": 10.0}})
    assert early == Told(2.0, 0.5, 0.0, 1, 1, "training waits for producers", 0)
    later = rates.update([wish(waited_s=5.0, elapsed_s=30.0, received=30)], {"a": {"idle_s": 16.0, "elapsed_s": 30.0}})
    assert later == Told(0.5, 0.0, 0.8, 1, 1, "producers wait for training", 0)
    again = rates.update([wish(waited_s=6.0, elapsed_s=40.0, received=40)], {"a": {"idle_s": 1.0, "elapsed_s": 2.0}})
    assert again == Told(1.0, 0.1, 0.5, 1, 1, "both wait: the network, or bursts", 0), "a second life of a"
    assert rates.update([], {}) is None
    assert Rates(every_s=60.0).update([wish(elapsed_s=1.0)], {"a": {"idle_s": 0.0, "elapsed_s": 1.0}}) is None


def test_devices_move_to_the_side_that_the_other_waits_for():
    ranks = [wish(rank=r, ranks=4, waited_s=8.0, elapsed_s=10.0, received=10) for r in range(4)]
    told = Rates(every_s=0.0).update(ranks, {"a": {"idle_s": 0.0, "elapsed_s": 10.0}})
    assert told.says == "training waits for producers" and told.move > 0


@pytest.mark.parametrize(
    ("waits", "idle", "now", "wanted"),
    [(0.4, 0.0, 1, 2), (0.4, 0.0, 4, 4), (0.4, 0.9, 1, 1), (0.0, 0.8, 3, 2), (0.0, 0.8, 1, 1), (0.0, 0.2, 2, 2)],
)
def test_producers_follow_who_waits_for_whom(waits, idle, now, wanted):
    assert producers_wanted(Told(1.0, waits, idle, 1, now, "", 0), now, 1, 4) == wanted
