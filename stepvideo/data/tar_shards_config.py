"""Config of the stage `shards` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig
from stepvideo.data.balance_config import BucketConfig


@dataclass
class TarShardsConfig(StageConfig):
    """The `shards` stage: a catalog, or one subset of it, as WebDataset tars grouped by bucket."""

    subset: str = ""  # s1 … s6, sft_1 …, images; "": every row of the catalog
    buckets: BucketConfig = field(default_factory=BucketConfig)  # length 1 takes stills and single frames only
    shard_mb: float = 512.0  # most of a tar, in MB (10^6 bytes); a clip that is larger has one of its own

    def __post_init__(self) -> None:
        if not self.shard_mb > 0:
            raise ValueError(f"shard_mb={self.shard_mb:g}: give megabytes above 0; 256 to 1000 suit object stores")
