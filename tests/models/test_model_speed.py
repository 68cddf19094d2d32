"""The benchmark compares with a transcription that is right, and its check can fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stepvideo.inference.parity.golden import Case, read_case
from stepvideo.models.config import DiTConfig, VAEConfig

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"


@pytest.fixture
def benchmarks(monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import model_speed

    yield model_speed
    for name in ("model_speed", "plain_dit", "plain_vae"):
        sys.modules.pop(name, None)


def config(cls: type, case: Case) -> Any:
    return cls(**{f.name: case.config[f.name] for f in fields(cls) if f.name in case.config})


@pytest.mark.parametrize("name", ["dit_t2v_a", "dit_t2v_c_headdim128"])
@torch.no_grad()
def test_the_plain_dit_equals_the_released_one(benchmarks, name):
    case = read_case(GOLDEN / f"{name}.json")
    with torch.device("meta"):
        plain = benchmarks.PlainDiT(config(DiTConfig, case))
    texts = ("encoder_hidden_states", "encoder_hidden_states_2")
    out = case.load(plain)(*(case.inputs[k] for k in ("hidden_states", *texts, "timestep", "encoder_attention_mask")))
    torch.testing.assert_close(out, case.outputs["x"], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_plain_vae_equals_the_released_one(benchmarks):
    case = read_case(GOLDEN / "vae_a.json")
    with torch.device("meta"):
        plain = benchmarks.PlainVAE(config(VAEConfig, case))
    case.load(plain)
    close = {"atol": 3e-5, "rtol": 1e-4}
    torch.testing.assert_close(plain.encode_moments(case.inputs["video_f17"]), case.outputs["moments_f17"], **close)
    torch.testing.assert_close(plain.decode(case.inputs["z_f17"]), case.outputs["decoded_f17"], **close)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_row_has_what_the_check_looks_at(benchmarks, dtype):
    case = benchmarks.cases()[0]
    row = benchmarks.measure(case, dtype, case.build(torch.float32)[1](), repeats=2)
    assert benchmarks.faults(row | {"ratio": 1.0}) == []
    assert "1.5 times the transcription's time" in benchmarks.faults(row | {"ratio": 1.5})[0]
    assert "error 0.5" in benchmarks.faults(row | {"ratio": 1.0, "error": 0.5})[0]
    assert benchmarks.faults(row | {"ratio": 1.5, "bar": False}) == []
