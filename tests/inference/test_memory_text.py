"""Text encoders layer by layer and in another process: the same features, errors that say why, memory given back."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch

from stepvideo.errors import StepVideoError
from stepvideo.inference.memory.text import TextProcess, read_text_by_layer
from stepvideo.models.text_encoders import load_text_encoders

PROMPTS = ["一个红色的大圆向右移动", ""]


@pytest.fixture(scope="module")
def features(tiny_models):
    return load_text_encoders(tiny_models, torch.device("cpu")).encode(PROMPTS)


@pytest.fixture(scope="module")
def process(tiny_models):
    process = TextProcess(tiny_models)
    yield process
    process.close()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_by_layer_equals_resident(tiny_models, features):
    assert equal(read_text_by_layer(tiny_models, "cpu").encode(PROMPTS), features)


def test_another_process_equals_this_one_again_and_again(process, features):
    for _ in range(2):
        assert equal(process.encode(PROMPTS), features)
    assert process.process.pid != os.getpid()


def test_a_bad_prompt_is_told_and_does_not_end_the_process(process, features):
    with pytest.raises(StepVideoError, match="text encoders: "):
        process.encode([1])  # no text
    assert equal(process.encode(PROMPTS), features)


def test_a_folder_without_encoders_is_named(tiny_models, tmp_path):
    shutil.copytree(tiny_models / "step_llm", tmp_path / "step_llm")
    with pytest.raises(StepVideoError, match="hunyuan_clip"):
        TextProcess(tmp_path)


def test_a_killed_process_is_an_error_that_says_so(process):
    """The last one that asks it."""
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait()
    with pytest.raises(StepVideoError, match="killed by signal 9, for lack of memory perhaps"):
        process.encode(PROMPTS)
