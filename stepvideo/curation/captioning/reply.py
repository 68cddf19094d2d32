"""What a model must answer: a JSON object with one text a kind; the check, and what is wrong in words for the model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.DOTALL)
REFUSAL = re.compile(
    r"^\s*(?:i(?:'|’)?m sorry|i am sorry|sorry,|i (?:cannot|can(?:'|’)t|am unable|am not able)|as an ai\b)"
    r"|\bi (?:cannot|can(?:'|’)t) (?:assist|help|describe|identify|provide|see)\b"
    r"|^\s*(?:很抱歉|抱歉|对不起)|(?:我|本模型)(?:无法|不能)(?:描述|识别|查看|提供|分析|协助|处理|看到)|作为(?:一个)?(?:AI|人工智能|语言模型)",
    re.IGNORECASE,
)


def schema(kinds: Sequence[str]) -> dict[str, Any]:
    """JSON schema of an answer, in the subset that strict structured output takes."""
    return {
        "type": "object",
        "properties": {kind: {"type": "string"} for kind in kinds},
        "required": list(kinds),
        "additionalProperties": False,
    }


def parse(text: str, kinds: Sequence[str]) -> tuple[dict[str, str], str]:
    """(kind → caption, "") for an answer that is as it should be, else ({}, what is wrong).

    A code fence around the object is taken off; line breaks in captions become spaces.
    """
    fenced = _FENCE.match(text)
    try:
        answer = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as e:
        return {}, f"the answer is not JSON ({e})"
    if not isinstance(answer, dict):
        return {}, f"the answer is a JSON {type(answer).__name__}, not an object"
    if wrong := sorted(set(kinds) ^ set(answer)):
        return (
            {},
            f"the object has the keys {', '.join(map(repr, answer))}; it must have {', '.join(kinds)} ({wrong[0]!r})",
        )
    for kind, caption in answer.items():
        if not isinstance(caption, str) or not caption.strip():
            return {}, f"{kind!r} is not a text with something in it"
        if any(0xD800 <= ord(c) <= 0xDFFF for c in caption):
            return {}, f"{kind!r} has half a Unicode character"
    return {kind: " ".join(answer[kind].split()) for kind in kinds}, ""


def refusal(texts: Sequence[str]) -> str:
    """The first of the texts that declines to describe, "" if none does."""
    return next((t for t in texts if REFUSAL.search(t)), "")
