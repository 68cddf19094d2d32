"""Tokenizers: deterministic, lossless on their captions, and loud about what they cannot spell."""

from __future__ import annotations

import pytest
import torch

from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.models.tokenizers import CHAT_TOKENS, CLIPTokenizer, LLMTokenizer, UnknownToken

COLOURS, SIDES = ("red", "blue"), ("left", "right")
CAPTIONS = [f"a {s} {c} circle moves to the {d}" for s in ("small", "big") for c in COLOURS for d in SIDES]
CAPTIONS += [f"一个{c}的{s}圆向{d}移动，背景是单色。" for s in "大小" for c in ("红色", "蓝色") for d in "左右"]
KINDS = [LLMTokenizer, CLIPTokenizer]


@pytest.mark.parametrize("kind", KINDS)
def test_training_depends_on_the_set_of_captions_only(kind, tmp_path):
    a, b = kind.train(CAPTIONS), kind.train([*reversed(CAPTIONS), *CAPTIONS])
    a.save(tmp_path / "a")
    b.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_gives_the_same_ids(kind, tmp_path):
    a = kind.train(CAPTIONS, length=24)
    a.save(tmp_path / "vocab")
    b = kind.load(tmp_path / "vocab", length=24)
    assert a.vocab_size == b.vocab_size
    assert all(torch.equal(x, y) for x, y in zip(a.encode_batch(CAPTIONS), b.encode_batch(CAPTIONS), strict=True))


def test_llm_rows_are_bos_ids_eos_and_eos_as_padding():
    tokenizer = LLMTokenizer.train(CAPTIONS, length=12)
    ids, mask = tokenizer.encode_batch(["red circle", CAPTIONS[-1]])
    n = int(mask[0].sum())
    assert ids[0, 0] == 1 and ids[0, n - 1] == 2 and (ids[0, n:] == 2).all() and not mask[0, n:].any()
    assert mask[1].all() and ids[1, -1] == 2 and ids[1, 0] == 1  # cut, EOS kept
    assert ids.shape == mask.shape == (2, 12) and ids.dtype == mask.dtype == torch.int64


def test_clip_rows_are_cls_ids_sep_and_pad():
    tokenizer = CLIPTokenizer.train(CAPTIONS, length=12)
    ids, mask = tokenizer.encode_batch(["Red CIRCLE", CAPTIONS[-1]])
    words = [tokenizer.vocab[i] for i in ids[0]]
    assert words == ["[CLS]", "red", "circle", "[SEP]", *["[PAD]"] * 8]
    assert mask[0].tolist() == [1] * 4 + [0] * 8
    assert mask[1].all() and tokenizer.vocab[ids[1, -1]] == "[SEP]"


def test_llm_pieces_are_words_and_single_characters():
    """So that an unseen combination of seen attributes is spelt with seen tokens."""
    tokenizer = LLMTokenizer.train(CAPTIONS)
    ids, mask = tokenizer.encode_batch(["a big blue circle", "红色的大圆"])
    assert mask.sum(1).tolist() == [4 + 2, 1 + 5 + 2]  # a text starts with the piece of a space


def test_every_character_of_the_captions_is_kept():
    for texts in (["一个红色的圆，", "ａ b"], ["圆"], ["red"]):
        LLMTokenizer.train(texts).encode_batch(texts)
        CLIPTokenizer.train(texts).encode_batch(texts)


def test_llm_vocabulary_has_the_pieces_that_the_released_class_wants():
    import sentencepiece as spm

    processor = spm.SentencePieceProcessor(model_proto=LLMTokenizer.train(CAPTIONS).model)
    assert all(processor.id_to_piece(processor.piece_to_id(t)) == t for t in CHAT_TOKENS)
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "token"), [("a red 狗 moves", "狗"), ("a ж circle", "ж"), ("一个红色的🐕", "🐕")])
def test_unknown_tokens_are_named(kind, prompt, token):
    tokenizer = kind.train(CAPTIONS)
    with pytest.raises(UnknownToken, match=token) as error:
        tokenizer.encode_batch(["a red circle", prompt])
    assert isinstance(error.value, StepVideoError) and prompt in str(error.value)
    ids, _ = tokenizer.encode_batch([prompt], allow_unk=True)
    assert (ids == (0 if kind is LLMTokenizer else tokenizer.vocab.index("[UNK]"))).any()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_named(kind, tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        kind.load(tmp_path / "nowhere")
    (tmp_path / "garbage").write_bytes(b"garbage\xff")
    with pytest.raises(ArtifactError, match="garbage"):
        kind.load(tmp_path / "garbage")


@pytest.mark.parametrize("kind", KINDS)
def test_no_captions_and_no_room_are_errors(kind):
    with pytest.raises(StepVideoError, match="at least one caption"):
        kind.train([])
    with pytest.raises(ValueError, match="length=2"):
        kind.train(CAPTIONS, length=2)
