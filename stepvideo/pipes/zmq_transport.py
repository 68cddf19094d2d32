"""Connections by ZeroMQ: a DEALER of the producer to a ROUTER of each consumer, over TCP.

ZeroMQ's own queues lose messages in silence when a peer dies; here they are only the wire. What may be on it was
granted before, reconnection is switched off, and everything is acknowledged above. Tensor bytes go in frames of about
1 MiB that are sent without a copy and received into memory that is there already: what costs at 64 MiB is fresh memory,
page by page, not ZeroMQ.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import socket
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator

import zmq
from zmq.utils import z85

from stepvideo.pipes import keys as keyring
from stepvideo.pipes.config import MIB, PipeConfig
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.transport import Event, Peer, Place
from stepvideo.pipes.wire import DATA, MAX_CONTROL_BYTES

QUEUED_FRAMES = 4  # that ZeroMQ may hold for a connection before TCP holds the sender
ENVELOPE = 256  # bytes that encryption may add to a message
LINGER_MS = 500  # for a farewell to get out; a peer that reads gets it at once
AT_ONCE = 64  # messages handled before the loop looks at other things


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_HEAP = 64 * MIB


@functools.cache
def _keep_heap() -> None:
    """ZeroMQ allocates every frame that comes. glibc would give that memory back and fault it in again, page by page,
    which took a third of a consumer's processor time; now each thread's heap keeps up to `KEPT_HEAP`."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_HEAP // 2)
        mallopt(M_TRIM_THRESHOLD, KEPT_HEAP)


class ZmqTransport:
    """TCP, with CURVE where the config has keys."""

    def dial(self, config: PipeConfig) -> _Dialer:
        return _Dialer(config)

    def listen(self, config: PipeConfig, place: Place) -> _Listener:
        return _Listener(config, place)


class _Hub:
    address = ""

    def __init__(self, config: PipeConfig) -> None:
        self._config, self._keys = config, keyring.load(config)
        self._context = zmq.Context(io_threads=config.io_threads)
        self._poller = zmq.Poller()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._waker, zmq.POLLIN)
        self._open, self._guard = True, threading.Lock()

    def wake(self) -> None:
        with self._guard:  # after `close` the number may be another file
            if self._open:
                os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        with self._guard:
            if not self._open:
                return
            self._open = False
            os.close(self._waker)
        self._context.destroy(linger=LINGER_MS)

    def _wait(self, timeout_s: float) -> list[object]:
        """Sockets with something to read."""
        ready = [found for found, _ in self._poller.poll(math.ceil(max(timeout_s, 0) * 1000))]
        if self._waker in ready:
            ready.remove(self._waker)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._waker)
        return ready

    def _socket(self, kind: int) -> zmq.Socket:
        s = self._context.socket(kind)
        s.setsockopt(zmq.LINGER, LINGER_MS)
        s.setsockopt(zmq.SNDHWM, 0)  # bounded by what was granted; a limit would lose messages in silence
        s.setsockopt(zmq.RECONNECT_IVL, -1)
        if self._config.encrypt and self._keys is not keyring.NO_KEYS:
            s.curve_publickey, s.curve_secretkey = self._keys.public, self._keys.secret
        return s


