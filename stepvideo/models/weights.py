"""Tensors on disk as released checkpoints hold them: one safetensors file, or shards with an index.

Writing is atomic a file and the index comes last; reading is strict and names the file and the tensor that do not fit.
Both go through memory one shard, or one tensor, at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.tensor_files import DTYPES, Entry, entries, read

SHARD_BYTES = 10 * 1000**3
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_LOG = logging.getLogger(__name__)


Value = Callable[[str, Tensor], Tensor]  # a tensor's name and the tensor → what is written, or held, in its place


def same(_name: str, tensor: Tensor) -> Tensor:
    return tensor


class _Undrawn(TorchFunctionMode):
    """Weights are left as they were made. Drawn on the meta device, they would be no other, but that takes longer than
    all else of building a network, and torch imports its compiler for normal ones."""

    DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if function in self.DRAWS else function(*args, **kwargs)


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Networks built within are on the meta device."""
    with torch.device("meta"), _Undrawn():
        yield


def save_tensors(
    state: Mapping[str, Tensor], folder: Path, stem: str, shard_bytes: int = SHARD_BYTES, value: Value = same
) -> list[Path]:
    """Write `folder/stem.safetensors`, or `stem-00001-of-0000N.safetensors` and `stem.safetensors.index.json` above a
    size.

    Tensors keep their dtype and order; equal tensors give equal bytes. Files of an earlier save under the same stem,
    finished or killed, go away. Tensors of another device come to the host a shard at a time.

    Args:
        value: what is written for a tensor of `state`, with its dtype and shape; those may be on the meta device then.

    Raises:
        ArtifactError: names the file that could not be written, and why.
    """
    try:
        return _save(state, folder, stem, shard_bytes, value)
    except (OSError, SafetensorError) as e:
        raise ArtifactError(f"cannot write {folder}/{stem}: {e}; free space or choose another folder") from e


