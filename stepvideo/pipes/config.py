"""What a person may choose about a pipe. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, DROP_OLDEST, DISCONNECT = "block", "drop_oldest", "disconnect"
POLICIES = (BLOCK, DROP_OLDEST, DISCONNECT)
MIB = 1 << 20


@dataclass(frozen=True)
class PipeConfig:
    """How one end of a pipe behaves. Bytes are of tensors, headers apart.

    policy: what a producer does when a job does not keep up: `block` (send waits), `drop_oldest` (what is not on the
        wire yet, oldest first), `disconnect` (the job is told and left). A consumer that names one overrides the
        producer's for its job.
    heartbeat_s: silence of twice this long is a death; the unacknowledged goes to others.
    rejoin_s: how long a producer keeps what it owes to a job that has no consumer left; then it is dropped.
    crc: a CRC-32 with every frame, checked by the consumer.
    pin: a consumer receives into page-locked memory, from which copies to a GPU overlap with other work.
    io_threads: ZeroMQ's, which move the bytes; more where one is not enough for the network.
    keys: a file of mode 0600 made by `stepvideo pipes keys`; needed for any address that is not loopback.
    bind: where a consumer listens; port 0 takes a free one.
    encrypt: CURVE with these keys; without it their token is shown, on loopback only.
    """

    heartbeat_s: float = 1.0
    rejoin_s: float = 60.0
    frame_bytes: int = MIB
    max_item_bytes: int = 4096 * MIB
    crc: bool = False
    pin: bool = False
    io_threads: int = 1
    keys: str | None = None
    encrypt: bool = True
    bind: str = "tcp://127.0.0.1:0"

    def __post_init__(self) -> None:
        lowest = {"heartbeat_s": 0.01, "rejoin_s": 0.0, "frame_bytes": 4096, "max_item_bytes": 1, "io_threads": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if not value >= low:
                raise ValueError(f"pipes: {name}={value!r} is below {low}; give more")
        if self.frame_bytes > 64 * MIB:
            raise ValueError(f"pipes: frame_bytes={self.frame_bytes} is above 64 MiB; 1 MiB is quickest over TCP")


def check_policy(policy: str) -> str:
    if policy not in POLICIES:
        raise ValueError(f"pipes: policy={policy!r} is unknown; choose one of {', '.join(POLICIES)}")
    return policy
