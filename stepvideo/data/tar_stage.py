"""Kind `shards`: a catalog as WebDataset tars, grouped by length and aspect, with an index for random access.

    68x192x320-00000.tar, …    KEY.mp4 (or the media's own suffix) and KEY.json of each sample, sorted by key
    index.parquet              a row a sample, in the order of the tars: where its bytes lie, and what it is
    left_out.json              clip id → why it fits no bucket
    shards.json                size and sha256 of every tar and of the index

KEY is the clip's id. The media is the catalog's file as it is; where the clip is a window of it, `first_frame`,
`frames` and `crop` in KEY.json say which. A single frame of a clip becomes a PNG. Any WebDataset reader streams the
tars; the index makes sample i one read at a known place. Equal catalogs give equal bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stepvideo import storage
from stepvideo.data.buckets import Bucket, bucket_of, buckets
from stepvideo.data.captions import captioned
from stepvideo.data.clips import Clip, load_catalog, load_ids, read_clip
from stepvideo.data.shards import hand_over
from stepvideo.data.tar_shards import BLOCK, COLUMNS, INDEX, padded
from stepvideo.data.tar_shards_config import TarShardsConfig
from stepvideo.data.video_io import encode_image
from stepvideo.errors import ArtifactError, Preempted, StepVideoError
from stepvideo.stage import StageContext


class Sample(NamedTuple):
    """A clip on its way into a tar."""

    clip: Clip
    bucket: Bucket
    suffix: str  # of the media, with its dot

    @property
    def record(self) -> bytes:
        """KEY.json."""
        return json.dumps(asdict(self.clip) | {"bucket": str(self.bucket)}, ensure_ascii=False, sort_keys=True).encode()


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate; subsets if the config names one; captions, if there are. Finished tars stay in `ctx.work`.

    Returns:
        clips (that went in), samples, left_out, tars, bytes.

    Raises:
        StepVideoError: a subset is named without the input, or no clip fits a bucket.
        ArtifactError: a media file is missing, or changes while it is read.
    """
    cfg: TarShardsConfig = ctx.config
    root = ctx.inputs["curate"]
    if cfg.subset and "subsets" not in ctx.inputs:
        raise StepVideoError(f"shards: subset={cfg.subset!r} needs the input subsets, whose ids it names")
    clips = load_catalog(root, load_ids(ctx.inputs["subsets"] / f"{cfg.subset}.parquet") if cfg.subset else None)
    clips = captioned(clips, ctx.inputs.get("captions"))
    samples, left_out = _grouped(clips, buckets(cfg.buckets))
    if not samples:
        reason = next(iter(left_out.values()), "the catalog is empty")
        raise StepVideoError(f"shards: none of {len(clips)} clips goes into a shard: {reason}")
    rows: list[dict[str, Any]] = []
    names = []
    for name, group in _packed(samples, root, cfg.shard_mb * 1e6):
        note = ctx.work / f"{name}.json"  # written after its tar: it marks it as complete
        if not note.exists():
            storage.write_json(note, _write_tar(ctx.work / name, group, root))
        rows += storage.read_json(note)
        names.append(name)
        ctx.sink.progress(len(rows), len(samples), "samples")
        if ctx.should_stop():
            raise Preempted(f"shards: stopped after {len(names)} tars")
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), ctx.work / INDEX, compression="zstd")
    hand_over(ctx.work, ctx.out, [*names, INDEX])
    storage.write_json(ctx.out / "left_out.json", left_out)
    written = sum((ctx.out / name).stat().st_size for name in names)
    counts = {"clips": len(clips), "samples": len(rows), "left_out": len(left_out), "tars": len(names)}
    return {k: float(v) for k, v in (counts | {"bytes": written}).items()}


def _grouped(clips: Sequence[Clip], choice: Sequence[Bucket]) -> tuple[list[Sample], dict[str, str]]:
    """Samples sorted by bucket and key, and the clips that fit none. A video never goes where stills are."""
    stills = [b for b in choice if b.frames == 1]
    videos = [b for b in choice if b.frames > 1]
    samples, left_out = [], {}
    for clip in clips:
        try:
            bucket = bucket_of(clip.frames, clip.height, clip.width, videos if clip.kind == "clip" else stills)
        except ValueError as e:
            left_out[clip.clip_id] = str(e)
            continue
        suffix = ".png" if clip.kind == "frame" else Path(clip.file).suffix.lower()
        samples.append(Sample(clip, bucket, suffix))
    return sorted(samples, key=lambda s: (s.bucket, s.clip.clip_id)), left_out


def _packed(samples: Sequence[Sample], root: Path, limit: float) -> Iterator[tuple[str, list[Sample]]]:
    """Names of tars and what goes into each: samples of one bucket, of at most `limit` bytes together."""
    group: list[Sample] = []
    size = number = 0
    for sample in samples:
        room = _room(sample, root)
        if group and (sample.bucket != group[0].bucket or size + room > limit):
            yield _name(group[0].bucket, number), group
            number = number + 1 if sample.bucket == group[0].bucket else 0
            group, size = [], 0
        group.append(sample)
        size += room
    yield _name(group[0].bucket, number), group


def _name(bucket: Bucket, number: int) -> str:
    return f"{bucket}-{number:05d}.tar"


def _room(sample: Sample, root: Path) -> int:
    """Bytes that a sample takes in a tar; of one that is still to be encoded, the most that it may take."""
    clip = sample.clip
    try:
        pixels = clip.height * (3 * clip.width + 1)  # of a PNG that could not be made smaller
        media = pixels + BLOCK if clip.kind == "frame" else (root / clip.file).stat().st_size
    except OSError as e:
        raise ArtifactError(f"shards: clip {clip.clip_id}: {root / clip.file}: {e.strerror or e}") from e
    return 2 * BLOCK + padded(media) + padded(len(sample.record))


def _write_tar(path: Path, samples: Sequence[Sample], root: Path) -> list[dict[str, Any]]:
    """Write a tar whole or not at all; its rows of the index."""
    tmp = path.with_suffix(".tmp")
    rows = []
    try:
        with tmp.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for sample in samples:
                    clip, record = sample.clip, sample.record
                    with _media(sample, root) as media:
                        offset, size = _add(tar, file, clip.clip_id + sample.suffix, media)
                    json_offset, json_size = _add(tar, file, f"{clip.clip_id}.json", io.BytesIO(record))
                    where = {"offset": offset, "size": size, "json_offset": json_offset, "json_size": json_size}
                    about = {n: getattr(clip, n) for n in ("kind", "first_frame", "frames", "height", "width", "fps")}
                    named = {"tar": path.name, "key": clip.clip_id, "suffix": sample.suffix}
                    rows.append(named | where | {"bucket": str(sample.bucket)} | about)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as e:
        tmp.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {path}: {e.strerror or e}; free space, or look for what changed") from e
    return rows


def _media(sample: Sample, root: Path) -> BinaryIO:
    if sample.clip.kind == "frame":
        return io.BytesIO(encode_image(read_clip(root, sample.clip)[0]))
    return (root / sample.clip.file).open("rb")


def _add(tar: tarfile.TarFile, file: BinaryIO, name: str, content: BinaryIO) -> tuple[int, int]:
    """Append a member without owner or time; where its content is, and its size."""
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    offset = file.tell() + BLOCK
    tar.addfile(info, content)
    return offset, info.size
