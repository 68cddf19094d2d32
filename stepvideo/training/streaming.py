"""The two ends of a training stage's pipes: what a rank opens to receive. A producer imports this: no Lightning here.

Jobs of one plan that are given one folder (`runtime.feed.folder`) read the same pipes: producers encode for all of them
once. Pipes are named by plan and number of data-parallel ranks, so that jobs of any size can share producers.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from stepvideo.data.balance import Plan
from stepvideo.data.feed import Feed, Wish
from stepvideo.data.feed_config import FeedConfig, feed_folder
from stepvideo.data.flow_source import FlowSource
from stepvideo.data.inlet import Inlet
from stepvideo.data.streamed import StreamedSource, plan_digest
from stepvideo.stage import StageContext
from stepvideo.training.train_data import TrainData

if TYPE_CHECKING:
    from stepvideo.pipes.config import PipeConfig

BEATS = 5  # in a lease
MIB = 1 << 20


def pipe_name(plan: str, ranks: int) -> str:
    return f"samples-{plan}-{ranks}"


def pipe_config(cfg: FeedConfig) -> PipeConfig:
    """How both ends behave. A job that is gone is forgotten after two leases, so that it holds nobody up."""
    from stepvideo.pipes.config import PipeConfig

    given = {"bind": cfg.bind} if cfg.bind else {"bind": "tcp://0.0.0.0:0"} if cfg.keys else {}
    return PipeConfig(heartbeat_s=cfg.lease_s / BEATS, rejoin_s=2 * cfg.lease_s, keys=cfg.keys or None, **given)


def stop_alone(ctx: StageContext) -> bool:
    """Whether this process may end while it waits for samples. One of several may not: the others would wait for it in
    a collective; they stop together after the step (`fit`)."""
    return ctx.world_size == 1 and ctx.should_stop()


def digest_of(data: TrainData, source: FlowSource) -> str:
    """Of the plan and of what its samples hold (see `plan_digest`)."""
    made = {k: v for k, v in data.cache.settings.items() if k != "on_the_fly"}
    return plan_digest(source, cache=made, resolution=data.cfg.resolution)


def streamed(data: TrainData, plan: Plan, ctx: StageContext) -> StreamedSource:
    """The stage's source of samples that producers send; nothing is opened before the first step."""
    cfg: FeedConfig = data.cfg.runtime.feed
    digest = digest_of(data, data.source(plan))

    def open_inlet(rank: int, ranks: int, packs: int) -> Inlet:
        from stepvideo.pipes.consumer import Consumer
        from stepvideo.pipes.registry import open_registry

        feed = Feed(feed_folder(cfg.folder, ctx.work), cfg.lease_s)
        inside = ctx.rank % (ctx.world_size // ranks)  # ranks that compute one micro-batch together all need it
        job = f"{ctx.stage}-{ctx.key[:12]}" + (f"+{inside}" if inside else "")
        wish = Wish(job, rank, ranks, uuid.uuid4().hex[:8], digest, packs, data.cfg.steps, cfg.ahead)

        def receiver() -> Consumer:
            where, pipe = open_registry(str(feed.pipes)), pipe_name(digest, ranks)
            return Consumer(where, pipe, job, rank, capacity_bytes=cfg.window_mb * MIB, config=pipe_config(cfg))

        return Inlet(feed, wish, receiver, cfg.timeout_s, cfg.lease_s / BEATS, partial(stop_alone, ctx), ctx.sink)

    return StreamedSource(
        data.videos, data.images, data.text, plan, data.draws(), data.cache.stats(), open_inlet, digest
    )
