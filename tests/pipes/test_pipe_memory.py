"""Memory that is used again, and copies that overlap with sending."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from stepvideo.pipes.buffers import Pool
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.payload import HostPayload, Loader, StagedPayload, specify


def test_memory_comes_back_when_its_last_view_is_dropped_and_not_before() -> None:
    pool = Pool(1 << 30)
    lease = pool.take(100_000)
    tensor = torch.from_numpy(lease)[1000:2000].view(torch.float32).reshape(5, 50)
    view, address = lease.data[10:20], tensor.untyped_storage().data_ptr()
    tensor.fill_(7)
    del lease
    other = pool.take(100_000)
    other[:] = 0
    assert (tensor == 7).all() and torch.from_numpy(other).data_ptr() != address
    del tensor
    third = pool.take(100_000)
    assert torch.from_numpy(third).data_ptr() != address, "a memoryview still holds it"
    view.release()
    del view
    assert torch.from_numpy(pool.take(90_000)).data_ptr() == address
    assert pool.allocations == 3


def test_a_pool_keeps_no_more_than_its_capacity() -> None:
    pool = Pool(10_000)
    for size in (3, 9, 2, 10, 1, 4):  # each is dropped before the next
        pool.take(size * 1000)
        assert pool.allocated <= 10_000
    assert pool.take(0).size == 0


class ThreadCopies:
    """Copies of another thread, one after the other, which wait until they are allowed."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self._last = threading.Event()
        self._last.set()

    def start(self, destination: torch.Tensor, source: torch.Tensor):
        before, done = self._last, threading.Event()

        def copy() -> None:
            before.wait()
            self.allowed.acquire()
            destination.copy_(source)
            done.set()

        threading.Thread(target=copy, daemon=True).start()
        self._last = done
        return done.wait


def test_a_frame_is_sent_while_the_next_is_copied() -> None:
    copies, pool = ThreadCopies(), Pool(1 << 20)
    x = {"x": torch.arange(1000, dtype=torch.int32), "y": torch.arange(7.0).bfloat16()}
    payload = StagedPayload(x, 1024, pool, copies)
    frames = payload.frames()
    sent = b""
    for _ in range(5):  # 4000 bytes are four frames, then one of 14
        copies.allowed.release()  # this copy alone is done when its frame goes out
        sent += bytes(next(frames))
    assert sent == b"".join(bytes(f) for f in HostPayload(x, 1024).frames())
    assert b"".join(map(bytes, payload.frames())) == sent, "a repeat needs no copy"
    del payload, frames
    gone = time.monotonic() + 10
    while len(pool._returned) < 2 and time.monotonic() < gone:  # the copies' threads end a little later
        time.sleep(0.01)
    again = pool.take(4000)
    assert pool.allocations == 2 and again.size == 4000, "two tensors took memory, the third lease is one of theirs"


def test_cpu_tensors_are_sent_from_where_they_lie() -> None:
    x = torch.arange(100.0)
    (frame,) = HostPayload({"x": x}, 1 << 20).frames()
    x[3] = 42.0
    assert torch.frombuffer(frame, dtype=torch.float32)[3] == 42.0
    strided = torch.arange(12).reshape(3, 4).t()
    (frame,) = HostPayload({"x": strided}, 1 << 20).frames()
    assert torch.frombuffer(frame, dtype=torch.int64).tolist() == strided.flatten().tolist()


@pytest.mark.parametrize("wrong", [[1, 2], "text", torch.eye(3).to_sparse()])
def test_what_is_no_dense_tensor(wrong: object) -> None:
    with pytest.raises(PipeError, match="no dense tensor"):
        specify({"x": wrong})  # type: ignore[dict-item]


def test_a_device_that_cannot_send() -> None:
    with pytest.raises(PipeError, match="one device"):
        Loader(1 << 20, 1 << 20).load({"x": torch.empty(1, device="meta")})


@pytest.mark.gpu
def test_gpu_tensors_go_through_page_locked_memory() -> None:
    loader = Loader(1 << 20, 1 << 28)
    x = torch.randn(5 << 20, device="cuda")
    for _ in range(3):  # the memory is used again
        payload = loader.load({"x": x, "y": x[:3].bfloat16()})
        data = b"".join(map(bytes, payload.frames()))
        assert data == b"".join(map(bytes, HostPayload({"x": x.cpu(), "y": x[:3].bfloat16().cpu()}, 1 << 20).frames()))
        x += 1
