"""Typed configuration: dataclasses in, plain dicts across processes, unknown keys are errors.

A stage's config is one dataclass that inherits `StageConfig`. Every field changes the output and is hashed into the
stage's key, except those under `runtime`, which say how it is run.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from stepvideo.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")


@dataclass
class Runtime:
    """How a stage runs. Nothing here may change its result (bit for bit only at equal `nproc` and `threads`)."""

    nproc: int = 1  # ranks; more than one starts torchrun with gloo (CPU) or nccl (GPU)
    threads: int = 0  # torch intra-op threads a rank; 0: all cores
    workers: int = 0  # loader or pool processes; 0: in-process, or all cores for pools
    log_every: int = 10  # training steps between metric rows
    checkpoint_every: int = 100  # training steps between resumable checkpoints
    max_attempts: int = 2  # failures tolerated; preemptions do not count
    timeout_s: float = 0.0  # 0: none
    device: str = "auto"  # auto | cpu | cuda
    slurm: dict[str, Any] = field(default_factory=dict)  # passed to submitit as slurm_* parameters


@dataclass
class StageConfig:
    """Base of every stage config."""

    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)


def load(cls: type[T], data: Mapping[str, Any] | None, where: str = "") -> T:
    """Build `cls` from a plain mapping, with type checks.

    Raises:
        ConfigError: on an unknown key or a value of the wrong type; names the key, the value and near misses.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(structure(cls), OmegaConf.create(dict(data or {})))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as e:
        key = getattr(e, "full_key", None) or getattr(e, "key", "")
        path = ".".join(p for p in (where, str(key)) if p)
        raise ConfigError(f"config {path or cls.__name__}: {str(e).splitlines()[0]}{_hint(cls, str(key))}") from e
    except (ValueError, TypeError) as e:
        raise ConfigError(f"config {where or cls.__name__}: {e}") from e


@functools.cache
def structure(cls: type) -> DictConfig:
    """The defaults and types of a dataclass, not to be changed: to make them takes longer than all else in `load`."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(cls)


def _hint(cls: type, key: str) -> str:
    """A "did you mean" for the last part of a dotted key, looked up in the dataclass it belongs to."""
    *parents, last = key.split(".") if key else [""]
    current: Any = cls
    for p in parents:
        found = {f.name: f for f in fields(current)} if is_dataclass(current) else {}
        if p not in found:
            return ""
        factory = found[p].default_factory
        current = factory if isinstance(factory, type) else None
    names = [f.name for f in fields(current)] if is_dataclass(current) else []
    if not last or last in names:
        return ""
    near = difflib.get_close_matches(last, names, n=3)
    return f"; did you mean {', '.join(near)}?" if near else f"; known keys: {', '.join(names)}"


def dump(obj: Any) -> dict[str, Any]:
    """A dataclass config as a plain, JSON-able dict."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.structured(obj), resolve=True, enum_to_str=True)  # type: ignore[return-value]


def plain(obj: Any) -> Any:
    """As `dump`, without its checks: of a config that `load` made."""
    if is_dataclass(obj):
        return {f.name: plain(getattr(obj, f.name)) for f in fields(obj)}
    if isinstance(obj, Mapping):
        return {key: plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    return obj.name if isinstance(obj, Enum) else obj


def result_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The hashed part of a stage config: everything but `runtime`."""
    return {k: v for k, v in config.items() if k != "runtime"}


def canonical(obj: Any) -> str:
    """JSON with sorted keys and no spaces: equal objects give equal text on every machine."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(obj: Any) -> str:
    """sha256 of the canonical JSON of `obj`, in hex."""
    return hashlib.sha256(canonical(obj).encode()).hexdigest()
