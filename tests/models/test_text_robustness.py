"""Any text: fixed shapes, right masks, no other error than an unknown token, and a notice of what was changed."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo import storage
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.config import CLIPTextConfig, StepLLMConfig
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.text_encoders import (
    LENGTHS_FILE,
    TextEncoders,
    Tokenizers,
    load_text_encoders,
    load_tokenizers,
    save_text_encoders,
)
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer, UnknownToken

CAPTIONS = ["a big red circle moves to the left", "一个红色的大圆向左移动，背景是单色。"]
LENGTH = 16
LLM, CLIP = LLMTokenizer.train(CAPTIONS, length=LENGTH), CLIPTokenizer.train(CAPTIONS, length=LENGTH)
HARD = [
    "",
    " \n\t",
    "x" * 10_000,
    "红" * 10_000,
    "a red 圆 moves 左",
    "👩‍👩‍👧‍👦🇨🇳 emoji",
    "\x00\x01\x1b[31m\x7f",
    "\ud83d lone",
    "\ud83d\ude00",
    "\u202eright to left\u202c",
    "e\u0301\u0301\u0301" * 50,
    "[SEP] [MASK] <|EOT|> </s> <unk>",
    "\ufeff\ufffe\uffff",
]
texts = st.one_of(st.text(), st.text(st.characters(codec=None), max_size=50), st.sampled_from(CAPTIONS + HARD))


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3), st.booleans())
@pytest.mark.parametrize("tokenizer", [LLM, CLIP], ids=["llm", "clip"])
def test_any_text_becomes_ids_of_fixed_length(tokenizer, texts, allow_unk):
    try:
        ids, mask = tokenizer.encode_batch(texts, allow_unk)
    except UnknownToken as e:
        assert not allow_unk and str(e).encode()  # the message can be printed
        return
    assert ids.shape == mask.shape == (len(texts), LENGTH) and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    lengths = [min(len(s.ids), tokenizer.room) + 2 for s in tokenizer.spell(texts)]
    assert mask.sum(1).tolist() == lengths
    for row, kept, n in zip(ids, mask, lengths, strict=True):
        assert kept[:n].all() and row[0] == tokenizer.first and row[n - 1] == tokenizer.last
        assert (row[n:] == tokenizer.pad).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=3))
def test_notices_are_text_for_any_text(texts):
    notices = Tokenizers(LLM, CLIP).notices(texts)
    assert all(n.encode() for n in notices)
    assert len(notices) >= sum(not t.strip() for t in set(texts))


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_are_encoded_where_unknown_is_replaced(text):
    for tokenizer in (LLM, CLIP):
        ids, mask = tokenizer.encode_batch([text], allow_unk=True)
        assert 2 <= int(mask.sum()) <= LENGTH and ids.shape == (1, LENGTH)


def test_what_was_changed_is_told():
    vocabularies = Tokenizers(LLM, CLIP)
    assert vocabularies.notices(CAPTIONS[:1]) == []
    long = "red circle " * 20
    (notice,) = vocabularies.notices([long, long])  # once
    for tokenizer in (LLM, CLIP):
        total = len(tokenizer.spell([long])[0].ids)
        assert f"{tokenizer.name} reads the first {LENGTH - 2} of {total} tokens" in notice
    told = " | ".join(vocabularies.notices(["", "a 🐕", "red \ud800"]))
    for part in ("an empty prompt", "Step-LLM has no token for '🐕'", "CLIP has no token for '🐕'", "lone surrogates"):
        assert part in told


def test_a_surrogate_pair_is_its_character():
    tokenizer = LLMTokenizer.train(["😀 red"], length=LENGTH)
    assert torch.equal(tokenizer.encode_batch(["\ud83d\ude00"])[0], tokenizer.encode_batch(["😀"])[0])


@pytest.fixture
def folder(tmp_path):
    draw = torch.Generator().manual_seed(0)
    llm = StepLLM(StepLLMConfig(16, 1, 2, 1, 32, padded_vocab_size=LLM.vocab_size))
    clip = CLIPTextEncoder(CLIPTextConfig(CLIP.vocab_size, 16, 1, 2, 32, 80))
    llm.init_weights(draw)
    clip.init_weights(draw)
    save_text_encoders(TextEncoders(llm, LLM, clip, CLIP), tmp_path)
    return tmp_path


def test_vocabularies_trained_here_refuse_and_released_ones_replace(folder):
    released = load_text_encoders(folder)
    assert (released.llm_tokenizer.length, released.clip_tokenizer.length) == (320, 77)
    assert released.encode(["a 狗"])["encoder_attention_mask"].shape == (1, 77 + 320)
    assert released.notices(["a 狗"])
    with pytest.raises(UnknownToken, match="狗"):
        released.encode(["a 狗"], allow_unk=False)

    storage.write_json(folder / LENGTHS_FILE, {"llm_length": 20, "clip_length": 18})
    ours = load_text_encoders(folder)
    assert (ours.llm_tokenizer.length, ours.clip_tokenizer.length) == (20, 18)
    with pytest.raises(UnknownToken, match="狗"):
        ours.encode(["a 狗"])
    assert ours.encode(["a 狗"], allow_unk=True)
    assert load_tokenizers(folder, unknown="replace").llm.encode_batch(["狗"])[1].sum() > 2
    with pytest.raises(ValueError, match="unknown='ignore'"):
        load_tokenizers(folder, unknown="ignore")


def test_the_released_tokenizer_config_is_honoured(folder):
    path = folder / "hunyuan_clip" / "tokenizer" / "tokenizer_config.json"
    lower = load_tokenizers(folder).clip
    path.write_text(json.dumps({"do_lower_case": False, "tokenize_chinese_chars": True, "unk_token": "[UNK]"}))
    cased = load_tokenizers(folder).clip
    assert not lower.spell(["RED"])[0].unknown and cased.spell(["RED"])[0].unknown == ["RED"]


def test_a_long_prompt_in_an_error_is_shortened():
    with pytest.raises(UnknownToken) as error:
        LLM.encode_batch(["red " * 2500 + "狗"])
    assert len(str(error.value)) < 400 and "狗" in str(error.value)
