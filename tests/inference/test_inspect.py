"""`stepvideo inspect` and `stepvideo export`: what a folder is, what is wrong with it, and putting one together."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from released_layout import write_release
from safetensors.torch import load_file, save_file

from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.export import command as exporting
from stepvideo.inference.export.assemble import assemble
from stepvideo.inference.inspect import command as inspecting
from stepvideo.inference.inspect.gpu import gigabytes, judge
from stepvideo.inference.inspect.survey import survey
from stepvideo.models import checkpoints
from stepvideo.models.text_encoders import load_tokenizers

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def run(module, capsys, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    if module is exporting:
        for option in ("--model", "--vae", "--text"):
            parser.add_argument(option, default="")
    module.add_arguments(parser)
    code = module.call(parser.parse_args(list(words)))
    return code, capsys.readouterr().out


@pytest.fixture
def model(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models, tmp_path / "model"))


def test_a_whole_model(model, capsys):
    code, out = run(inspecting, capsys, str(model), "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"] and told["kind"] == "a whole text-to-video model"
    parts = {p["name"]: p for p in told["parts"]}
    assert list(parts) == ["dit", "vae v2", "step_llm", "clip_text", "tokenizers"]
    dit = checkpoints.load_dit(model)
    assert parts["dit"]["parameters"] == sum(p.numel() for p in dit.parameters())
    assert parts["dit"]["dtypes"] == {"F32": parts["dit"]["parameters"]}
    assert parts["dit"]["unlike_released"]["num_layers"] == [2, 48]
    here = [model / WEIGHTS, model / "transformer" / "config.json"]
    assert (parts["dit"]["files"], parts["dit"]["size"]) == (2, sum(p.stat().st_size for p in here))
    assert told["usable"][0] == "generate --model" and not told["problems"]
    code, out = run(inspecting, capsys, str(model))
    assert code == 0 and "complete; usable for: generate" in out and "num_layers 2 (48)" in out


@pytest.mark.parametrize(
    ("kept", "kind", "usable"),
    [
        (["transformer"], "a text-to-video transformer alone (as the released Turbo)", "with --vae and --text"),
        (["vae"], "a Video-VAE", "weights.vae"),
        (["step_llm", "hunyuan_clip", "text_lengths.json"], "text encoders", "weights.text"),
        (["transformer", "vae"], "a text-to-video transformer and a Video-VAE", "with --text of another folder"),
    ],
)
def test_any_subset_is_named(model, kept, kind, usable):
    for path in model.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = survey(model)
    assert found.ok and found.kind == kind and usable in " ".join(found.usable)


def test_what_is_damaged_or_does_not_match_is_told(model, capsys):
    tensors = load_file(model / WEIGHTS)
    extra = tensors | {"extra": torch.zeros(2), "proj_out.bias": torch.zeros(3)}
    del extra["pos_embed.proj.bias"]
    save_file(extra, model / WEIGHTS)
    vae = model / "vae" / "vae_v2.safetensors"
    vae.write_bytes(vae.read_bytes()[:-9])
    (model / "hunyuan_clip" / "tokenizer" / "vocab.txt").unlink()
    code, out = run(inspecting, capsys, str(model))
    assert code == 1 and "damaged or not matching" in out and "usable" not in out
    for told in (
        "1 tensors are missing: pos_embed.proj.bias",
        "1 tensors are not of this model: extra (diffusion_pytorch_model.safetensors)",
        "proj_out.bias in diffusion_pytorch_model.safetensors is [3], the config makes it [4]",
        "vae_v2.safetensors is damaged: it ends after",
        "vocab.txt cannot be read",
    ):
        assert told in out


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("transformer/config.json", "[]", "holds no keys and values"),
        ("vae/config.json", "null", "holds no keys and values"),
        ("step_llm/config.json", '{"num_layers": 2.5}', "no network can be made of it"),
        ("hunyuan_clip/tokenizer/tokenizer_config.json", "5", "holds no keys and values"),
        ("hunyuan_clip/tokenizer/tokenizer_config.json", '{"do_lower_case": "yes"}', "vocab.txt cannot be read"),
        ("step_llm/step1_chat_tokenizer.model", "", "it is empty"),
        ("text_lengths.json", "[]", "holds no llm_length and clip_length"),
        ("text_lengths.json", '{"llm_length": 2}', "holds no llm_length and clip_length"),
        ("text_lengths.json", '{"clip_length": "18"}', "holds no llm_length and clip_length"),
    ],
)
def test_small_files_that_are_something_else_are_problems(model, file, content, told):
    (model / file).write_text(content)
    assert told in " ".join(survey(model).problems)


@pytest.mark.parametrize("content", ["{", "5", '"stage"', '{"name": "a web application"}'])
def test_a_manifest_of_another_program_is_no_concern(model, content):
    (model.parent / "manifest.json").write_text(content)
    assert survey(model).kind == "a whole text-to-video model"


def test_parts_of_different_models_are_told(model, tmp_path):
    config = model / "vae" / "config.json"
    other = json.loads(config.read_text()) | {"z_channels": 8}
    config.write_text(json.dumps(other))
    assert any("works on 4 latent channels, the VAE has 8" in p for p in survey(model).problems)


def test_deep_finds_what_headers_do_not_show(model, capsys):
    before = json.loads(run(inspecting, capsys, str(model), "--deep", "--json")[1])
    tensors = load_file(model / WEIGHTS)
    tensors["proj_out.bias"][1] = float("nan")
    tensors["proj_out.bias"][2] = float("inf")
    save_file(tensors, model / WEIGHTS)
    assert run(inspecting, capsys, str(model))[0] == 0
    code, out = run(inspecting, capsys, str(model), "--deep", "--json")
    after = json.loads(out)
    assert code == 1 and after["usable"] == []
    assert after["problems"] == [f"dit: {Path(WEIGHTS).name}: tensor proj_out.bias has 1 NaN and 1 Inf"]
    old, new = before["parts"][0]["deep"], after["parts"][0]["deep"]
    assert old["sha256"] != new["sha256"]
    assert [k for k, v in old["tensors"].items() if new["tensors"][k] != v] == ["proj_out.bias"]
    assert before["parts"][1]["deep"] == after["parts"][1]["deep"]


def test_no_model_is_a_mistake_of_the_users(tmp_path, capsys):
    with pytest.raises(ArtifactError, match="holds no part of a model"):
        run(inspecting, capsys, str(tmp_path))
    with pytest.raises(ArtifactError, match="is no folder"):
        run(inspecting, capsys, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("image_to_video", [False, True], ids=["t2v", "ti2v"])
def test_a_release_of_100_gb_is_told_in_seconds(tmp_path, tiny_models, capsys, image_to_video):
    write_release(tmp_path, image_to_video)
    for name in ("step_llm/step1_chat_tokenizer.model", "hunyuan_clip/tokenizer/vocab.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_models / name, tmp_path / name)
    start = time.perf_counter()
    code, out = run(inspecting, capsys, str(tmp_path), "--json", "--gpu", "80GB", "--gpu", "4090")
    seconds = time.perf_counter() - start
    told = json.loads(out)
    assert code == 0 and seconds < 20, told["problems"]
    assert told["kind"] == f"a whole {'image' if image_to_video else 'text'}-to-video model"
    parts = {p["name"]: p for p in told["parts"]}
    assert parts["dit"]["parameters"] == (29_382_205_504 if image_to_video else 29_342_478_400)
    assert parts["vae v2"]["parameters"] == 498_818_819 and parts["vae v1"]["parameters"] == 258_828_195
    assert parts["step_llm"]["parameters"] == 19_579_600_896 and parts["step_llm"]["dtypes"].keys() == {"BF16"}
    assert all(p["unlike_released"] == {} for p in told["parts"] if p["folder"])
    assert parts["clip_text"]["aside"] == ["visual.proj", "logit_scale"]
    assert sum(p["size"] for p in told["parts"]) > 100e9
    assert [v["fits"] for v in told["cards"]] == [True, True]
    assert told["cards"][1]["needs"] < 24 * 2**30 < told["cards"][0]["needs"] < 80 * 2**30


def test_the_turbo_repository_takes_the_rest_as_released(tmp_path):
    write_release(tmp_path)
    for name in ("vae", "step_llm", "hunyuan_clip"):
        shutil.rmtree(tmp_path / name)
    assert survey(tmp_path).kind.endswith("transformer alone (as the released Turbo)")
    verdict = judge(tmp_path, "generate", 80)
    assert verdict.fits and verdict.assumed == ["the released VAE", "the released Step-LLM", "the released CLIP"]
    assert not judge(tmp_path, "generate", 8).fits
    tuning = judge(tmp_path, "finetune", 80)
    assert not tuning.fits and tuning.needs == 18 * 29_342_478_400
    assert "at least 7 such cards" in tuning.how  # 528 GB over 0.94 · 80 GiB


@pytest.mark.parametrize(("text", "size"), [("24GB", 24), ("24", 24), ("80 GiB", 80), ("H800", 80), ("RTX 4090", 24)])
def test_cards_by_size_and_name(text, size):
    assert gigabytes(text) == size


def test_what_cannot_be_predicted_is_told_beside_the_rest(model, capsys):
    shutil.rmtree(model / "vae")
    code, out = run(inspecting, capsys, str(model), "--gpu", "24")
    assert code == 1 and "complete; usable for" in out
    assert "generate on 24 GB cannot be predicted" in out and "no VAE of 4 latent channels" in out
    code, out = run(inspecting, capsys, str(model), "--gpu", "24", "--job", "finetune")
    assert code == 0 and "finetune fits 24 GB" in out and "MiB predicted" in out


def test_a_card_nobody_knows():
    for text in ("warp9", "0", "-24GB", "nan"):
        with pytest.raises(StepVideoError, match=f"--gpu '{text}'"):
            gigabytes(text)


@pytest.fixture
def stages(tiny_models, tmp_path) -> dict[str, Path]:
    """The artifacts of three stages."""
    held = {
        "transformer": ["transformer", "sampling.json"],
        "vae": ["vae"],
        "text": ["step_llm", "hunyuan_clip", "text_lengths.json"],
    }
    for role, names in held.items():
        for name in names:
            source, target = tiny_models / name, tmp_path / role / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        (tmp_path / role / "metrics.json").write_text("{}")  # what an artifact also holds
    return {role: tmp_path / role for role in held}


@pytest.mark.parametrize("copy", [False, True])
def test_stages_become_one_released_folder(stages, tmp_path, copy):
    out = tmp_path / "exported" / "model"
    notices = assemble(out, **stages, copy=copy)
    assert survey(out).ok and survey(out).kind == "a whole text-to-video model"
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    released = {"model_index.json", "scheduler/scheduler_config.json", "hunyuan_clip/tokenizer/tokenizer_config.json"}
    assert released | {"hunyuan_clip/tokenizer/special_tokens_map.json"} <= found and "metrics.json" not in found
    for role, folder in stages.items():
        for path in (p for p in folder.rglob("*") if p.is_file() and p.name != "metrics.json"):
            made = out / path.relative_to(folder)
            assert made.read_bytes() == path.read_bytes(), role
            assert (made.stat().st_ino == path.stat().st_ino) == (path.suffix == ".safetensors" and not copy)
    assert any("latent_stats.json" in n for n in notices) and any("vae/config.json" in n for n in notices)
    before, after = (load_tokenizers(root).clip.encode_batch(["a red circle"])[0] for root in (stages["text"], out))
    assert torch.equal(before, after)
    sample = [
        Pipeline.load(*roots, "cpu", "fp32").sample(["a red circle"]).latents
        for roots in ([out] * 3, [*stages.values()])
    ]
    assert torch.equal(*sample)
    assert not list(out.parent.glob(".*"))


def test_a_failed_export_leaves_nothing(stages, tmp_path):
    out = tmp_path / "out" / "model"
    weights = stages["transformer"] / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ArtifactError, match=r"no whole model: dit: transformer/\S+ is damaged"):
        assemble(out, **stages)
    with pytest.raises(ArtifactError, match="holds no vae/"):
        assemble(out, **(stages | {"vae": stages["text"]}))
    assert not list(out.parent.iterdir())
    weights.write_bytes(whole)
    assemble(out, **stages)
    with pytest.raises(ArtifactError, match="exists already"):
        assemble(out, **stages)
    with pytest.raises(ArtifactError, match=r"text/transformer/config.json is missing"):
        assemble(out.parent / "other", **(stages | {"transformer": stages["text"]}))


def test_of_two_exports_to_one_folder_one_is_whole_and_one_is_told(stages, tmp_path, monkeypatch):
    out, replace = tmp_path / "out" / "model", os.replace

    def late(source, target):
        monkeypatch.setattr(os, "replace", replace)
        assemble(out, **stages)
        replace(source, target)

    monkeypatch.setattr("stepvideo.inference.export.assemble.os.replace", late)
    with pytest.raises(ArtifactError, match="made by somebody else meanwhile"):
        assemble(out, **stages)
    assert survey(out).ok and [p.name for p in out.parent.iterdir()] == ["model"]


def test_export_by_command(stages, tmp_path, capsys):
    words = ["--model", str(stages["transformer"]), "--vae", str(stages["vae"]), "--text", str(stages["text"])]
    code, out = run(exporting, capsys, str(tmp_path / "made"), *words)
    assert code == 0 and "for other software:" in out and survey(tmp_path / "made").ok
    with pytest.raises(StepVideoError, match="give --model DIR"):
        run(exporting, capsys, str(tmp_path / "more"))
