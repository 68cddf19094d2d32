"""Configuration of the stage `concepts` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.config import StageConfig


@dataclass
class ConceptsConfig(StageConfig):
    """Clusters of clips that show the same, and what they say of each clip (§7.1 Video Concept Balancing, §7.2)."""

    clusters: int = 120_000  # the report's number; fewer where there are not `min_clips` clips for each
    min_clips: int = 8  # a cluster on average
    cell: int = 1024  # clusters that one K-means finds; more are found cell by cell, so that memory is bounded
    iterations: int = 5  # of K-means after its seeding
    seeds: int = 8  # clips a cluster that the seeding joins bottom-up
    sample: int = 256  # clips a cluster that K-means learns from; the others are only assigned
    max_distance: float = 2.0  # cosine distance to the centre, 0 to 2; beyond it a clip is an outlier
    outlier_mads: float = 6.0  # so many median absolute deviations above its cluster's median distance too; 0: no limit
    duplicate_sim: float = 0.98  # cosine similarity from which on two clips of a cluster are the same
    rare_power: float = 0.5  # 0: every clip weighs 1; 1: every cluster weighs the same
    max_weight: float = 4.0  # of a clip of a rare concept

    def __post_init__(self) -> None:
        for name, least in (("clusters", 1), ("min_clips", 1), ("cell", 2), ("iterations", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")
        if self.sample < self.seeds:
            raise ValueError(f"sample={self.sample}: give at least as many as seeds={self.seeds}")
        if not 0 <= self.max_distance <= 2 or self.outlier_mads < 0:
            raise ValueError(
                f"max_distance={self.max_distance:g}, outlier_mads={self.outlier_mads:g}: give 0 to 2, and 0 or more"
            )
        if not 0 < self.duplicate_sim <= 1:
            raise ValueError(f"duplicate_sim={self.duplicate_sim:g}: give a cosine similarity above 0, 1 at most")
        if not 0 <= self.rare_power <= 1 or self.max_weight < 1:
            raise ValueError(
                f"rare_power={self.rare_power:g}, max_weight={self.max_weight:g}: give 0 to 1, and 1 or more"
            )
