"""The guarantees of docs/pipes.md between threads of one process, over memory and over TCP."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stepvideo.pipes.buffers import WASTE
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.consumer import Consumer
from stepvideo.pipes.errors import PipeError, Replaced
from stepvideo.pipes.file_registry import FileRegistry
from stepvideo.pipes.memory_transport import MemoryTransport
from stepvideo.pipes.metrics import who_waits
from stepvideo.pipes.payload import raw
from stepvideo.pipes.producer import Producer
from stepvideo.pipes.zmq_transport import ZmqTransport

BEAT = 0.15  # s
CONFIG = PipeConfig(heartbeat_s=BEAT, frame_bytes=4096)


class Pipe:
    """Ends of one pipe; what was opened is closed."""

    def __init__(self, folder: Path, transport: MemoryTransport | ZmqTransport) -> None:
        self.registry, self._transport = FileRegistry(folder), transport
        self._open: list[Producer | Consumer] = []

    def producer(self, name: str = "p", config: PipeConfig = CONFIG, **more) -> Producer:
        return self._add(Producer(self.registry, "pipe", name, config=config, transport=self._transport, **more))

    def consumer(self, job: str = "job", rank: int = 0, config: PipeConfig = CONFIG, **more) -> Consumer:
        return self._add(Consumer(self.registry, "pipe", job, rank, config=config, transport=self._transport, **more))

    def _add(self, end):
        self._open.append(end)
        return end

    def close(self) -> None:
        for end in self._open:
            end.close()
        self.registry.close()


@pytest.fixture(params=["memory", "tcp"])
def pipe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path, MemoryTransport() if request.param == "memory" else ZmqTransport())
    yield made
    made.close()


def item(n: int, floats: int = 2000) -> dict[str, torch.Tensor]:
    return {"x": torch.full((floats,), float(n))}


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def job(end: Producer, name: str = "job") -> dict:
    return end.metrics()["jobs"][name]


def take(source: Consumer, count: int, ack: bool = True) -> list[int]:
    found = []
    for _ in range(count):
        got = source.receive(timeout=20)
        assert (got.tensors["x"] == got.seq).all()
        found.append(got.seq)
        if ack:
            source.ack(got)
    return found


def test_every_dtype_and_shape_arrives_as_it_was(pipe: Pipe) -> None:
    source, out = pipe.consumer(), pipe.producer(config=PipeConfig(heartbeat_s=BEAT, frame_bytes=4096, crc=True))
    draw = torch.Generator().manual_seed(0)
    tensors = {
        str(t): torch.randint(0, 2, (3, 5), generator=draw).to(t)
        for t in (torch.bool, torch.int8, torch.int64, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
    }
    tensors |= {"scalar": torch.tensor(3.5), "none": torch.empty(0, 4), "big": torch.randn(9999, generator=draw)}
    tensors |= {"f8": torch.ones(7).to(torch.float8_e4m3fn), "grad": torch.ones(2, requires_grad=True)}
    out.send(tensors, {"text": "三个红球", "n": [1, None, 2.5]})
    out.send({}, {"empty": True})
    got = source.receive(timeout=20)
    assert got.meta == {"text": "三个红球", "n": [1, None, 2.5]} and got.tensors.keys() == tensors.keys()
    for name, t in tensors.items():
        assert got.tensors[name].dtype == t.dtype and got.tensors[name].shape == t.shape
        assert torch.equal(raw(got.tensors[name]), raw(t))
    assert source.receive(timeout=20).meta == {"empty": True}


def test_memory_is_bounded_when_a_consumer_is_slow(pipe: Pipe) -> None:
    capacity, window, nbytes = 100_000, 150_000, 8192
    source, out = pipe.consumer(capacity_bytes=capacity), pipe.producer(window_bytes=window)
    sent = 0
    with pytest.raises(TimeoutError, match="job"):
        while True:
            out.send(item(sent), timeout=0.5)
            sent += 1
    assert sent == window // nbytes
    held, owed = source.metrics(), job(out)
    assert capacity - nbytes < held["used_bytes"] <= capacity and held["memory_bytes"] <= WASTE * capacity
    assert owed["in_flight_bytes"] <= window and owed["blocked_s"] > 0.3
    assert take(source, sent) == list(range(sent))
    out.flush(20)
    assert source.metrics()["used_bytes"] == 0 and job(out)["in_flight"] == 0


def test_a_broadcast_reaches_every_job_and_a_dead_one_slows_nobody(pipe: Pipe) -> None:
    fast, slow = pipe.consumer("fast"), pipe.consumer("slow", policy="drop_oldest")
    out = pipe.producer(window_bytes=50_000)
    until(lambda: len(out.metrics()["jobs"]) == 2)
    for n in range(40):  # nobody reads `slow`
        out.send(item(n), timeout=10)
        assert take(fast, 1) == [n]
    until(lambda: job(out, "fast")["acked"] == 40)
    left = job(out, "slow")
    assert left["produced"] == 40 == left["in_flight"] + left["dropped"] and left["dropped"] >= 30
    kept = take(slow, left["in_flight"])
    until(lambda: job(out, "slow")["acked"] == len(kept))
    assert kept == sorted(kept) and job(out, "slow")["discrepancy"] == 0


def test_a_job_that_is_too_slow_is_disconnected_if_that_is_its_policy(pipe: Pipe) -> None:
    fast, slow = pipe.consumer("fast"), pipe.consumer("slow", policy="disconnect")
    out = pipe.producer(window_bytes=50_000)
    until(lambda: len(out.metrics()["jobs"]) == 2)
    for n in range(20):
        out.send(item(n), timeout=10)
        take(fast, 1)
    with pytest.raises(PipeError, match="too slow"):
        take(slow, 20)
    left = job(out, "slow")
    assert not left["present"] and left["in_flight"] == 0 and left["produced"] == left["dropped"] + left["acked"]
    until(lambda: job(out, "fast")["acked"] == 20)


def test_spray_is_balanced_and_every_item_goes_to_one_rank(pipe: Pipe) -> None:
    ranks = [pipe.consumer(rank=r, capacity_bytes=40_000) for r in range(4)]
    out = pipe.producer()
    until(lambda: job(out)["consumers"] == 4 if out.metrics()["jobs"] else False)
    sending = threading.Thread(target=lambda: [out.send(item(n)) for n in range(200)])
    sending.start()
    got: list[list[int]] = [[] for _ in ranks]
    for _ in range(45):  # ranks of equal speed: each uses one in turn, and none lacks one while there are enough
        for rank, source in enumerate(ranks):
            got[rank] += take(source, 1)
    sending.join()

    def drained() -> bool:
        for rank, source in enumerate(ranks):
            got[rank] += take(source, source.metrics()["held"])
        return not job(out)["in_flight"]

    until(drained)
    assert sorted(sum(got, [])) == list(range(200))
    sizes = [len(g) for g in got]
    assert max(sizes) - min(sizes) <= 2 * 40_000 // 8192, sizes


def test_a_named_rank_gets_its_items_in_order_and_they_wait_for_it(pipe: Pipe) -> None:
    first, out = pipe.consumer(rank=0), pipe.producer()
    for n in range(6):
        out.send(item(n), rank=n % 2)
    assert take(first, 3) == [0, 2, 4]
    with pytest.raises(TimeoutError):
        first.receive(timeout=2 * BEAT)
    assert take(pipe.consumer(rank=1), 3) == [1, 3, 5]
    out.flush(20)


def test_what_a_dead_consumer_had_goes_to_others_within_two_heartbeats(pipe: Pipe) -> None:
    alive, dying = pipe.consumer(rank=0), pipe.consumer(rank=1)
    out = pipe.producer()
    until(lambda: job(out)["consumers"] == 2 if out.metrics()["jobs"] else False)
    for n in range(8):
        out.send(item(n))
    lost = take(dying, 4, ack=False)
    start = time.monotonic()
    dying._receiver._hub.send = lambda *_: None  # type: ignore[method-assign]  # as if it were killed: it says nothing more
    assert sorted(take(alive, 8)) == list(range(8)) and set(lost) < set(range(8))
    assert time.monotonic() - start < 2 * BEAT + 1.0
    out.flush(20)
    assert job(out)["acked"] == 8


def test_a_consumer_that_comes_back_is_sent_what_it_did_not_acknowledge_and_nothing_twice(pipe: Pipe) -> None:
    first, out = pipe.consumer(), pipe.producer()
    for n in range(10):
        out.send(item(n))
    assert take(first, 4) == [0, 1, 2, 3]
    until(lambda: job(out)["acked"] == 4)
    assert take(first, 2, ack=False) == [4, 5]
    first.ack(_named(first, out, 4))
    state = first.state_dict()
    first._receiver._acked.clear()  # whether or not its last acknowledgement got out
    first.close()
    second = pipe.consumer(state=state)
    assert take(second, 5) == [5, 6, 7, 8, 9]
    out.flush(20)
    assert job(out)["produced"] == 10 == job(out)["acked"]


def _named(consumer: Consumer, out: Producer, seq: int):
    from stepvideo.pipes.item import Item

    return Item("p", out.epoch, seq, {}, {})


def test_a_producer_that_comes_back_with_its_epoch_repeats_nothing_that_was_used(pipe: Pipe) -> None:
    source, out = pipe.consumer(), pipe.producer(epoch=7)
    for n in range(6):
        out.send(item(n))
    assert take(source, 4) == [0, 1, 2, 3]
    until(lambda: job(out)["acked"] == 4)
    again = pipe.producer(epoch=7, jobs=["job"])
    with pytest.raises(Replaced):
        until(lambda: out.send(item(6)) < 0)
    sent = []
    for n in range(8):
        if not again.settled(n):
            sent.append(again.send(item(n), seq=n))
    assert sorted(take(source, 4)) == [4, 5, 6, 7]
    again.flush(20)
    assert sent[-1] == 7 and job(again)["discrepancy"] == 0
    with pytest.raises(TimeoutError):
        source.receive(timeout=0.2)


def test_a_job_that_does_not_come_back_is_given_up(pipe: Pipe) -> None:
    config = PipeConfig(heartbeat_s=BEAT, rejoin_s=0.4, frame_bytes=4096)
    gone, out = pipe.consumer(), pipe.producer(config=config, window_bytes=20_000)
    out.send(item(0), timeout=20)
    gone.close()
    stays = pipe.consumer("other")
    until(lambda: "other" in out.metrics()["jobs"])
    out.send(item(1), timeout=20)
    out.send(item(2), timeout=20)  # the window of `job` is full until it is given up
    assert take(stays, 2) == [1, 2]
    until(lambda: not job(out)["present"])
    assert job(out)["produced"] == job(out)["dropped"] and job(out)["in_flight"] == 0


def test_a_job_that_has_finished_holds_nothing(pipe: Pipe) -> None:
    done, out = pipe.consumer(), pipe.producer()
    out.send(item(0))
    take(done, 1, ack=False)
    done.close(finished=True)
    until(lambda: not job(out)["present"])
    assert job(out)["dropped"] == 1


def test_last_words_are_heard_without_a_connection(pipe: Pipe) -> None:
    """A connection that broke just before takes no farewell with it; the registry does."""
    gone, stays, out = pipe.consumer("gone"), pipe.consumer("stays"), pipe.producer()
    out.send(item(0))
    take(gone, 1, ack=False)
    for session in list(gone._inbox.sessions.values()):
        gone._inbox.close(session.peer)  # as after a silence: there is nobody to say goodbye to
    gone.close(finished=True)
    until(lambda: not job(out, "gone")["present"])
    assert job(out, "gone")["dropped"] == 1 and job(out, "stays")["present"]
    assert [m.job for m in pipe.registry.members("pipe") if m.role == "consumer" and not m.finished] == ["stays"]
    assert take(stays, 1) == [0]


def test_a_job_goes_on_when_one_of_its_consumers_has_finished(pipe: Pipe) -> None:
    first, second, out = pipe.consumer(rank=0), pipe.consumer(rank=1), pipe.producer()
    out.send(item(0), rank=0)
    take(first, 1)
    first.close(finished=True)
    out.send(item(1), rank=1)
    assert take(second, 1) == [1]
    again = pipe.consumer(rank=0)  # a later life is no stranger because of the words of the earlier
    out.send(item(2), rank=0)
    assert take(again, 1) == [2]
    out.flush(20)
    assert job(out)["dropped"] == 0


def test_a_later_life_of_a_name_replaces_the_earlier(pipe: Pipe) -> None:
    first, out = pipe.consumer(), pipe.producer()
    out.send(item(0))
    assert take(first, 1, ack=False) == [0]
    second = pipe.consumer()
    with pytest.raises(Replaced):
        first.receive(timeout=20)
    assert take(second, 1) == [0]
    out.flush(20)


def test_many_producers_and_metrics_say_who_waits(pipe: Pipe) -> None:
    source = pipe.consumer(capacity_bytes=60_000)
    outs = [pipe.producer(f"p{i}", window_bytes=40_000) for i in range(3)]
    threads = [threading.Thread(target=lambda o=o: [o.send(item(n)) for n in range(20)]) for o in outs]
    for t in threads:
        t.start()
    seen = Counter()
    for _ in range(60):
        got = source.receive(timeout=20)
        seen[got.producer] += 1
        time.sleep(0.01)  # training is the slow side
        source.ack(got)
    for t, o in zip(threads, outs):
        t.join()
        o.flush(20)
    assert seen == {"p0": 20, "p1": 20, "p2": 20}
    for end in (*outs, source):
        end._presence._beat()
    (flow,) = who_waits(pipe.registry.members("pipe"))
    assert (flow.producers, flow.consumers, flow.produced, flow.acked, flow.lost) == (3, 1, 60, 60, 0)
    assert flow.blocked_share > flow.starved_share and flow.verdict == "producers wait for training"
    latencies = source.metrics()
    assert latencies["transfer_s"]["p50"] > 0 and latencies["queue_s"]["p99"] > latencies["queue_s"]["p50"] * 0.9


def test_impossible_items_and_ends(pipe: Pipe) -> None:
    source, out = pipe.consumer(capacity_bytes=10_000), pipe.producer(window_bytes=50_000)
    with pytest.raises(PipeError, match="above 50000"):
        out.send(item(0, floats=20_000))
    with pytest.raises(PipeError, match="above the 10000"):
        out.send(item(0, floats=5000))
    with pytest.raises(PipeError, match="JSON"):
        out.send(item(0), {"x": object()})
    out.send(item(5), seq=5)
    with pytest.raises(PipeError, match="passed by"):
        out.send(item(4), seq=4)
    assert take(source, 1) == [5]
    source.close()
    with pytest.raises(PipeError, match="closed"):
        source.receive(timeout=1)
    out.close()
    with pytest.raises(PipeError, match="closed"):
        out.send(item(6))


@pytest.mark.parametrize("wrong", [{"heartbeat_s": 0}, {"frame_bytes": 1}, {"frame_bytes": 1 << 30}, {"io_threads": 0}])
def test_impossible_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PipeConfig(**wrong)
