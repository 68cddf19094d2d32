"""Tensors on disk as released checkpoints hold them: one safetensors file, or shards with an index.

Writing is atomic a file and the index comes last; reading is strict and names the file and the tensor that do not fit.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.errors import ArtifactError

SHARD_BYTES = 10 * 1000**3


def save_tensors(state: Mapping[str, Tensor], folder: Path, stem: str, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write `folder/stem.safetensors`, or `stem-00001-of-0000N.safetensors` and `stem.safetensors.index.json` above a
    size.

    Tensors keep their dtype and order; equal tensors give equal bytes. Files of an earlier save under the same stem
    go away.

    Raises:
        ArtifactError: names the file that could not be written, and why.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    shards = _split(tensors, shard_bytes)
    n = len(shards)
    names = [f"{stem}.safetensors"] if n == 1 else [f"{stem}-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    index = folder / f"{stem}.safetensors.index.json"
    index.unlink(missing_ok=True)  # from here to the end the checkpoint is absent, never a mixture
    for name, keys in zip(names, shards):
        _save_file({k: tensors[k] for k in keys}, folder / name)
    written = [folder / name for name in names]
    if n > 1:
        size = sum(v.nbytes for v in tensors.values())
        weight_map = {k: name for name, keys in zip(names, shards) for k in keys}
        storage.write_json(index, {"metadata": {"total_size": size}, "weight_map": weight_map})
        written.append(index)
    shard = re.compile(re.escape(stem) + r"(-\d{5}-of-\d{5})?\.safetensors")
    for old in folder.iterdir():
        if shard.fullmatch(old.name) and old not in written:
            old.unlink()
    return written


def _split(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
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
        save_file(tensors, tmp, metadata={"format": "pt"})
        with tmp.open("rb+") as f:
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except (OSError, SafetensorError) as e:
        tmp.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {path}: {e}; free space or choose another folder") from e


def read_tensors(folder: Path, stem: str, pickled: str = "") -> tuple[dict[str, Tensor], dict[str, Path]]:
    """All tensors saved under a stem, memory-mapped, and the file that each came from.

    Args:
        pickled: name of a torch file to fall back on (read with `weights_only=True`); the released CLIP is one.

    Raises:
        ArtifactError: if a file is missing or damaged, or the index names a tensor that its shard lacks.
    """
    folder = Path(folder)
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.exists():
        return _read_shards(folder, index)
    if single.exists():
        tensors = _load_file(single)
        return tensors, dict.fromkeys(tensors, single)
    if pickled and (folder / pickled).exists():
        tensors = torch.load(folder / pickled, map_location="cpu", weights_only=True, mmap=True)
        return tensors, dict.fromkeys(tensors, folder / pickled)
    raise ArtifactError(f"{single} is missing (and no {index.name}); point to the folder of a complete checkpoint")


def _read_shards(folder: Path, index: Path) -> tuple[dict[str, Tensor], dict[str, Path]]:
    weight_map: dict[str, str] = storage.read_json(index)["weight_map"]
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(weight_map.values()):
        shard = _load_file(folder / name)
        for key in (k for k, file in weight_map.items() if file == name):
            if key not in shard:
                raise ArtifactError(f"{folder / name} lacks tensor {key}, which {index.name} places there")
            tensors[key] = shard[key]
    return tensors, {k: folder / name for k, name in weight_map.items()}


def _load_file(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise ArtifactError(f"{path} is missing; copy the whole checkpoint folder")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise ArtifactError(f"{path} is damaged or no safetensors file: {e}") from e


def assign(model: nn.Module, tensors: Mapping[str, Tensor], origin: Mapping[str, Path], where: Path) -> None:
    """Give `model` (which may be on the meta device) exactly these tensors, in their own dtype.

    Raises:
        ArtifactError: on missing or unexpected names and on wrong shapes; names up to three of each.
    """
    wanted = model.state_dict()
    problems = []
    if missing := [k for k in wanted if k not in tensors]:
        problems.append(f"{len(missing)} tensors are missing: {_few(missing)}")
    if extra := [f"{k} ({origin[k].name})" for k in tensors if k not in wanted]:
        problems.append(f"{len(extra)} tensors are not of this model: {_few(extra)}")
    shapes = [
        f"{k} in {origin[k].name} is {list(v.shape)}, the config makes it {list(wanted[k].shape)}"
        for k, v in tensors.items()
        if k in wanted and v.shape != wanted[k].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} shapes differ: {_few(shapes)}")
    if problems:
        raise ArtifactError(f"{where} does not fit its config.json: " + "; ".join(problems))
    model.load_state_dict(dict(tensors), strict=True, assign=True)


def _few(items: list[str], n: int = 3) -> str:
    return ", ".join(items[:n]) + (", …" if len(items) > n else "")
