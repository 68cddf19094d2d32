"""Words that a vocabulary trained here spells in letters: something is drawn for them, but none was ever learnt."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from stepvideo.models.text_encoders import Tokenizers
from stepvideo.models.tokenizers import CLIPTokenizer, shortened, well_formed

SHOWN = 8  # words of one prompt


def unseen_words(vocabulary: CLIPTokenizer, text: str) -> list[str]:
    """The words of a text, each once, that are no token of their own. Chinese characters are words by themselves.

    A vocabulary of captions has all their words, the most frequent first, up to its size; a released one has pieces of
    words, for which this says nothing.
    """
    known = set(vocabulary.vocab)
    normal = BertNormalizer(lowercase=True).normalize_str(well_formed(text))
    words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal)]
    return list(dict.fromkeys(w for w in words if len(w) > 1 and w.isalpha() and w not in known))


def unseen_notices(tokenizers: Tokenizers, prompts: Sequence[str]) -> list[str]:
    """A sentence for every prompt with such words; none for released vocabularies, which replace what they lack."""
    if tokenizers.clip.unknown != "error":
        return []
    found = []
    for prompt in dict.fromkeys(prompts):
        if words := unseen_words(tokenizers.clip, prompt):
            named = ", ".join(shortened(w, 20) for w in words[:SHOWN]) + (", …" if len(words) > SHOWN else "")
            found.append(
                f"{shortened(prompt, 40)!r}: this model has not learnt {named}; its captions lack such words, "
                "so what it draws for them means nothing"
            )
    return found
