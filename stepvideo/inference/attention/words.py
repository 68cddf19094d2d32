"""Which tokens of both text encoders belong to which word of a prompt.

Legend: l text tokens as the DiT reads them (CLIP first, then Step-LLM), w words and the groups that are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepvideo.errors import StepVideoError
from stepvideo.models.text_encoders import Tokenizers
from stepvideo.world.captions import EN, ZH

PUNCTUATION, ENDS, PADDING = "(punctuation and spaces)", "(start and end)", "(padding)"
OTHERS = (PUNCTUATION, ENDS, PADDING)
_RUN = re.compile(r"[^\W\u2e80-\u9fff\uff00-\uffef]+(?:['’-]\w+)*|[\u3400-\u9fff]")
# Chinese is written without spaces. What the list lacks is taken character by character, or given by the user.
_LEXICON = sorted(
    {w for v in (*ZH.values(), *EN.values()) for w in (v if isinstance(v, tuple) else (v,)) if "\u3400" <= w[0]}
    | {"移动", "背景", "镜头", "画面", "正在", "然后", "边缘", "弹回", "落下", "上方"},
    key=lambda w: (-len(w), w),
)


@dataclass(frozen=True)
class Word:
    """A word or phrase of a prompt: its characters from `start` to `end` (exclusive)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Token:
    """A token as a network reads it. `start` is -1 where it stands for no character."""

    stream: str  # clip | llm
    start: int = -1
    end: int = -1
    group: str = ""  # of `OTHERS`, for those without characters


def split(prompt: str, given: Sequence[str] = ()) -> list[Word]:
    """The words of a prompt in their order, without punctuation.

    Latin words are split at spaces, Chinese by a short list of words and else by characters.

    Args:
        given: phrases that count as one word wherever they occur, before anything else is split.

    Raises:
        StepVideoError: a phrase that the prompt does not have.
    """
    found: list[Word] = []
    free = [True] * len(prompt)

    def take(start: int, end: int) -> None:
        if all(free[start:end]):
            found.append(Word(prompt[start:end], start, end))
            free[start:end] = [False] * (end - start)

    for phrase in sorted(given, key=len, reverse=True):
        if not phrase.strip() or phrase not in prompt:
            raise StepVideoError(f"the prompt has no {phrase!r}; give words that it has, as they are written")
    for phrase in [*sorted(given, key=len, reverse=True), *_LEXICON]:
        for match in re.finditer(re.escape(phrase), prompt):
            take(*match.span())
    for match in _RUN.finditer(prompt):
        take(*match.span())
    return sorted(found, key=lambda w: w.start)


def tokens(prompt: str, both: Tokenizers, streams: int = 2) -> list[Token]:
    """Every token of a prompt that the DiT can attend to, in its order; CLIP's padding is attended, as released.

    Args:
        streams: 1 for a DiT that reads Step-LLM alone.
    """
    clip: list[Token] = []
    if streams == 2:
        clip = [Token("clip", *span) for span in both.clip.spans(prompt)[: both.clip.room]]
        clip = [Token("clip", group=ENDS), *clip, Token("clip", group=ENDS)]
        clip += [Token("clip", group=PADDING)] * (both.clip.length - len(clip))
    llm = [Token("llm", *span) for span in both.llm.spans(prompt)[: both.llm.room]]
    return [*clip, Token("llm", group=ENDS), *llm, Token("llm", group=ENDS)]


def merge(found: Sequence[Token], words: Sequence[Word]) -> Tensor:
    """How much of each token belongs to each word, then to each of `OTHERS`: [l, w] fp32, rows sum to 1.

    A token over several words is shared by characters; one over none belongs to punctuation and spaces.
    """
    out = torch.zeros(len(found), len(words) + len(OTHERS))
    for row, token in zip(out, found, strict=True):
        overlap = [max(0, min(token.end, w.end) - max(token.start, w.start)) for w in words]
        if token.group:
            row[len(words) + OTHERS.index(token.group)] = 1
        elif total := sum(overlap):
            row[: len(words)] = torch.tensor(overlap) / total
        else:
            row[len(words) + OTHERS.index(PUNCTUATION)] = 1
    return out