class _Dialer(_Hub):
    def connect(self, address: str) -> Peer:
        """Raises PipeError for an address that may not be used."""
        keyring.check_address(address, self._config, self._keys)
        s = self._socket(zmq.DEALER)
        s.setsockopt(zmq.MAXMSGSIZE, MAX_CONTROL_BYTES + ENVELOPE)
        if self._config.encrypt and self._keys is not keyring.NO_KEYS:
            s.curve_serverkey = self._keys.public
        try:
            s.connect(address)
        except zmq.ZMQError as e:
            s.close()
            raise PipeError(f"cannot connect to {address}: {e.strerror}") from e
        self._poller.register(s, zmq.POLLIN)
        return s

    def send(self, peer: Peer, kind: bytes, body: bytes = b"") -> None:
        with contextlib.suppress(zmq.Again):  # no connection any more
            peer.send_multipart((kind, body), zmq.NOBLOCK)  # type: ignore[attr-defined]

    def send_payload(self, peer: Peer, frames: Iterable[memoryview]) -> None:
        send, crc = peer.send, self._config.crc  # type: ignore[attr-defined]
        try:
            for frame in frames:
                kind = DATA + zlib.crc32(frame).to_bytes(4, "little") if crc else DATA
                send(kind, zmq.NOBLOCK | zmq.SNDMORE)
                send(frame, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            pass  # no connection any more; its silence will tell

    def receive(self, timeout_s: float) -> Iterator[Event]:
        for s in self._wait(timeout_s):
            for _ in range(AT_ONCE):
                try:
                    parts = s.recv_multipart(zmq.NOBLOCK)  # type: ignore[attr-defined]
                except zmq.ZMQError:  # nothing more, or disconnected by what was read before
                    break
                yield Event(s, *parts) if len(parts) == 2 else Event(s, b"")

    def disconnect(self, peer: Peer) -> None:
        self._poller.unregister(peer)
        peer.close()  # type: ignore[attr-defined]


class _Listener(_Hub):
    def __init__(self, config: PipeConfig, place: Place) -> None:
        _keep_heap()
        super().__init__(config)
        self._place = place
        self._left: deque[Peer] = deque(maxlen=4096)  # a ROUTER cannot hang up
        try:
            keyring.check_address(config.bind, config, self._keys)
            if config.encrypt and self._keys is not keyring.NO_KEYS:
                self._zap = self._context.socket(zmq.REP)
                self._zap.bind("inproc://zeromq.zap.01")
                self._poller.register(self._zap, zmq.POLLIN)
            self._router = self._socket(zmq.ROUTER)
            self._router.setsockopt(zmq.RCVHWM, QUEUED_FRAMES)
            self._router.setsockopt(zmq.MAXMSGSIZE, max(config.frame_bytes, MAX_CONTROL_BYTES) + ENVELOPE)
            if config.encrypt and self._keys is not keyring.NO_KEYS:
                self._router.curve_server = True
                self._router.zap_domain = b"pipes"
            self._router.bind(config.bind.removesuffix(":0") + ":*" if config.bind.endswith(":0") else config.bind)
        except (PipeError, zmq.ZMQError) as e:
            self.close()
            if isinstance(e, PipeError):
                raise
            raise PipeError(f"cannot listen on {config.bind}: {e.strerror}; give another bind") from e
        self._poller.register(self._router, zmq.POLLIN)
        self.address = _reachable(self._router.getsockopt(zmq.LAST_ENDPOINT).decode())  # type: ignore[union-attr]

    def connect(self, address: str) -> Peer:
        raise PipeError(f"a listener does not connect ({address})")

    def send(self, peer: Peer, kind: bytes, body: bytes = b"") -> None:
        with contextlib.suppress(zmq.ZMQError):  # gone
            self._router.send_multipart((peer, kind, body), zmq.NOBLOCK)  # type: ignore[arg-type]

    def send_payload(self, peer: Peer, frames: Iterable[memoryview]) -> None:
        raise PipeError("tensors go from producers to consumers")

    def receive(self, timeout_s: float) -> Iterator[Event]:
        for s in self._wait(timeout_s):
            if s is not self._router:
                self._authenticate()
                continue
            for _ in range(AT_ONCE):
                try:
                    event = self._read()
                except zmq.Again:
                    break
                if event.peer not in self._left:
                    yield event

    def _read(self) -> Event:
        """One message; what has the wrong number of parts comes out as of no kind."""
        router, event = self._router, Event(b"", b"")
        peer = router.recv(zmq.NOBLOCK)
        kind = router.recv() if router.getsockopt(zmq.RCVMORE) else b""
        if router.getsockopt(zmq.RCVMORE):
            view = self._place(peer) if kind[:1] == DATA and len(kind) in (1, 5) else None
            if view is not None:
                size = router.recv_into(view)  # of the frame: what does not fit is thrown away
                crc = int.from_bytes(kind[1:], "little") if len(kind) == 5 else None
                event = Event(peer, DATA, b"", size, crc)
            else:
                event = Event(peer, kind[:1], router.recv())
            if not router.getsockopt(zmq.RCVMORE):
                return event
        while router.getsockopt(zmq.RCVMORE):
            router.recv()
        return Event(peer, b"")

    def _authenticate(self) -> None:
        """Whoever proves that it holds our secret key is let in (RFC 27)."""
        version, request, _, _, _, mechanism, *credentials = self._zap.recv_multipart()
        good = mechanism == b"CURVE" and credentials == [z85.decode(self._keys.public)]
        answer = (b"200", b"OK", b"member", b"") if good else (b"400", b"unknown key", b"", b"")
        self._zap.send_multipart((version, request, *answer))

    def disconnect(self, peer: Peer) -> None:
        self._left.append(peer)


def _reachable(endpoint: str) -> str:
    """The address for others of what listens everywhere."""
    host, port = keyring.host_of(endpoint), endpoint.rpartition(":")[2]
    return f"tcp://{socket.gethostname()}:{port}" if host in ("0.0.0.0", "::") else endpoint
