"""What training has consumed: by source, kind and bucket, what came twice, and whether the mix is the configured one.

Ranks that compute on the same samples (`Layout.block`) count once: the first of each block does. There is no column
for epochs: of one bucket and source, an epoch is as many samples as it has different ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepvideo.telemetry.views import Views

BUCKET = "frames || 'x' || height || 'x' || width"  # as buckets are written everywhere
KEPT = "kept AS (SELECT *, {bucket} AS bucket FROM sample WHERE rank % {block} = 0)"


def consumption(views: Views, by: str = "source") -> list[dict[str, Any]]:
    """A row a source, kind or bucket, the largest first: samples and tokens with their shares, different samples.

    Args:
        by: source | kind | bucket.
    """
    if by not in ("source", "kind", "bucket"):
        raise ValueError(f"consumption by {by!r}: give source, kind or bucket")
    rows = views.sql(
        f"WITH {_kept(views)} SELECT {by}, count(*), sum(tokens), approx_count_distinct(sample_id) FROM kept"
        f" GROUP BY {by} ORDER BY 2 DESC, 1"
    )
    samples, tokens = sum(r[1] for r in rows) or 1, sum(r[2] for r in rows) or 1
    return [
        {by: name, "samples": n, "share": n / samples, "tokens": int(t), "token_share": float(t) / tokens,
         "different": min(d, n)}
        for name, n, t, d in rows
    ]  # fmt: skip


def duplicates(views: Views, most: int = 20) -> dict[str, Any]:
    """Samples that were consumed again within an epoch of their bucket and source.

    Returns:
        samples, repeated, rate; by_source {source: rate}; worst: those consumed most often beyond their epochs, at most
        `most` of them: sample_id, source, bucket, times, first and last step; since: the first step with one.
    """
    seen = (
        f"{_kept(views)}, numbered AS (SELECT *, row_number() OVER (PARTITION BY bucket, source ORDER BY step, rank,"
        " time_ns) - 1 AS i FROM kept), sizes AS (SELECT bucket, source, count(DISTINCT sample_id) AS different FROM"
        " kept GROUP BY ALL), epochs AS (SELECT bucket, source, sample_id, i // different AS epoch, count(*) AS times,"
        " min(step) AS first, max(step) AS last FROM numbered JOIN sizes USING (bucket, source) GROUP BY ALL)"
    )
    by = views.sql(
        f"WITH {seen} SELECT source, sum(times), sum(times - 1), min(last) FILTER (times > 1) FROM epochs"
        " GROUP BY source ORDER BY 3 DESC, 1"
    )
    samples, repeated = sum(int(r[1]) for r in by), sum(int(r[2]) for r in by)
    worst = views.sql(
        f"WITH {seen} SELECT sample_id, source, bucket, sum(times), sum(times - 1), min(first), max(last) FROM epochs"
        f" WHERE times > 1 GROUP BY ALL ORDER BY 5 DESC, 1 LIMIT {int(most)}"
    ) if repeated else []  # fmt: skip
    names = ("sample_id", "source", "bucket", "times", "again", "first", "last")
    return {
        "samples": samples,
        "repeated": repeated,
        "rate": repeated / samples if samples else 0.0,
        "since": min((r[3] for r in by if r[3] is not None), default=0),
        "by_source": {source: int(again) / int(n) for source, n, again, _ in by},
        "worst": [dict(zip(names, (*r[:3], int(r[3]), int(r[4]), *r[5:]))) for r in worst],
    }


def mix(views: Views, shares: Mapping[str, float] | None = None, first: int = 0) -> list[dict[str, Any]]:
    """A row a bucket: its share of the samples from step `first` on, and what it should be.

    Args:
        shares: {bucket such as 17x256x256: share}, scaled to 1; without them the share before `first` is expected.

    Returns:
        bucket, samples, share, expected or None; and draws, how many independent draws the shares are of: ranks' steps,
        as all samples of one are of one bucket, and fewer where the expected share is itself of so many.
    """
    rows = views.sql(
        f"WITH {_kept(views)} SELECT bucket, count(*) FILTER (step >= $1), count(*) FILTER (step < $1),"
        " count(DISTINCT (step, rank)) FILTER (step >= $1), count(DISTINCT (step, rank)) FILTER (step < $1)"
        " FROM kept GROUP BY bucket ORDER BY 2 DESC, 1",
        [first],
    )
    now, before, draws, earlier = (sum(r[i] for r in rows) for i in (1, 2, 3, 4))
    if not shares:
        draws = draws * earlier / (draws + earlier) if earlier else draws  # variance of a difference of two means
    whole = sum(shares.values()) if shares else 0.0
    found = []
    for bucket, n, past, _, _ in rows:
        expected = shares.get(bucket, 0.0) / whole if shares else past / before if before else None
        share = n / now if now else 0.0
        found.append({"bucket": bucket, "samples": n, "share": share, "expected": expected, "draws": draws})
    return found + [
        {"bucket": b, "samples": 0, "share": 0.0, "expected": (shares or {})[b] / whole, "draws": draws}
        for b in sorted(set(shares or ()) - {r[0] for r in rows})
    ]


def _kept(views: Views) -> str:
    return KEPT.format(bucket=BUCKET, block=views.layout.block)