def _save(state: Mapping[str, Tensor], folder: Path, stem: str, shard_bytes: int, value: Value) -> list[Path]:
    shards = split(state, shard_bytes)
    n = len(shards)
    names = [f"{stem}.safetensors"] if n == 1 else [f"{stem}-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    index = folder / f"{stem}.safetensors.index.json"
    index.unlink(missing_ok=True)  # from here to the end the checkpoint is absent, never a mixture
    for name, keys in zip(names, shards):
        _save_file({k: value(k, state[k]).detach().cpu().contiguous() for k in keys}, folder / name)
    written = [folder / name for name in names]
    if n > 1:
        size = sum(v.nbytes for v in state.values())
        weight_map = {k: name for name, keys in zip(names, shards) for k in keys}
        storage.write_json(index, {"metadata": {"total_size": size}, "weight_map": weight_map})
        written.append(index)
    shard = re.compile(rf"\.?{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.tmp-[0-9a-f]{{8}})?")
    for old in folder.iterdir():
        if shard.fullmatch(old.name) and old not in written:
            old.unlink()
    return written


def split(state: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names shard by shard, in order; a shard takes what fits below `shard_bytes`, and at least one tensor."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in state.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.touch(exist_ok=False)
        mode = tmp.stat().st_mode  # what the umask allows; safetensors makes files for their owner alone
        save_file(tensors, tmp, metadata={"format": "pt"})
        tmp.chmod(mode)
        with tmp.open("rb+") as f:
            os.fsync(f.fileno())
        os.replace(tmp, path)
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def listing(folder: Path, stem: str, pickled: str = "") -> dict[str, Entry]:
    """Every tensor saved under a stem, from the headers of its files.

    Args:
        pickled: name of a torch file to fall back on (read with `weights_only=True`); the released CLIP is one.

    Raises:
        ArtifactError: a file is missing or damaged, or the index and its shards are not of one save.
    """
    folder = Path(folder)
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.exists():
        return _sharded(folder, index)
    if single.exists():
        return entries(single)
    if pickled and (folder / pickled).exists():
        return entries(folder / pickled)
    if parts := sorted(folder.glob(f"{stem}-*-of-*.safetensors")):
        raise ArtifactError(f"{index} is missing beside {len(parts)} shards; copy it from where they came from")
    raise ArtifactError(f"{single} is missing (and no {index.name}); point to the folder of a complete checkpoint")


def _sharded(folder: Path, index: Path) -> dict[str, Entry]:
    content = storage.read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(map(_beside, weight_map, weight_map.values())):
        raise ArtifactError(f"{index} has no weight_map from tensors to files beside it; copy it again")
    names = sorted(set(weight_map.values()))
    _check_count(index, names)
    found: dict[str, Entry] = {}
    for name in names:
        shard = entries(folder / name)
        promised = [k for k, file in weight_map.items() if file == name]
        if lacking := [k for k in promised if k not in shard]:
            raise ArtifactError(
                f"{folder / name} lacks tensor {lacking[0]}, which {index.name} places there: the files are of "
                "different saves; copy all of one"
            )
        if extra := sorted(set(shard) - set(promised)):
            raise ArtifactError(
                f"{folder / name} holds tensor {extra[0]}, which {index.name} does not place there: the files are of "
                "different saves; copy all of one"
            )
        found |= {k: shard[k] for k in promised}
    if problem := wrong_total(index, found):
        _LOG.warning(problem)
    return {k: found[k] for k in weight_map}


def _beside(tensor: str, file: object) -> bool:
    return tensor.isprintable() and file == Path(str(file)).name


def _check_count(index: Path, names: list[str]) -> None:
    counts = {int(m[2]) for name in names if (m := _SHARD.search(name))}
    if counts and counts != {len(names)}:
        said = " and ".join(str(c) for c in sorted(counts))
        raise ArtifactError(
            f"{index} names {len(names)} shards, whose names speak of {said}: the files are of different saves; "
            "copy all of one"
        )


def wrong_total(index: Path, found: Mapping[str, Entry]) -> str:
    """What is wrong with the index's `total_size`, if anything: not worth refusing weights that fit otherwise."""
    metadata = storage.read_json(index).get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    size = sum(e.nbytes for e in found.values())
    return "" if said in (None, size) else f"{index} says total_size {said}, its tensors have {size} bytes"


@dataclass
class Fit:
    """How the tensors of a file differ from those of a network; every item names the tensor, and the file it is in."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        titles = {
            "missing": "tensors are missing",
            "unexpected": "tensors are not of this model",
            "shapes": "shapes differ",
            "dtypes": "tensors have another dtype",
        }
        found = {title: getattr(self, name) for name, title in titles.items()}
        return [f"{len(items)} {title}: {_few(items)}" for title, items in found.items() if items]


def fit(model: nn.Module, found: Mapping[str, Entry], dtype: torch.dtype | None = None) -> Fit:
    """Compare with a network, which may be on the meta device.

    Args:
        dtype: what everything is going to be converted to; without it, one network must have one dtype.
    """
    wanted = model.state_dict()
    kinds = Counter(e.dtype for k, e in found.items() if k in wanted)
    return Fit(
        missing=[k for k in wanted if k not in found],
        unexpected=[f"{k} ({e.file.name})" for k, e in found.items() if k not in wanted],
        shapes=[
            f"{k} in {e.file.name} is {list(e.shape)}, the config makes it {list(wanted[k].shape)}"
            for k, e in found.items()
            if k in wanted and e.shape != tuple(wanted[k].shape)
        ],
        dtypes=[
            f"{k} in {e.file.name} is {e.dtype}, {reason}"
            for k, e in found.items()
            if k in wanted and (reason := _objection(e.dtype, kinds, dtype))
        ],
    )


def _objection(name: str, kinds: Counter[str], wanted: torch.dtype | None) -> str:
    """Why a network of this many tensors by dtype takes none of this one; "" if it does."""
    if not DTYPES[name].is_floating_point or DTYPES[name].itemsize == 1:
        return "where weights are floats of 16 bits or more"
    common, n = kinds.most_common(1)[0]
    return "" if wanted is not None or name == common else f"{n} others are {common}"


def require_fit(
    model: nn.Module, found: Mapping[str, Entry], where: Path, dtype: torch.dtype | None = None, hint: str = ""
) -> None:
    """Refuse what `fit` finds different, with a hint at what it probably is.

    Raises:
        ArtifactError: names up to three tensors of each kind of difference.
    """
    if problems := fit(model, found, dtype).problems():
        if hint:
            problems.append(hint)
        elif len(problems) == 1 and "others are" in problems[0]:
            problems.append("files of two saves? Copy all of one, or load with dtype= to convert them")
        raise ArtifactError(f"{where} does not fit its config: " + "; ".join(problems))


def fill(
    model: nn.Module,
    found: Mapping[str, Entry],
    where: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    hint: str = "",
    place: Value = same,
) -> None:
    """Give `model`, built on the meta device, exactly these tensors on `device`, in their own dtype or in `dtype`.

    Beside the target, host memory holds one tensor at a time. On the device "meta" they are read and let go.

    Args:
        hint: said beside what does not fit.
        place: what the model holds of a tensor read, by its name: a parallel plan's shard.

    Raises:
        ArtifactError: on missing or unexpected names, wrong shapes and mixed dtypes; names up to three of each.
    """
    require_fit(model, found, where, dtype, hint)
    held = {name: place(name, tensor) for name, tensor in read(found, device, dtype)}
    model.load_state_dict(held, strict=True, assign=True)


def _few(items: list[str], n: int = 3) -> str:
    return ", ".join(items[:n]) + (", …" if len(items) > n else "")
