"""Text features in a file: what was encoded comes back, and what does not fit is named."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import safetensors.torch
import torch

from stepvideo.cli import main
from stepvideo.diffusion.conditions import TextFeatures
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.embed import command
from stepvideo.inference.embed.files import KEY, load_embeddings, read_metadata, save_embeddings
from stepvideo.inference.pipeline import StepVideoPipeline

PROMPT, OTHER = "一个红色的大圆向右移动", "a small blue square moves up"


def run(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.call(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture(scope="module")
def pipe(tiny_models):
    return StepVideoPipeline.from_pretrained(tiny_models, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def file(tiny_models, tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings") / "texts.safetensors"
    assert run(PROMPT, OTHER, "--text", tiny_models, "--out", path, "--device", "cpu") == 0
    return path


def test_generating_from_a_file_equals_generating_from_text(pipe, file):
    features = load_embeddings(file, pipe.engine.dit.cfg.caption_channels)
    assert list(features.texts) == [PROMPT, OTHER, ""]
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    expected, found = pipe(PROMPT, **settings), pipe(PROMPT, prompt_embeds=features, **settings)
    torch.testing.assert_close(found.frames[0], expected.frames[0], atol=1e-5, rtol=0)


def test_the_command_encodes_what_generate_would(tiny_models, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": PROMPT, "positive_suffix": " now"}, {"prompt": OTHER, "negative_prompt": PROMPT}]
    prompts.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    out = tmp_path / "f.safetensors"
    assert run("--prompts", prompts, "--text", tiny_models, "--out", out, "--json", "--offload", "--device", "cpu") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["texts"] == [PROMPT + " now", OTHER, "", PROMPT]
    assert printed["encoder"] == read_metadata(out)["encoder"]
    assert read_metadata(out)["texts"] == printed["texts"]


def test_half_characters_are_kept_as_they_were_given(tmp_path, pipe):
    """What a shell hands over that is no UTF-8."""
    texts = ["a \udcff circle"]
    features = pipe.engine.encode_prompts([PROMPT])
    save_embeddings(tmp_path / "f", TextFeatures(texts, features), "abc")
    assert read_metadata(tmp_path / "f")["texts"] == texts


def test_equal_texts_give_equal_bytes(tiny_models, file, tmp_path):
    run(PROMPT, OTHER, "--text", tiny_models, "--out", tmp_path / "again.safetensors", "--device", "cpu")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_transformer_of_other_widths_is_an_error(file, pipe):
    widths = list(pipe.engine.dit.cfg.caption_channels)
    with pytest.raises(ArtifactError, match=r"holds text features of widths .* this transformer reads \[6144, 1024\]"):
        load_embeddings(file, [6144, 1024])
    one = load_embeddings(file, widths[:1]).conditions
    assert set(one) == {"encoder_hidden_states", "encoder_attention_mask"}
    assert one["encoder_attention_mask"].shape[1] == one["encoder_hidden_states"].shape[1]


def test_lineage_is_kept(tmp_path, pipe):
    features = pipe.encode([PROMPT])
    save_embeddings(tmp_path / "f", features, "abc", {"from": "here"})
    assert read_metadata(tmp_path / "f")["lineage"] == {"from": "here"}
    assert read_metadata(tmp_path / "f")["encoder"] == "abc"


def test_files_that_are_none_are_named(tmp_path, file):
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ArtifactError, match="cannot be read as text features"):
        load_embeddings(tmp_path / "text", [16, 16])
    with pytest.raises(ArtifactError, match="cannot be read as text features"):
        load_embeddings(tmp_path / "absent", [16, 16])
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ArtifactError, match="holds no text features of this version"):
        load_embeddings(tmp_path / "other", [16, 16])
    tensors = safetensors.torch.load_file(file)
    about = read_metadata(file)
    for told in ("{", "[]", "{}", json.dumps(about | {"texts": 5}), json.dumps(about | {"texts": [1, 2, 3]})):
        safetensors.torch.save_file(tensors, tmp_path / "told", {KEY: told})
        with pytest.raises(ArtifactError, match="does not tell its texts"):
            load_embeddings(tmp_path / "told", [16, 16])
    for change in ({"encoder_hidden_states": torch.tensor(1.0)}, {"encoder_attention_mask": torch.ones(3)}):
        safetensors.torch.save_file(tensors | change, tmp_path / "shape", {KEY: json.dumps(about)})
        with pytest.raises(ArtifactError, match="do not fit"):
            load_embeddings(tmp_path / "shape", [16, 16])
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cut"):
        load_embeddings(tmp_path / "cut", [16, 16])


def test_no_text_and_no_encoders_are_errors(tmp_path):
    with pytest.raises(StepVideoError, match="there is no text"):
        run("--text", tmp_path, "--out", tmp_path / "f")
    with pytest.raises(StepVideoError, match="holds no step_llm/"):
        run("x", "--text", tmp_path, "--out", tmp_path / "f")


def test_the_pipeline_encodes_the_same(tiny_models, file):
    engine = Pipeline.prepare(tiny_models, tiny_models, tiny_models, "cpu", "fp32")
    found = load_embeddings(file, engine.dit.cfg.caption_channels).conditions
    expected = engine.encode_prompts([PROMPT, OTHER, ""])
    assert found.keys() == expected.keys()
    for k in found:
        assert torch.equal(found[k], expected[k]), k


def test_generate_takes_the_file(tiny_models, file, tmp_path, monkeypatch):
    monkeypatch.setattr("stepvideo.models.text_encoders.TextEncoders.encode", None)  # a use would fail
    common = [
        "--model",
        str(tiny_models),
        "--embeddings",
        str(file),
        "--steps",
        "2",
        "--device",
        "cpu",
        "--frames",
        "17",
    ]
    assert main(["generate", PROMPT, "--out", str(tmp_path / "a.mp4"), *common]) == 0
    assert (tmp_path / "a.mp4").exists()
    assert main(["generate", "不在其中", "--out", str(tmp_path / "b.mp4"), *common]) == 2


def test_features_need_no_encoders(tiny_models, file, tmp_path, capsys):
    """Nor 40 GB of them: that is what the file is for."""
    model = shutil.copytree(tiny_models, tmp_path / "model")
    for part in ("step_llm", "hunyuan_clip"):
        shutil.rmtree(model / part)
    call = ["generate", PROMPT, "--model", str(model), "--steps", "2", "--device", "cpu"]
    assert main([*call, "--out", str(tmp_path / "a.mp4"), "--embeddings", str(file)]) == 0
    assert main([*call, "--out", str(tmp_path / "b.mp4")]) == 2
    assert "holds no step_llm/" in capsys.readouterr().err
    pipe = StepVideoPipeline.from_pretrained(model, device="cpu", embedded=True)
    with pytest.raises(StepVideoError, match="opened without its text encoders"):
        pipe(PROMPT)


def test_the_command_is_registered(tiny_models, tmp_path, capsys):
    out = str(tmp_path / "f.safetensors")
    assert main(["embed", PROMPT, "--text", str(tiny_models), "--out", out, "--device", "cpu"]) == 0
    assert "2 texts" in capsys.readouterr().out
