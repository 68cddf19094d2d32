"""The two tokenizers: sentencepiece for Step-LLM, BERT WordPiece for CLIP; trained on captions, or loaded as released.

Training is deterministic: equal captions give equal bytes. Any text is taken: what is no Unicode (lone surrogates)
becomes U+FFFD, what exceeds the length is cut. What the vocabulary cannot spell is an error or is replaced, by its
policy: a network trained on a closed vocabulary has never seen "unknown" and would silently answer another prompt;
the released ones have.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
BERT_CONFIG = "tokenizer_config.json"
BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of a BERT tokenizer_config.json and what the library calls them."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN = ("error", "replace")


class UnknownToken(StepVideoError):
    """A prompt holds something that the vocabulary has no token for."""

    def __init__(self, text: str, token: str, which: str) -> None:
        super().__init__(
            f"the {which} vocabulary has no token for {token!r} in the prompt {shortened(text)!r}; "
            "use the words of the training captions, or allow_unk=True to replace it by [UNK]"
        )
        self.token = token


@dataclass(frozen=True)
class Spelling:
    """The tokens of a text: all of them, before anything is cut, and what has none."""

    ids: list[int]
    unknown: list[str]


class Tokenizer:
    """What both tokenizers share: first + ids + last, cut to a length and padded on the right."""

    name: str
    first: int
    last: int
    pad: int

    def __init__(self, length: int, unknown: str) -> None:
        if length < 3:
            raise ValueError(f"length={length}: a first token, one of the text and a last one need at least 3")
        if unknown not in UNKNOWN:
            raise ValueError(f"unknown={unknown!r}: choose one of {', '.join(UNKNOWN)}")
        self.length, self.unknown = length, unknown

    @property
    def room(self) -> int:
        """Tokens of a text that fit."""
        return self.length - 2

    def spell(self, texts: Sequence[str]) -> list[Spelling]:
        """Every text's tokens, without the first and the last."""
        raise NotImplementedError

    def spans(self, text: str) -> list[tuple[int, int]]:
        """First character and end (exclusive) of every token of `spell`, in a text of well-formed Unicode."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str], allow_unk: bool | None = None) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [b, length] int64; what exceeds the length is cut, the last token stays.

        Args:
            allow_unk: whether what has no token is replaced by "unknown"; None takes the vocabulary's policy.

        Raises:
            UnknownToken: names the first piece without a token, where it is not replaced.
        """
        replace = self.unknown == "replace" if allow_unk is None else allow_unk
        ids = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, (text, spelling) in enumerate(zip(texts, self.spell(texts))):
            if spelling.unknown and not replace:
                raise UnknownToken(text, spelling.unknown[0], self.name)
            row = [self.first, *spelling.ids[: self.room], self.last]
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask


class LLMTokenizer(Tokenizer):
    """Step-LLM's sentencepiece tokenizer: [BOS] + ids + [EOS], padded on the right with EOS, as released."""

    name = "Step-LLM"
    first, last, pad = 1, 2, 2

    def __init__(self, model: bytes, length: int = 320, unknown: str = "error") -> None:
        super().__init__(length, unknown)
        self.model = model
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
            bos_id=cls.first,
            eos_id=cls.last,
            pad_id=-1,
            user_defined_symbols=list(CHAT_TOKENS),
            num_threads=1,
            minloglevel=2,
        )
        return cls(out.getvalue(), length)

    @classmethod
    def load(cls, path: Path, length: int = 320, unknown: str = "error") -> LLMTokenizer:
        """Raises ArtifactError if the file is missing or no sentencepiece model."""
        try:
            if not (model := Path(path).read_bytes()):
                raise RuntimeError("it is empty")  # which the library takes for "later"
            return cls(model, length, unknown)
        except (OSError, RuntimeError) as e:
            raise ArtifactError(f"{path} cannot be read as a sentencepiece model: {e}") from e

    def save(self, path: Path) -> None:
        storage.write_atomic(Path(path), self.model)

    @property
    def vocab_size(self) -> int:
        return self._sp.get_piece_size()

    def has(self, piece: str) -> bool:
        """Whether the vocabulary has exactly this piece."""
        return self._sp.piece_to_id(piece) != self._sp.unk_id()

    def spell(self, texts: Sequence[str]) -> list[Spelling]:
        return [self._spell(well_formed(text)) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        pieces = self._sp.encode(text, return_type="proto").pieces  # which counts bytes
        raw = text.encode()
        return [(len(raw[: p.begin].decode()), len(raw[: p.end].decode())) for p in pieces]

    def _spell(self, text: str) -> Spelling:
        ids: list[int] = self._sp.encode(text, out_type=int)
        unk = self._sp.unk_id()
        if unk not in ids:
            return Spelling(ids, [])
        pieces: list[str] = self._sp.encode(text, out_type=str)
        return Spelling(ids, [piece.strip("▁") for i, piece in zip(ids, pieces) if i == unk])


class CLIPTokenizer(Tokenizer):
    """BERT WordPiece: [CLS] + ids + [SEP], padded on the right, lower-cased, every Chinese character by itself.

    Args:
        options: `lowercase`, `strip_accents` and `handle_chinese_chars`, where a tokenizer_config.json says otherwise.
    """

    name = "CLIP"

    def __init__(
        self,
        vocab: Sequence[str],
        length: int = 77,
        unknown: str = "error",
        options: Mapping[str, bool | None] | None = None,
    ) -> None:
        super().__init__(length, unknown)
        if missing := [t for t in SPECIAL_TOKENS[:4] if t not in vocab]:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
        self.vocab = list(vocab)
        ids = {token: i for i, token in enumerate(self.vocab)}
        self.pad, self._unk, self.first, self.last = (ids[t] for t in SPECIAL_TOKENS[:4])
        self._tok = BertWordPieceTokenizer(vocab=ids, **{"lowercase": True, **(options or {})})

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
    def load(cls, path: Path, length: int = 77, unknown: str = "error") -> CLIPTokenizer:
        """Read a vocab.txt, and the tokenizer_config.json beside it if there is one, as in the release.

        Raises:
            ArtifactError: if the file is missing or no BERT vocabulary.
        """
        path = Path(path)
        config = path.with_name(BERT_CONFIG)
        said = storage.read_json(config) if config.exists() else {}
        if not isinstance(said, dict):
            raise ArtifactError(f"{config} holds no keys and values; copy it again")
        options = {ours: said[name] for name, ours in BERT_OPTIONS.items() if name in said}
        try:
            vocab = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            return cls(vocab, length, unknown, options)
        except (OSError, ValueError, TypeError) as e:
            raise ArtifactError(f"{path} cannot be read as a BERT vocabulary: {e}") from e

    def save(self, path: Path) -> None:
        storage.write_atomic(Path(path), "".join(f"{token}\n" for token in self.vocab))

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def spell(self, texts: Sequence[str]) -> list[Spelling]:
        texts = [well_formed(text) for text in texts]
        return [
            Spelling(e.ids, [text[a:b] for i, (a, b) in zip(e.ids, e.offsets) if i == self._unk])
            for text, e in zip(texts, self._tok.encode_batch(texts, add_special_tokens=False))
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return self._tok.encode(text, add_special_tokens=False).offsets


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates, which no encoding has, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shortened(text: str, width: int = 80) -> str:
    """For messages."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _distinct(captions: Iterable[str]) -> list[str]:
    """Each caption once, sorted: the order and the counts of the data set must not change the vocabulary."""
    texts = sorted(set(captions))
    if not texts:
        raise StepVideoError("a tokenizer needs at least one caption to be trained on")
    return texts
