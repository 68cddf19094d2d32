"""A golden folder: cases of inputs and of the outputs that the released code gave for them.

    <case>.json                    what the case is (`kind`), its configuration, the names and shapes of its tensors
    <case>.io.safetensors          `in.*` and `out.*`
    <case>.weights.safetensors     of the kinds that have weights, under the released names

Floats are stored as bf16 where that is exact; inputs and weights are read as float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.models.tensor_files import read
from stepvideo.models.weights import fill, listing

V = TypeVar("V")
M = TypeVar("M", bound=nn.Module)


class NotUnderstood(StepVideoError):
    """A case asks for something that this version does not know; nothing is wrong with its files."""


class Asked(Mapping[str, V]):
    """A mapping that remembers what it was asked for, so that what nobody understood can be told."""

    def __init__(self, values: Mapping[str, V], where: str) -> None:
        self._values, self._where, self._asked = dict(values), where, set[str]()

    def __getitem__(self, key: str) -> V:
        self._asked.add(key)
        if key not in self._values:
            raise ArtifactError(f"{self._where} lacks {key!r}; it has {', '.join(self._values) or 'nothing'}")
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def skip(self, *names: str) -> None:
        """What has no influence: prose, and what the tensors say themselves."""
        self._asked.update(names)

    def rest(self) -> list[str]:
        """What was not asked for; names that begin with an underscore are prose."""
        return [name for name in self._values if name not in self._asked and not name.startswith("_")]

    def within(self, key: str) -> Asked[Any]:
        """The mapping under a key."""
        return Asked(self[key], f"{self._where}: {key}")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One case; `dtype` is that of the computation."""

    name: str
    folder: Path
    config: Asked[Any]
    inputs: Asked[Tensor]
    outputs: Mapping[str, Tensor]  # as stored
    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        return str(self.config["kind"])

    def load(self, model: M) -> M:
        """Gives the model, which is on the meta device, the case's weights, in the dtype of the computation.

        Raises:
            ArtifactError: names the file, and up to three tensors that are missing, unexpected or of another shape.
        """
        held = listing(self.folder, f"{self.name}.weights")
        own = {_checkpoint_name(name): name for name in model.state_dict()}
        found = {own.get(_checkpoint_name(name), name): entry for name, entry in held.items()}
        try:
            fill(model, found, self.folder / f"{self.name}.weights.safetensors", dtype=torch.float32)
        except ArtifactError as e:
            raise ArtifactError(str(e).replace("its config", f"{self.name}.json")) from e
        return model.eval().requires_grad_(False).to(self.dtype)

    def sibling(self, name: str) -> Case:
        """Another case of the folder, to be computed in the same dtype."""
        return replace(read_case(self.folder / f"{name}.json"), dtype=self.dtype)


def read_case(path: Path) -> Case:
    """The case of a `<case>.json`.

    Raises:
        ArtifactError: a file is missing, damaged, or does not hold the tensors that the json lists.
    """
    raw = storage.read_json(path)
    tensors = dict(read(listing(path.parent, f"{path.stem}.io")))
    io = path.with_suffix(".io.safetensors")
    inputs = {name[3:]: _float32(t) for name, t in tensors.items() if name.startswith("in.")}
    outputs = {name[4:]: t for name, t in tensors.items() if name.startswith("out.")}
    if stray := [name for name in tensors if not name.startswith(("in.", "out."))]:
        raise ArtifactError(f"{io}: tensors are named in.* or out.*, not {', '.join(stray[:3])}")
    for listed, found in (("inputs", inputs), ("outputs", outputs)):
        for name, entry in raw.get(listed, {}).items():
            shape = list(entry["shape"] if isinstance(entry, dict) else entry[0])
            held = list(found[name].shape) if name in found else "none"
            if held != shape:
                raise ArtifactError(f"{path} lists {listed} {name} of {shape}, {io.name} holds {held}: copy both again")
    config = Asked(raw, str(path))
    config.skip("case", "kind", "seed", "inputs", "outputs", "torch", "note")
    return Case(path.stem, path.parent, config, Asked(inputs, str(io)), outputs)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _checkpoint_name(name: str) -> str:
    """The one module whose name in the file and in the network differ, in one version of the VAE."""
    return name.replace("decoder.conv_out.conv.", "decoder.conv_out.")
