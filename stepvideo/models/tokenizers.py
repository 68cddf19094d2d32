"""The two tokenizers: sentencepiece for Step-LLM, BERT WordPiece for CLIP; trained on captions, or loaded as released.

Training is deterministic: equal captions give equal bytes. A text that the vocabulary cannot spell is an error by
default, because a network silently fed with "unknown" answers another prompt.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece as spm
import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError

LLM_FILE = "step1_chat_tokenizer.model"
CLIP_FILE = "vocab.txt"
CHAT_TOKENS = (
    "<|BOT|>", "<|EOT|>", "<|CALL_START|>", "<|CALL_END|>",
    "<|THINK_START|>", "<|THINK_END|>", "<|MASK_1e69f|>", "<|UNMASK_1e69f|>",
)  # fmt: skip
"""Pieces that the released Step-LLM tokenizer class insists on."""
_HAN = re.compile("[\u2e80-\u9fff\uff00-\uffef]")  # Chinese characters and full-width punctuation
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class UnknownToken(StepVideoError):
    """A prompt holds something that the vocabulary has no token for."""

    def __init__(self, text: str, token: str, which: str) -> None:
        super().__init__(
            f"the {which} vocabulary has no token for {token!r} in the prompt {text!r}; "
            "use the words of the training captions, or allow_unk=True to replace it by [UNK]"
        )
        self.token = token


class LLMTokenizer:
    """Step-LLM's sentencepiece tokenizer: [BOS] + ids + [EOS], padded on the right with EOS, as released."""

    bos, eos, pad = 1, 2, 2

    def __init__(self, model: bytes, length: int = 320) -> None:
        if length < 3:
            raise ValueError(f"length={length}: BOS, one token and EOS need at least 3")
        self.model, self.length = model, length
        self._sp = spm.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 2000, length: int = 320) -> LLMTokenizer:
        """BPE on these captions; `vocab_size` is an upper limit, all characters of the captions are kept.

        Chinese characters stay single, at the start of a text too: a piece that glues attributes ("红色的大圆")
        would give an unseen combination of seen words a spelling that no network was trained on.
        """
        out = io.BytesIO()
        texts = [unicodedata.normalize("NFKC", text) for text in _distinct(captions)]  # as sentencepiece will
        latin = sorted({part for text in texts for part in _HAN.sub("\n", text).split("\n") if part.strip()})
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(latin or ["a"]),  # the trainer wants at least one word
            model_writer=out,
            model_type="bpe",
            required_chars="".join(sorted(set("".join("".join(texts).split())))),
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            unk_id=0,
            bos_id=cls.bos,
            eos_id=cls.eos,
            pad_id=-1,
            user_defined_symbols=list(CHAT_TOKENS),
            num_threads=1,
            minloglevel=2,
        )
        return cls(out.getvalue(), length)

    @classmethod
    def load(cls, path: Path, length: int = 320) -> LLMTokenizer:
        """Raises ArtifactError if the file is missing or no sentencepiece model."""
        try:
            return cls(Path(path).read_bytes(), length)
        except (OSError, RuntimeError) as e:
            raise ArtifactError(f"{path} cannot be read as a sentencepiece model: {e}") from e

    def save(self, path: Path) -> None:
        storage.write_atomic(Path(path), self.model)

    @property
    def vocab_size(self) -> int:
        return self._sp.get_piece_size()

    def encode_batch(self, texts: Sequence[str], allow_unk: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [b, length] int64; what exceeds the length is cut, EOS stays.

        Raises:
            UnknownToken: names the first piece without a token, unless `allow_unk`.
        """
        rows = []
        for text in texts:
            ids = self._sp.encode(text, out_type=int)
            if not allow_unk and self._sp.unk_id() in ids:
                token = self._sp.encode(text, out_type=str)[ids.index(self._sp.unk_id())]
                raise UnknownToken(text, token.strip("▁"), "Step-LLM")
            rows.append([self.bos, *ids[: self.length - 2], self.eos])
        return _pad(rows, self.length, self.pad)


class CLIPTokenizer:
    """BERT WordPiece: [CLS] + ids + [SEP], padded on the right, lower-cased, every Chinese character by itself."""

    def __init__(self, vocab: Sequence[str], length: int = 77) -> None:
        if length < 3:
            raise ValueError(f"length={length}: [CLS], one token and [SEP] need at least 3")
        if missing := [t for t in SPECIAL_TOKENS[:4] if t not in vocab]:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
        self.vocab, self.length = list(vocab), length
        self._ids = {token: i for i, token in enumerate(self.vocab)}
        self._tok = BertWordPieceTokenizer(vocab=dict(self._ids), lowercase=True)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 2000, length: int = 77) -> CLIPTokenizer:
        """Special tokens, every character (also as a continuation), then whole words, the most frequent first.

        The library's own trainer breaks ties at random, so that equal captions would give different vocabularies.
        """
        words: Counter[str] = Counter()
        normalize, split = BertNormalizer(lowercase=True), BertPreTokenizer()
        for text in _distinct(captions):
            words.update(word for word, _ in split.pre_tokenize_str(normalize.normalize_str(text)))
        characters = sorted(set("".join(words)))
        inner = sorted({c for word in words for c in word[1:]})
        vocab = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in inner)]
        ranked = sorted((w for w in words if len(w) > 1), key=lambda w: (-words[w], w))
        return cls(vocab + ranked[: max(vocab_size - len(vocab), 0)], length)

    @classmethod
    def load(cls, path: Path, length: int = 77) -> CLIPTokenizer:
        """Raises ArtifactError if the file is missing or no BERT vocabulary."""
        try:
            return cls(Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n"), length)
        except (OSError, ValueError) as e:
            raise ArtifactError(f"{path} cannot be read as a BERT vocabulary: {e}") from e

    def save(self, path: Path) -> None:
        storage.write_atomic(Path(path), "".join(f"{token}\n" for token in self.vocab))

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def encode_batch(self, texts: Sequence[str], allow_unk: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [b, length] int64; what exceeds the length is cut, [SEP] stays.

        Raises:
            UnknownToken: names the first word without a token, unless `allow_unk`.
        """
        cls_, sep, unk = (self._ids[t] for t in ("[CLS]", "[SEP]", "[UNK]"))
        rows = []
        for text, encoding in zip(texts, self._tok.encode_batch(list(texts), add_special_tokens=False)):
            if not allow_unk and unk in encoding.ids:
                start, end = encoding.offsets[encoding.ids.index(unk)]
                raise UnknownToken(text, text[start:end], "CLIP")
            rows.append([cls_, *encoding.ids[: self.length - 2], sep])
        return _pad(rows, self.length, self._ids["[PAD]"])


def _distinct(captions: Iterable[str]) -> list[str]:
    """Each caption once, sorted: the order and the counts of the data set must not change the vocabulary."""
    texts = sorted(set(captions))
    if not texts:
        raise StepVideoError("a tokenizer needs at least one caption to be trained on")
    return texts


def _pad(rows: list[list[int]], length: int, pad: int) -> tuple[Tensor, Tensor]:
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask
