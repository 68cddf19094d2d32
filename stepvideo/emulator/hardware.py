"""GPUs and clusters by name, from `hardware.yaml` and from files of users; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from stepvideo.config import load
from stepvideo.errors import ConfigError

CATALOGUE = Path(__file__).with_name("hardware.yaml")


@dataclass
class GPU:
    """One accelerator as its maker states it, and how it is usually built into nodes. Units are in the names.

    Links are of one GPU in one direction: `intra_gbs` to the others of its node, `inter_gbs` to other nodes.
    Operations are dense. `multiprocessors` set how many tiles of a product are computed at once.
    """

    bf16_tflops: float
    memory_gb: float
    memory_gbs: float
    intra_gbs: float
    inter_gbs: float
    source: str
    fp8_tflops: float = 0.0  # 0: has none
    multiprocessors: int = 1
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("source", "fp8_tflops") and value <= 0:
                raise ValueError(f"{f.name}={value}: give a number above 0")

    @property
    def memory(self) -> float:
        """Bytes."""
        return self.memory_gb * 1e9

    def peak(self, precision: str = "bf16") -> float:
        """Dense operations a second.

        Raises:
            ConfigError: a precision that it does not have.
        """
        known = {"bf16": self.bf16_tflops, "fp16": self.bf16_tflops, "fp8": self.fp8_tflops}
        if not known.get(precision):
            raise ConfigError(f"precision={precision!r}: this GPU has {', '.join(k for k, v in known.items() if v)}")
        return known[precision] * 1e12


@dataclass(frozen=True)
class Cluster:
    """So many of one GPU. `straggler`: how much longer a step takes because the slowest of the ranks is waited for."""

    gpu: GPU
    gpus: int
    straggler: float = 1.0

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"gpus={self.gpus}: give 1 or more")
        if self.straggler < 1:
            raise ConfigError(f"straggler={self.straggler}: give a factor of 1 (none) or more")


def catalogue(path: Path | None = None) -> dict[str, GPU]:
    """GPUs by name; those of the file `path` (same form as `hardware.yaml`) are added and replace those of their name.

    Raises:
        ConfigError: an unreadable file, an unknown key or a value of the wrong type; names it.
    """
    return _read(CATALOGUE) | (_read(path) if path else {})


def find(name: str, path: Path | None = None) -> GPU:
    """The GPU of that name, in any case.

    Raises:
        ConfigError: there is none; lists those that are known.
    """
    known = catalogue(path)
    for key, gpu in known.items():
        if key.lower() == name.lower():
            return gpu
    raise ConfigError(
        f"gpu={name!r} is not known: give one of {', '.join(known)}, or a YAML file that describes it "
        f"(fields: {', '.join(f.name for f in fields(GPU))})"
    )


@cache
def _read(path: Path) -> dict[str, GPU]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as e:
        raise ConfigError(f"hardware file {path}: {e}") from e
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise ConfigError(f"hardware file {path}: give a mapping from the names of GPUs to their fields")
    return {str(name): _gpu(values, f"{path}: {name}") for name, values in found.items()}


def _gpu(values: dict, where: str) -> GPU:
    missing = [f.name for f in fields(GPU) if f.name not in values and f.name in REQUIRED]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; required are {', '.join(REQUIRED)}")
    return load(GPU, values, where)


REQUIRED = ("bf16_tflops", "memory_gb", "memory_gbs", "intra_gbs", "inter_gbs", "source")
