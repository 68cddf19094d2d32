"""How many samples make a pack: Eq. 12 of the report and the memory limit. Pure functions of numbers by bucket."""

from __future__ import annotations

from collections.abc import Mapping

from stepvideo.errors import ConfigError

Sizes = dict[str, int]  # by bucket


def eq12(flops: Mapping[str, float], target: float, alpha: float) -> Sizes:
    """Eq. 12: B_r = floor(F_target / (alpha F_r)), but never less than 1."""
    return {b: max(1, int(target / (alpha * f) * (1 + 1e-9))) for b, f in flops.items()}


def batches(videos: Mapping[str, int], batch_sizes: Mapping[str, int]) -> Sizes:
    """Batches of each bucket in an epoch; the last one may be short."""
    return {b: -(-n // batch_sizes[b]) for b, n in videos.items()}


def mean_size(videos: Mapping[str, int], batch_sizes: Mapping[str, int]) -> float:
    """Videos in a batch, on average over an epoch."""
    return sum(videos.values()) / sum(batches(videos, batch_sizes).values())


def solve_alpha(flops: Mapping[str, float], target: float, videos: Mapping[str, int], mean: float) -> float:
    """The alpha of Eq. 12, 1 or more, by which a batch comes closest to `mean` videos on average; ties: the smallest.

    Batch sizes change only where F_target / (alpha F_r) is a whole number, so these values are all that there are.
    """
    steps = {target / (f * k) for f in flops.values() for k in range(1, int(target / f) + 1)}
    choice = sorted({1.0, *(a for a in steps if a > 1)})
    return min(choice, key=lambda a: abs(mean_size(videos, eq12(flops, target, a)) - mean))


def within_memory(batch_sizes: Sizes, tokens: Mapping[str, int], limit: int, reserve: int, asked: int) -> Sizes:
    """Batch sizes cut to what fits.

    Args:
        tokens: of one sample of each bucket.
        limit: tokens of a pack.
        reserve: tokens of the images that a pack has to have room for.
        asked: samples that must fit: Eq. 12 may give fewer or more, and only more is cut.

    Raises:
        ConfigError: fewer than asked for fit.
    """
    cut = {}
    for bucket, size in batch_sizes.items():
        fit, need = max(0, limit - reserve) // tokens[bucket], min(asked, size)
        if fit < need:
            fix = f"lower the batch size to {fit}" if fit else "share samples among ranks (context parallelism)"
            raise ConfigError(
                f"balance.max_tokens={limit}: of bucket {bucket} ({tokens[bucket]} tokens a sample) {fit} fit in a "
                f"pack beside {reserve} tokens of images, and {need} must: {fix}, leave the bucket out, or set "
                f"max_tokens to {need * tokens[bucket] + reserve} if memory allows"
            )
        cut[bucket] = min(size, fit)
    return cut
