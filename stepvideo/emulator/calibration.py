"""The constants of the cost model, with the range physics allows each and where its value comes from; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from stepvideo.errors import ConfigError
from stepvideo.storage import write_atomic

KINDS = ("prior", "fitted", "measured")


def _constant(prior: float, low: float, high: float, meaning: str) -> Any:
    return field(default=prior, metadata={"low": low, "high": high, "meaning": meaning})


@dataclass(frozen=True)
class Calibration:
    """Defaults are priors. `provenance` names those constants that are not: "fitted" or "measured", and on what."""

    gemm_efficiency: float = _constant(0.75, 0.3, 0.95, "share of the peak that an endless matrix product reaches")
    gemm_wave: float = _constant(
        1.0, 0.0, 1.0, "share of the empty part of a product's last wave of tiles that is lost"
    )
    gemm_unaligned: float = _constant(
        0.4, 0.1, 1.0, "share of its efficiency left to a product whose rows are of odd length"
    )
    attention_efficiency: float = _constant(0.55, 0.15, 0.85, "share of the peak of a long fused attention")
    attention_half: float = _constant(512.0, 0.0, 4096.0, "tokens at which fused attention is half as efficient")
    memory_efficiency: float = _constant(
        0.75, 0.05, 0.95, "share of the memory's bandwidth that operators between products reach"
    )
    stream_efficiency: float = _constant(
        0.85, 0.3, 0.95, "share of the memory's bandwidth that copies, sums and optimizers reach"
    )
    kernel_s: float = _constant(4e-6, 0.0, 3e-5, "seconds of the GPU that a kernel takes beside its work")
    launch_s: float = _constant(6e-6, 1e-6, 5e-5, "seconds the host takes to start one kernel")
    intra_efficiency: float = _constant(0.78, 0.2, 0.95, "share of the links inside a node that collectives reach")
    inter_efficiency: float = _constant(0.8, 0.1, 0.95, "share of the links between nodes that collectives reach")
    intra_latency_s: float = _constant(5e-6, 5e-7, 3e-5, "seconds a collective takes for each hop inside a node")
    inter_latency_s: float = _constant(2e-5, 2e-6, 1e-4, "seconds a collective takes for each hop between nodes")
    tensor_overlap: float = _constant(0.0, 0.0, 0.95, "share of tensor ranks' exchanges behind computation")
    context_overlap: float = _constant(0.0, 0.0, 0.95, "share of Ulysses exchanges behind computation")
    pipeline_overlap: float = _constant(0.0, 0.0, 0.95, "share of stages' exchanges behind computation")
    data_overlap: float = _constant(0.5, 0.0, 0.98, "share of data ranks' exchanges behind computation")
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (low, high) in ranges().items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"calibration: {name}={value:g} is outside the physical range {low:g} to {high:g}")
        for name, kind in self.provenance.items():
            if name not in CONSTANTS or kind.split()[0] not in KINDS:
                raise ConfigError(
                    f"calibration: provenance of {name}={kind!r}: constants are {', '.join(CONSTANTS)}; "
                    f"give {' or '.join(KINDS)}, and on what"
                )

    def with_(self, kind: str, **values: float) -> Calibration:
        """These values, which `kind` (such as "fitted on a100.csv") says where they come from."""
        return replace(self, **values, provenance=self.provenance | dict.fromkeys(values, kind))

    def values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in CONSTANTS}


CONSTANTS = tuple(f.name for f in fields(Calibration) if "low" in f.metadata)


def ranges() -> dict[str, tuple[float, float]]:
    """Lowest and highest value that is physical, of every constant."""
    return {f.name: (f.metadata["low"], f.metadata["high"]) for f in fields(Calibration) if "low" in f.metadata}


def meanings() -> dict[str, str]:
    return {f.name: f.metadata["meaning"] for f in fields(Calibration) if "low" in f.metadata}


def save(calibration: Calibration, path: Path) -> None:
    """Writes `path` as YAML: a constant's value, provenance and meaning each."""
    from omegaconf import OmegaConf

    said = meanings()
    rows = {
        name: {"value": value, "provenance": calibration.provenance.get(name, "prior"), "meaning": said[name]}
        for name, value in calibration.values().items()
    }
    write_atomic(path, OmegaConf.to_yaml(OmegaConf.create(rows)))


def read(path: Path) -> Calibration:
    """What `save` wrote; constants that the file lacks stay priors.

    Raises:
        ConfigError: no such file, an unknown constant, no number, or a value that is not physical.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        rows = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as e:
        raise ConfigError(f"calibration file {path}: {e}") from e
    if not isinstance(rows, dict):
        raise ConfigError(f"calibration file {path}: give a mapping from constants to value and provenance")
    values, provenance = {}, {}
    for name, row in rows.items():
        value = row.get("value") if isinstance(row, dict) else row
        if name not in CONSTANTS or isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"calibration file {path}: {name}={value!r}; give numbers for {', '.join(CONSTANTS)}")
        values[name] = float(value)
        kind = row.get("provenance", "prior") if isinstance(row, dict) else "prior"
        if kind != "prior":
            provenance[name] = str(kind)
    return Calibration(**values, provenance=provenance)
