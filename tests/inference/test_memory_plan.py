"""The plan of a generation: phases, options, the choice for a card, and that it needs neither weights nor torch."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import pytest

from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.memory import Job, Networks
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.plan import GIB, candidates, choose, predict, smallest, survey
from stepvideo.inference.memory.report import SHOWN, plan, read_networks, table
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig

RELEASED = Networks(DiTConfig(), VAEConfig(), StepLLMConfig(), CLIPTextConfig())
IMAGE_TO_VIDEO = Networks(DiTConfig(use_additional_conditions=True), VAEConfig(), StepLLMConfig(), CLIPTextConfig())
FULL = Job(Sampling())


@pytest.fixture(scope="module")
def plans():
    return survey(RELEASED, FULL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offload": "disk"}, "memory.offload='disk': choose one of none, component, layer"),
        ({"quantization": "int4"}, "choose one of none, int8, fp8"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"vae_tile": 100, "vae_overlap": 64}, "at most half of vae_tile=100"),
        ({"vae_overlap": -1}, "0 or more"),
    ],
)
def test_impossible_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**values)


def test_weights_of_the_released_model_are_those_of_its_files():
    """Step-LLM 39.16 GB, DiT 58.68 GB and Video-VAE 1.0 GB in bf16; the sums of the released shards (official.md)."""
    p = predict(RELEASED, FULL, MemoryConfig(offload="component"))
    text, denoise, decode = p.phases
    assert text.weights == pytest.approx(39.16e9 + 325e6 * 4, rel=0.005)
    assert denoise.weights == pytest.approx(58.685e9, rel=1e-3)
    assert decode.weights == pytest.approx(0.9976e9, rel=1e-3)


def test_guided_denoising_at_540p_in_bf16_fits_one_80_gib_card_without_text_encoders(plans):
    """The released code needs 77.64 GB a card on four of them, and 92,170 MiB on one H20 (official.md §6)."""
    found = choose(plans, 80 * GIB)
    assert found is not None and found.memory == MemoryConfig(text="free", vae_overlap=0)
    assert 70 * GIB < found.peak < 76 * GIB


@pytest.mark.parametrize("gpu", [140, 80, 48, 24, 16])
def test_the_choice_fits_and_none_that_fits_is_much_faster(plans, gpu):
    found = choose(plans, gpu * GIB)
    assert found is not None and found.fits(gpu * GIB)
    fitting = [p for p in plans if p.fits(gpu * GIB)]
    assert found.seconds <= 1.05 * min(p.seconds for p in fitting)
    assert found.memory.exact or not any(p.memory.exact and p.seconds <= found.seconds for p in fitting)


def test_all_of_it_fits_a_large_card_and_nothing_a_tiny_one(plans):
    assert choose(plans, 140 * GIB).memory == MemoryConfig(vae_overlap=0)
    assert choose(plans, 2 * GIB) is None
    assert not smallest(plans).fits(2 * GIB)


def test_short_jobs_are_not_slowed_down_by_copying_where_less_is_lost():
    """17 frames compute faster than all blocks can be copied; on 48 GiB, int8 weights that stay are then faster."""
    found = choose(survey(RELEASED, Job(Sampling(frames=17))), 48 * GIB)
    assert found.memory.quantization == "int8" and found.memory.offload != "layer"


def peak(networks=RELEASED, job=FULL, **options):
    return predict(networks, job, MemoryConfig(**options)).peak


def test_each_option_saves_memory_and_none_costs_any():
    steps = [
        {},
        {"text": "free"},
        {"offload": "component"},
        {"offload": "component", "quantization": "int8"},
        {"offload": "layer", "prefetch": 2},
        {"offload": "layer"},
        {"offload": "layer", "cfg_batched": False},
        {"offload": "layer", "cfg_batched": False, "vae_tile": 512},
        {"offload": "layer", "cfg_batched": False, "vae_tile": 512, "quantization": "int8", "text": "free"},
    ]
    peaks = [peak(**s) for s in steps]
    assert all(a > b for a, b in itertools.pairwise(peaks)), [p / GIB for p in peaks]


def test_what_is_offloaded_waits_on_the_host():
    component, layer = (predict(RELEASED, FULL, MemoryConfig(offload=o)).host for o in ("component", "layer"))
    assert component == layer == pytest.approx(58.685e9 + 39.16e9 + 1.3e9 + 1.0e9, rel=0.01)
    assert predict(RELEASED, FULL).host == 0
    assert predict(RELEASED, FULL, MemoryConfig(text="process")).host == pytest.approx(39.16e9 + 1.3e9, rel=0.01)


def test_size_batch_precision_and_guidance_count():
    assert peak(job=Job(Sampling(frames=102)), text="free") < peak(text="free")
    assert peak(job=Job(Sampling(cfg=1.0)), text="free") < peak(text="free")
    assert peak(job=Job(Sampling(), batch=2), text="free") > peak(text="free")
    assert peak(job=Job(Sampling(), precision="fp32"), text="free") == pytest.approx(2 * peak(text="free"), rel=0.02)


def test_image_to_video_encodes_its_image():
    names = [p.name for p in predict(IMAGE_TO_VIDEO, FULL).phases]
    assert names == ["text encoding", "image encoding", "denoising", "decoding"]


def test_embeddings_need_no_text_encoder():
    embedded = Networks(DiTConfig(), VAEConfig())
    assert [p.name for p in predict(embedded, FULL).phases] == ["denoising", "decoding"]
    assert peak(embedded) < peak()
    assert MemoryConfig(text="free") not in [MemoryConfig(**r["options"]) for r in plan(embedded, FULL)["rows"]]


def test_candidates_are_valid_and_distinct():
    found = [repr(c) for c in candidates(RELEASED, FULL)]
    assert len(set(found)) == len(found) > 100


def test_the_table_says_what_fits_and_what_is_chosen():
    text = table(RELEASED, FULL, (80.0, 24.0, 2.0))
    assert "80 GB: text free (74.8 GiB)" in text
    assert "2 GB: nothing fits; the least is" in text
    assert len([line for line in text.splitlines() if "fits" in line and "  " in line]) >= 5
    assert "image encoding" not in text and "image encoding" in table(IMAGE_TO_VIDEO, FULL)


def test_options_given_come_first():
    given = MemoryConfig(offload="layer", prefetch=3)
    rows = plan(RELEASED, FULL, given=given)["rows"]
    assert MemoryConfig(**rows[0]["options"]) == given and len(rows) == len(SHOWN) + 1


def test_a_length_that_the_vae_cannot_code_is_named():
    with pytest.raises(StepVideoError, match="frames=210: .*nearest valid lengths"):
        table(RELEASED, Job(Sampling(frames=210)))


def test_a_folder_without_configs_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="config.json is missing"):
        read_networks(tmp_path)


@pytest.fixture
def released_folder(tmp_path):
    for part, config in (
        ("transformer", {"_class_name": "StepVideoModel", "caption_channels": [6144, 1024]}),
        ("step_llm", {"hidden_size": 6144}),
        ("hunyuan_clip/clip_text_encoder", {"hidden_size": 1024}),
    ):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_plan_takes_a_second_and_no_torch(released_folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from stepvideo.inference.memory.report import Job, Sampling, read_networks, table\n"
        "print(table(read_networks(Path(sys.argv[1])), Job(Sampling())))\n"
        "assert 'torch' not in sys.modules"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(released_folder)], capture_output=True, text=True, check=True
    )
    assert "24 GB: " in done.stdout
    assert time.perf_counter() - begin < 5  # 0.5 s on an idle machine
