"""The share of T2I's second data set that has written text in it, which the report credits for legible text (§9.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np

from stepvideo.curation.config import WrittenTextConfig
from stepvideo.errors import StepVideoError

TAG = "text_frames"  # of the table `text`: the share of sampled frames with text that was read


def steered(
    ids: Sequence[str], text: np.ndarray, config: WrittenTextConfig, allow_few: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Leave out images with text, or without, until those with text have the share that is asked for.

    Which ones go is a function of their ids, so that more data changes little.

    Args:
        text: the tag, float64 [N]; NaN counts as without text.
        allow_few: reach the share only as far as `config.least` allows, in place of an error.

    Returns:
        Which images stay, bool [N]; and what happened: {target, before, after, with_text, without_text, unknown}.

    Raises:
        StepVideoError: the share leaves less than `config.least` of the images.
    """
    with np.errstate(invalid="ignore"):
        written = text > 0
    has, plain = int(written.sum()), int((~written).sum())
    least = ceil(config.least * len(ids))
    keep_has = min(has, floor(plain * config.share / (1 - config.share) + 1e-9)) if config.share < 1 else has
    keep_plain = min(plain, floor(has * (1 - config.share) / config.share + 1e-9))
    if keep_has + keep_plain < least:
        if not allow_few:
            raise StepVideoError(
                f"subsets: {has} of {len(ids)} images have written text ({_unknown(text)} were not read); a share of "
                f"{config.share:g} would leave {keep_has + keep_plain}, written_text.least wants {least}: change "
                "written_text.share, give other images, or read more of them (stages.tags.backends.text, kinds)"
            )
        keep_has, keep_plain = (has, least - has) if keep_plain < plain else (least - plain, plain)
    order = np.argsort([hashlib.sha256(f"written text {i}".encode()).hexdigest() for i in ids], kind="stable")
    kept = np.zeros(len(ids), bool)
    for group, count in ((written, keep_has), (~written, keep_plain)):
        kept[[i for i in order if group[i]][:count]] = True
    told = {"target": config.share, "before": _share(has, plain), "after": _share(keep_has, keep_plain)}
    return kept, told | {"with_text": keep_has, "without_text": keep_plain, "unknown": _unknown(text)}


def _unknown(text: np.ndarray) -> int:
    return int(np.isnan(text).sum())


def _share(has: int, plain: int) -> float:
    return has / max(has + plain, 1)
