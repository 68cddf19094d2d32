"""Cross-attention measured by hooks: equal to attention computed directly, and the video stays the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stepvideo.cli import main
from stepvideo.errors import StepVideoError
from stepvideo.inference.attention import words
from stepvideo.inference.attention.page import heat
from stepvideo.inference.attention.record import Recorder, record, weights
from stepvideo.inference.attention.summary import evenness, summarise
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.models.attention import attention, key_bias
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.dit_blocks import QK_EPS, CrossAttention
from stepvideo.models.qk_norm import plain_qk_norm
from stepvideo.models.text_encoders import Tokenizers
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer

CAPTIONS = ["一个红色的大圆向右移动", "a large red circle moves right, then up", "two small blue squares."]
BOTH = Tokenizers(LLMTokenizer.train(CAPTIONS, length=24), CLIPTokenizer.train(CAPTIONS, length=20))
CFG = DiTConfig(
    num_attention_heads=2, attention_head_dim=16, num_layers=2, in_channels=4, out_channels=4, caption_channels=[12, 8]
)


def _direct(attn: CrossAttention, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """[b, h, s, l]: what the layer's own attention reads if the values are the rows of the identity."""
    q = attn.wq(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
    k = attn.wkv(text).unflatten(-1, (-1, 2, attn.head_dim))[:, :, :, 0].transpose(1, 2)
    q, k = (
        plain_qk_norm(v[None], norm.weight, QK_EPS, None, (0, 0, 0))[0]
        for v, norm in ((q, attn.q_norm), (k, attn.k_norm))
    )
    n = text.shape[1]
    eye = torch.eye(n).expand(*k.shape[:2], n, n)
    return attention(q, k, eye, key_bias(mask)).unflatten(-1, (-1, n)).transpose(1, 2)


@pytest.mark.parametrize("chunk", [2**24, 40])
def test_weights_equal_direct_attention(monkeypatch, chunk):
    monkeypatch.setattr("stepvideo.inference.attention.record.CHUNK", chunk)
    torch.manual_seed(0)
    attn = CrossAttention(CFG)
    torch.nn.init.normal_(attn.q_norm.weight, 1, 0.3)
    x, text = torch.randn(2, 9, 32), torch.randn(2, 7, 32)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
    with torch.no_grad():
        direct = _direct(attn, x, text, mask)[0]
        parts = list(weights(attn, x, text, key_bias(mask)))
    assert len(parts) == (1 if chunk > 40 else 5)
    found = torch.cat(parts, 1)
    torch.testing.assert_close(found, direct, atol=1e-6, rtol=1e-5)
    assert not found[..., 5:].any() and torch.allclose(found.sum(-1), torch.ones(2, 9))


def _model() -> DiT:
    dit = DiT(CFG)
    dit.init_weights(torch.Generator().manual_seed(1))
    for name, p in dit.named_parameters():
        if name.endswith(("attn2.wo.weight", "proj_out.weight")):
            torch.nn.init.normal_(p, std=0.2)
    return dit.requires_grad_(False)


def test_the_recorder_counts_the_evaluations_with_the_prompt_alone_and_leaves_the_video_as_it_is():
    dit = _model()
    found = words.split("a large red circle moves right")
    tokens = words.tokens("a large red circle moves right", BOTH)
    merge = words.merge(tokens, found)
    length = len(tokens)
    g = torch.Generator().manual_seed(2)
    llm, clip = torch.randn(2, length - 20 + 3, 12, generator=g), torch.randn(2, 20, 8, generator=g)
    mask = torch.ones(2, length + 3).long()
    mask[0, length:] = 0
    x = torch.randn(2, 3, 4, 4, 4, generator=g)
    text = {"encoder_hidden_states": llm, "encoder_hidden_states_2": clip, "encoder_attention_mask": mask}
    times = [0.0, 0.4]

    def go(velocity):
        return [velocity(hidden_states=x, timestep=torch.full((2,), t), **text) for t in times]

    plain = go(dit)
    recorder = Recorder(merge, steps=2)
    with recorder.hooked(dit):
        watched = recorder.watch(dit)
        again = go(watched)
        before = {k: v.clone() for k, v in recorder.shares.items()}
        watched(hidden_states=-x, timestep=torch.full((2,), 0.4), **text)  # the same step, without the prompt
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(torch.equal(before[k], v) for k, v in recorder.shares.items()) and len(before) == 4
    assert not any(m._forward_pre_hooks for m in dit.modules())
    result = recorder.result((3, 4, 4))
    assert result.shares.shape == (2, 2, length) and torch.allclose(result.shares.sum(-1), torch.ones(2, 2))
    assert result.times.tolist() == pytest.approx(times)
    assert result.maps.shape[1:] == (3, 4, 4, merge.shape[1])
    # maps and shares are the same weights, averaged in another order
    torch.testing.assert_close(result.maps.mean((0, 1, 2, 3)), (result.shares @ merge).mean((0, 1)), rtol=1e-4, atol=0)
    summary = summarise(result, tokens, found, merge)
    assert sum(w.share for w in summary.words) + sum(summary.others.values()) == pytest.approx(1, abs=1e-5)
    assert sum(w.of_words for w in summary.words) == pytest.approx(1, abs=1e-5)
    assert 0 < summary.entropy <= 1 and 0 < summary.evenness <= 1
    assert all(w.share == pytest.approx(w.clip + w.llm) for w in summary.words)


def test_a_dit_without_cross_attention_is_refused():
    cfg = DiTConfig(**{**vars(CFG), "block": "mmdit"})
    with pytest.raises(StepVideoError, match="MMDiT"), Recorder(torch.ones(1, 1), 1).hooked(DiT(cfg)):
        pass


def test_words_of_both_languages_and_given_phrases():
    assert [w.text for w in words.split("一个红色的大圆向右移动。")] == [
        "一个",
        "红色",
        "的",
        "大",
        "圆",
        "向",
        "右",
        "移动",
    ]
    assert [w.text for w in words.split("a dog's ball, then up.")] == ["a", "dog's", "ball", "then", "up"]
    assert [w.text for w in words.split("一个红色的大圆", ["大圆"])] == ["一个", "红色", "的", "大圆"]
    assert [w.text for w in words.split("宇航员 walks", ["宇航员"])] == ["宇航员", "walks"]
    with pytest.raises(StepVideoError, match="has no"):
        words.split("a dog", ["cat"])


@pytest.mark.parametrize("prompt", [CAPTIONS[0], CAPTIONS[1], "two small blue squares."])
def test_every_token_of_both_encoders_belongs_to_its_word(prompt):
    found = words.split(prompt)
    tokens = words.tokens(prompt, BOTH)
    merge = words.merge(tokens, found)
    assert torch.allclose(merge.sum(1), torch.ones(len(tokens)))
    clip_ids, _ = BOTH.clip.encode_batch([prompt])
    assert sum(t.stream == "clip" for t in tokens) == clip_ids.shape[1]
    _, mask = BOTH.llm.encode_batch([prompt])
    assert sum(t.stream == "llm" for t in tokens) == int(mask.sum())
    for i, word in enumerate(found):  # the characters of a word are those of its tokens, in each encoder
        for stream in ("clip", "llm"):
            mine = [t for t, m in zip(tokens, merge, strict=True) if t.stream == stream and m[i] > 0]
            assert min(t.start for t in mine) <= word.start and max(t.end for t in mine) >= word.end
    punctuation = len(found) + words.OTHERS.index(words.PUNCTUATION)
    spaces = any(t.start == t.end for t in tokens if not t.group)
    assert bool(merge[:, punctuation].any()) == (spaces or any(c in prompt for c in ",."))


def test_evenness():
    assert evenness(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(1)
    assert evenness(torch.tensor([1.0, 0.0])) == pytest.approx(0, abs=1e-6) and evenness(torch.tensor([3.0])) == 1


def test_heat_is_brightest_where_the_word_is_read():
    level = np.zeros((3, 4, 4), np.float32)
    level[:, 1, 2] = 1
    film = heat(np.full((9, 32, 32, 3), 128, np.uint8), level)
    assert film.shape == (9, 32, 32, 3) and film[4, 12, 20].sum() > film[4, 28, 4].sum() + 150


@pytest.fixture(scope="module")
def pipe(tiny_models) -> StepVideoPipeline:
    return StepVideoPipeline.from_pretrained(tiny_models, device="cpu", precision="fp32")


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_generation_is_the_same_while_it_is_watched(pipe, in_turn):
    engine = replace(pipe.engine, batched_guidance=not in_turn)
    found = words.split(CAPTIONS[0])
    merge = words.merge(words.tokens(CAPTIONS[0], pipe.tokenizers), found)
    settings = engine.defaults.with_({"steps": 2, "cfg": 3.0})
    seen, done = record(engine, CAPTIONS[0], merge, settings, seed=5)
    plain = engine.sample([CAPTIONS[0]], settings=settings, seed=5)
    assert torch.equal(done.latents, plain.latents) and done.nfe == 4
    assert len(seen.times) == 2 and torch.allclose(seen.shares.sum(-1), torch.ones(seen.shares.shape[:2]), atol=1e-5)
    batched = record(pipe.engine, CAPTIONS[0], merge, settings, seed=5)[0]
    torch.testing.assert_close(seen.shares, batched.shares, atol=1e-4, rtol=1e-3)


def test_command(tiny_models, tmp_path, capsys):
    out = tmp_path / "seen"
    args = ["inspect", "attention", CAPTIONS[0], "--model", str(tiny_models), "--out", str(out), "--steps", "2"]
    assert main([*args, "--device", "cpu", "--word", "大圆", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((out / "attention.json").read_text())
    names = [row["word"]["text"] for row in said["words"]]
    assert names == ["一个", "红色", "的", "大圆", "向", "右", "移动"]
    assert {p.name for p in out.iterdir()} >= {"index.html", "video.png", "attention.mp4", "word-06.png"}
    page = (out / "index.html").read_text()
    assert all(name in page for name in names) and "http" not in page.replace("http://www.w3.org", "")
    assert main([*args, "--device", "cpu"]) == 0 and "evenness" in capsys.readouterr().out
    assert main([*args[:2], "", *args[3:]]) == 2 and "no word" in capsys.readouterr().err
    assert main([*args, "--word", "狗"]) == 2 and "狗" in capsys.readouterr().err
