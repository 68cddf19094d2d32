"""GPUs by name, constants by file."""

from __future__ import annotations

import pytest

from stepvideo.emulator import calibration
from stepvideo.emulator.calibration import CONSTANTS, Calibration
from stepvideo.emulator.hardware import Cluster, catalogue, find
from stepvideo.errors import ConfigError


def test_the_catalogue_has_every_gpu_asked_for_with_a_source():
    known = catalogue()
    assert set(known) == {"H800", "H100", "H200", "A100", "H20", "B200", "L40S", "MI300X", "cpu"}
    for name, gpu in known.items():
        assert gpu.source, name
        assert gpu.intra_gbs >= gpu.inter_gbs, name
    assert find("h800").peak() == pytest.approx(989.4e12)
    assert find("H800").intra_gbs < find("H100").intra_gbs
    assert find("H100").peak("fp8") == pytest.approx(2 * find("H100").peak(), rel=1e-3)


def test_an_unknown_gpu_or_precision_lists_the_known():
    with pytest.raises(ConfigError, match="gpu='V100' is not known: give one of H800, H100, .*MI300X, cpu"):
        find("V100")
    with pytest.raises(ConfigError, match="precision='fp8': this GPU has bf16, fp16"):
        find("A100").peak("fp8")


MINE = "mine:\n  bf16_tflops: 10\n  memory_gb: 8\n  memory_gbs: 100\n  intra_gbs: 5\n  inter_gbs: 1\n  source: me\n"


def test_users_add_and_replace_gpus(tmp_path):
    file = tmp_path / "gpus.yaml"
    file.write_text(MINE + MINE.replace("mine", "H800"))
    assert find("mine", file).memory == 8e9
    assert find("H800", file).bf16_tflops == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE.replace("  memory_gb: 8\n", ""), "mine: memory_gb missing"),
        (MINE.replace("memory_gb: 8", "memory_gb: -8"), "memory_gb=-8.0: give a number above 0"),
        (MINE.replace("memory_gb: 8", "memory_gb: much"), "memory_gb"),
        (MINE + "  nodes: 3\n", "nodes"),
        ("- mine\n", "give a mapping"),
        ("mine: [\n", "hardware file"),
    ],
)
def test_a_wrong_hardware_file_is_refused(tmp_path, text, said):
    file = tmp_path / "gpus.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        catalogue(file)


def test_a_cluster_has_gpus_and_no_straggler_faster_than_the_rest():
    with pytest.raises(ConfigError, match="gpus=0"):
        Cluster(find("H800"), 0)
    with pytest.raises(ConfigError, match=r"straggler=0\.9"):
        Cluster(find("H800"), 8, straggler=0.9)


def test_a_calibration_survives_its_file_with_provenance(tmp_path):
    file = tmp_path / "calibration.yaml"
    found = Calibration().with_("fitted on a.csv", gemm_efficiency=0.61, inter_latency_s=1.25e-5)
    calibration.save(found, file)
    assert calibration.read(file) == found
    assert set(calibration.meanings()) == set(CONSTANTS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gemm_efficiency: {value: 1.4}\n", "gemm_efficiency=1.4 is outside the physical range 0.3 to 0.95"),
        ("gemm_efficiency: fast\n", "gemm_efficiency='fast'"),
        ("speed: 1\n", "speed=1; give numbers for gemm_efficiency"),
        ("gemm_efficiency: {value: 0.5, provenance: guessed}\n", "give prior or fitted or measured"),
        ("[]\n", "give a mapping"),
    ],
)
def test_a_wrong_calibration_file_is_refused(tmp_path, text, said):
    file = tmp_path / "calibration.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        calibration.read(file)
