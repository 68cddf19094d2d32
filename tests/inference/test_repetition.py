"""Saying part of a prompt again: the text, the words of an attribute, and what the command line and evaluation do."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from stepvideo.config import Runtime
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import StepVideoError
from stepvideo.evaluation.batches import worded
from stepvideo.evaluation.config import REPEATS, EvaluateConfig, GateConfig, SamplingRun
from stepvideo.evaluation.results import check_paired, read_rows
from stepvideo.evaluation.stage import run
from stepvideo.inference import arguments
from stepvideo.inference.repetition import repeated
from stepvideo.models.text_encoders import load_tokenizers
from stepvideo.models.tokenizers import Tokenizer
from stepvideo.stage import StageContext
from stepvideo.world.attributes import all_combinations
from stepvideo.world.captions import phrase, prompts

ENCODERS = Path(__file__).parents[2] / "weights" / "text"


@pytest.mark.parametrize(
    ("prompt", "phrase", "times", "expected"),
    [
        ("a red circle moves", "circle", 1, "a red circle moves, circle"),
        ("a red circle moves.", "", 1, "a red circle moves, a red circle moves."),
        ("一个红色的圆", "圆", 2, "一个红色的圆，圆，圆"),
        ("一个红色的圆。", "", 1, "一个红色的圆，一个红色的圆。"),
        ("a dog", "dog", 0, "a dog"),
    ],
)
def test_repeated(prompt, phrase, times, expected):
    assert repeated(prompt, phrase, times) == expected


def test_what_the_prompt_lacks_cannot_be_repeated():
    with pytest.raises(StepVideoError, match="has no 'cat'"):
        repeated("a dog", "cat")
    with pytest.raises(StepVideoError, match="0 or more"):
        repeated("a dog", "dog", -1)


def test_every_attribute_of_every_evaluation_prompt_is_found_and_the_shipped_encoders_spell_the_result():
    asked = prompts(all_combinations(), 576, seed=3)
    both = load_tokenizers(ENCODERS)
    for p in asked:
        for repeat in REPEATS:
            text = worded(p, repeat)
            assert text.startswith(p.text) and len(text) > len(p.text)
        assert both.readable(text) and both.readable(worded(p, "prompt"))
    a = next(p for p in asked if p.lang == "en" and p.attrs.direction == "left")
    assert phrase(a, "shape") in a.text and phrase(a, "direction") in ("left", "to the left")
    assert worded(a, "") == a.text
    still = replace(a, attrs=a.attrs.still())
    assert worded(still, "direction") == a.text  # a still has none
    with pytest.raises(ValueError, match="does not name"):
        phrase(replace(a, text="nothing"), "shape")


def test_the_twice_said_prompt_fits_the_shipped_encoders():
    both = load_tokenizers(ENCODERS)
    longest = max(len(both.llm.spell([worded(p, "prompt")])[0].ids) for p in prompts(all_combinations(), 576, seed=3))
    assert longest <= both.llm.room


def test_the_run_says_what_it_repeats():
    assert SamplingRun("twice", repeat="prompt").repeat == "prompt" and SamplingRun("x").repeat == ""
    with pytest.raises(ValueError, match="choose one of prompt"):
        SamplingRun("x", repeat="all")


def test_command_line(tmp_path):
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    out = ["--out", str(tmp_path / "a.mp4")]
    (one,) = arguments.requests(parser.parse_args(["a red dog", "--repeat", "dog", *out]))
    (whole,) = arguments.requests(parser.parse_args(["a red dog", *out, "--repeat"]))
    (plain,) = arguments.requests(parser.parse_args(["a red dog", *out]))
    assert [r.prompt for r in (one, whole, plain)] == ["a red dog, dog", "a red dog, a red dog", "a red dog"]
    with pytest.raises(StepVideoError, match="belongs to one prompt"):
        arguments.requests(parser.parse_args(["--prompts", "x.txt", "--repeat", "dog", *out]))


def test_a_run_of_the_evaluation_gives_the_model_the_repeated_text_and_pairs_by_the_prompt(
    tiny_models, tmp_path, monkeypatch
):
    given: list[list[str]] = []
    real = Pipeline.sample

    def sample(self, texts, **options):
        given.append(list(texts))
        return real(self, texts, **options)

    monkeypatch.setattr(Pipeline, "sample", sample)
    encode = Tokenizer.encode_batch  # the tiny vocabulary has no comma
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, texts, allow_unk=None: encode(self, texts, True))
    cfg = EvaluateConfig(
        n_train=2,
        n_heldout=0,
        steps=1,
        extra_runs=[SamplingRun("twice", repeat="prompt"), SamplingRun("shape", repeat="shape")],
        gate=GateConfig(clips=1, reconstructions=1),
        save_videos=0,
        save_latents=False,
        runtime=Runtime(device="cpu"),
    )
    for folder in ("out", "work"):
        (tmp_path / folder).mkdir()
    run(StageContext(cfg, dict.fromkeys(("model", "vae", "text"), tiny_models), tmp_path / "out", tmp_path / "work"))
    plain, twice, shape = given
    assert twice == [repeated(t) for t in plain]
    assert all(s.startswith(p) and p != s != t for p, s, t in zip(plain, shape, twice, strict=True))
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert [r.text for r in rows["twice"]] == plain
    check_paired(rows["main"], rows["twice"])
