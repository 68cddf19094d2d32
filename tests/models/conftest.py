"""Golden tensors of the released modules (their README is ../shared/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "data" / "golden"


@dataclass
class Golden:
    """One case: its configuration, weights, inputs and outputs; floats as float32 unless the output is a bf16 one."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def read(case: str) -> Golden:
    def tensors(kind: str) -> dict[str, Tensor]:
        path = FOLDER / f"{case}.{kind}.safetensors"
        return load_file(path) if path.exists() else {}

    def fp32(x: Tensor) -> Tensor:
        return x.float() if x.dtype == torch.bfloat16 else x

    io = tensors("io")
    return Golden(
        config=json.loads((FOLDER / f"{case}.json").read_text()),
        weights={k: fp32(v) for k, v in tensors("weights").items()},
        inputs={k[3:]: fp32(v) for k, v in io.items() if k.startswith("in.")},
        outputs={k[4:]: v for k, v in io.items() if k.startswith("out.")},
    )


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    return read


@pytest.fixture(scope="session")
def official_keys() -> dict[str, Any]:
    """Key and shape lists of the released models."""
    return json.loads((FOLDER / "official_30b_keys.json").read_text())
