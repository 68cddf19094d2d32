"""GPUs for encoding: counted operations, the fewest that keep up, what bounds them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stepvideo.emulator.hardware import find
from stepvideo.emulator.split import Demand, Encoding, Stream, encode_flops, split, text_flops
from stepvideo.errors import ConfigError
from stepvideo.models.config import StepLLMConfig, VAEConfig
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.video_vae import VideoVAE
from stepvideo.training import split_command

LONG = Stream(29.7, 204, 544, 992)  # what 3000 H800 at 32 % MFU take of the 30B model's longest clips
ENCODING = Encoding(find("H800"))


@pytest.mark.parametrize("size", [(17, 192, 320), (1, 256, 256), (34, 64, 64), (20, 64, 64)])
def test_the_vaes_operations_are_the_modules(size):
    with torch.device("meta"):
        vae = VideoVAE(VAEConfig())
    frames, height, width = size
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        vae.encode_moments(torch.empty(1, frames, 3, height, width, device="meta"))
    assert encode_flops(VAEConfig(), *size) == counted.get_total_flops()


def test_step_llms_operations_are_the_modules():
    cfg = StepLLMConfig(hidden_size=256, num_layers=2, num_attention_heads=4, num_attention_groups=2)
    with torch.device("meta"):
        llm = StepLLM(cfg)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        llm(torch.zeros(1, 64, dtype=torch.long, device="meta"))
    assert text_flops(cfg, 64) == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_the_fewest_that_keep_up():
    demand = Demand(3000, (LONG,))
    found = split(demand, ENCODING)
    needed = (1 + ENCODING.margin) * demand.samples_per_s
    assert found.encoders * found.per_gpu >= needed > (found.encoders - 1) * found.per_gpu
    assert found.limit == "compute" and "assumed" in found.basis
    assert 0.03 < found.share < 0.07
    assert found.vae_tflop == pytest.approx(977.0, abs=0.1)
    measured = split(demand, replace(ENCODING, measured=2 * found.per_gpu))
    assert measured.basis == "measured" and measured.encoders == pytest.approx(found.encoders / 2, abs=1)


def test_a_narrow_pipe_sets_their_number():
    demand = Demand(3000, (LONG,))
    wide, narrow = split(demand, ENCODING), split(demand, replace(ENCODING, pipe_gbs=0.001))
    assert narrow.limit == "pipe" and narrow.encoders > wide.encoders
    assert narrow.per_gpu == pytest.approx(1e6 / narrow.sample_bytes)
    assert wide.stream_gbs == pytest.approx(29.7 * wide.sample_bytes / 1e9)


def test_a_mixed_stream_is_the_mean_of_its_samples():
    image = Stream(100.0, 1, 544, 992)
    both = split(Demand(3000, (LONG, image)), ENCODING)
    alone = [split(Demand(3000, (s,)), ENCODING) for s in (LONG, image)]
    mean = (29.7 * alone[0].vae_tflop + 100 * alone[1].vae_tflop) / 129.7
    assert both.vae_tflop == pytest.approx(mean)
    assert both.encoders == pytest.approx(sum(a.encoders for a in alone), abs=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Stream(0, 17, 64, 64), "samples_per_s=0"),
        (lambda: Demand(0, (LONG,)), "gpus=0"),
        (lambda: replace(ENCODING, vae_efficiency=1.5), "vae_efficiency=1.5"),
        (lambda: replace(ENCODING, pipe_gbs=0), "pipe_gbs=0"),
        (lambda: split(Demand(1, (Stream(1, 17, 100, 64),)), ENCODING), "17x100x64"),
    ],
)
def test_wrong_input_is_told(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


class _Stage:
    name, kind = "sft.1", "train"

    def __init__(self, config: dict) -> None:
        self.config = config


def test_the_command(capsys):
    train = {"steps": 5, "balance": {"packs": 64, "batch_size": 1}, "runtime": {"nproc": 64}}
    parser = argparse.ArgumentParser()
    split_command.add_arguments(parser)
    args = parser.parse_args(["--gpu=H800", "--step-s=4.0", "--json"])
    assert split_command.call(args, lambda _: ([_Stage(train)], "")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == "measured" and found["rows"][0]["samples_per_s"] == pytest.approx(16.0)
