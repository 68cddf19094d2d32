"""The machine that predictions are for: a GPU of the catalogue with priors, or one that was calibrated; torch-free.

`stepvideo emulate calibrate` writes what it measured into a folder of the user's, one pair of files a device and
precision: whoever predicts on this machine later finds them there.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from stepvideo.emulator import calibration as constants
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import GPU, catalogue, find
from stepvideo.errors import ConfigError
from stepvideo.storage import write_atomic

VARIABLE = "STEPVIDEO_CALIBRATION"
CONSTANTS, HARDWARE = ".calibration.yaml", ".hardware.yaml"


@dataclass(frozen=True)
class Target:
    """`basis` says in words where its constants are from."""

    name: str
    gpu: GPU
    calibration: Calibration
    basis: str
    element: int = 2  # bytes of what was measured


def folder() -> Path:
    """Of the calibrations of this machine; $STEPVIDEO_CALIBRATION, or the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(cache) / "stepvideo" / "calibration")


def slug(device: str, precision: str) -> str:
    """Name of a device's files."""
    return re.sub(r"[^a-z0-9]+", "-", f"{device} {precision}".lower()).strip("-")


def element_of(precision: str) -> int:
    """Bytes of a number; `precision` may be a name that ends with it."""
    return 4 if precision.endswith("fp32") else 2


def calibrated(path: Path) -> Target:
    """What `save` wrote; `path` is the file of constants.

    Raises:
        ConfigError: a file that is missing or does not read.
    """
    name = path.name.removesuffix(CONSTANTS)
    hardware = path.with_name(name + HARDWARE)
    if not hardware.exists():
        raise ConfigError(
            f"calibration {path}: {hardware.name} is missing beside it; run `stepvideo emulate calibrate`"
        )
    found = constants.read(path)
    kinds = " and ".join(sorted({kind.split()[0] for kind in found.provenance.values()})) or "prior"
    return Target(name, find(name, hardware), found, f"{kinds}, {path.name}", element_of(name))


def save(gpu: GPU, calibration: Calibration, directory: Path, name: str) -> Path:
    """Writes both files of a device; the path of the constants."""
    from omegaconf import OmegaConf

    write_atomic(directory / (name + HARDWARE), OmegaConf.to_yaml(OmegaConf.create({name: asdict(gpu)})))
    path = directory / (name + CONSTANTS)
    constants.save(calibration, path)
    return path


def of_device(device: str, precision: str) -> Target | None:
    """Of a device as torch names it: its calibration, or the catalogue's GPU that its name contains; None: neither."""
    path = folder() / (slug(device, precision) + CONSTANTS)
    if path.exists():
        return calibrated(path)
    for name, gpu in sorted(catalogue().items(), key=lambda item: -len(item[0])):
        if name.lower() in device.lower():
            return Target(name, gpu, Calibration(), f"prior for {name}, not calibrated", element_of(precision))
    return None


def target(gpu: str = "", file: str = "") -> Target:
    """The one that is asked for: a calibration file, a GPU of the catalogue, or this machine's newest calibration.

    A machine that was never calibrated is the catalogue's CPU.

    Raises:
        ConfigError: neither a file nor a GPU of that name.
    """
    if file:
        return calibrated(Path(file))
    if gpu:
        return Target(gpu, find(gpu), Calibration(), f"prior for {gpu}, not calibrated")
    files = sorted(folder().glob("*" + CONSTANTS), key=lambda p: p.stat().st_mtime)
    return calibrated(files[-1]) if files else Target("cpu", find("cpu"), Calibration(), "prior for a CPU core")
