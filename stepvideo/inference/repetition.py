"""Prompt repetition: what a video misses is said again (report §10.2, where it helps some prompts)."""

from __future__ import annotations

from stepvideo.errors import StepVideoError

WHOLE = ""


def repeated(prompt: str, phrase: str = WHOLE, times: int = 1) -> str:
    """The prompt, and after it a phrase of it, or all of it, `times` more: "a red circle, circle".

    Raises:
        StepVideoError: a phrase that the prompt does not have, or fewer than 0 times.
    """
    if times < 0:
        raise StepVideoError(f"times={times}: give 0 or more")
    if phrase not in prompt:
        raise StepVideoError(f"the prompt {prompt!r} has no {phrase!r} to repeat; give words that it has")
    comma = "，" if any("\u3400" <= c <= "\u9fff" for c in prompt) else ", "
    end = prompt[len(prompt.rstrip("。. ")) :]
    body = prompt[: len(prompt) - len(end)]
    return comma.join([body, *[(phrase or body)] * times]) + end
