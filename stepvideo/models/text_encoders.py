"""Both text encoders with their tokenizers: prompts in, the DiT's text arguments out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models import checkpoints
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.tokenizers import CLIP_FILE, LLM_FILE, CLIPTokenizer, LLMTokenizer, shortened, well_formed

LENGTHS_FILE = "text_lengths.json"
RELEASED_LENGTHS = {"llm_length": 320, "clip_length": 77}


@dataclass
class Tokenizers:
    """Both vocabularies without the networks: small and quick, so that prompts can be checked anywhere."""

    llm: LLMTokenizer
    clip: CLIPTokenizer

    def readable(self, prompt: str) -> bool:
        """Whether both take it: a closed vocabulary refuses what it cannot spell."""
        return not any(t.unknown == "error" and t.spell([prompt])[0].unknown for t in (self.llm, self.clip))

    def notices(self, prompts: Sequence[str]) -> list[str]:
        """What people should know of what the encoders will see of their prompts: a sentence each, each prompt once."""
        distinct = list(dict.fromkeys(prompts))
        found = []
        for prompt, llm, clip in zip(distinct, self.llm.spell(distinct), self.clip.spell(distinct)):
            shown = repr(shortened(prompt, 40))
            if not prompt.strip():
                found.append("an empty prompt: the video will be of anything")
            if well_formed(prompt) != prompt:
                found.append(f"{shown}: characters that are no Unicode (lone surrogates) were replaced by U+FFFD")
            cut = [
                f"{tokenizer.name} reads the first {tokenizer.room} of {len(spelling.ids)} tokens"
                for tokenizer, spelling in ((self.llm, llm), (self.clip, clip))
                if len(spelling.ids) > tokenizer.room
            ]
            if cut:
                found.append(f"{shown} is too long: {', '.join(cut)}; what matters should come first")
            for tokenizer, spelling in ((self.llm, llm), (self.clip, clip)):
                if spelling.unknown:
                    pieces = ", ".join(repr(shortened(p, 20)) for p in dict.fromkeys(spelling.unknown[:5]))
                    found.append(f'{shown}: {tokenizer.name} has no token for {pieces} and reads "unknown" there')
        return found


@dataclass
class TextEncoders:
    """Step-LLM and CLIP, as the DiT reads them."""

    step_llm: StepLLM
    llm_tokenizer: LLMTokenizer
    clip_text: CLIPTextEncoder
    clip_tokenizer: CLIPTokenizer

    def to(self, device: torch.device) -> TextEncoders:
        self.step_llm.to(device)
        self.clip_text.to(device)
        return self

    @property
    def tokenizers(self) -> Tokenizers:
        return Tokenizers(self.llm_tokenizer, self.clip_tokenizer)

    def notices(self, prompts: Sequence[str]) -> list[str]:
        """See `Tokenizers.notices`."""
        return self.tokenizers.notices(prompts)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], allow_unk: bool | None = None) -> dict[str, Tensor]:
        """Text arguments of `DiT.forward` for these prompts.

        Returns:
            encoder_hidden_states [b, l1, Step-LLM width], encoder_hidden_states_2 [b, l2, CLIP width], and
            encoder_attention_mask [b, l2 + l1] int64, whose CLIP part is all ones as released (its padding is
            attended).

        Raises:
            UnknownToken: if a prompt holds something outside a vocabulary, and neither `allow_unk` nor, where that is
                None, the vocabulary's policy replaces it.
        """
        llm_ids, llm_mask = self.llm_tokenizer.encode_batch(prompts, allow_unk)
        clip_ids, clip_mask = self.clip_tokenizer.encode_batch(prompts, allow_unk)
        device = next(self.step_llm.parameters()).device
        llm = self.step_llm(llm_ids.to(device))
        clip = self.clip_text(clip_ids.to(device), clip_mask.to(device))
        mask = torch.cat([torch.ones_like(clip_mask), llm_mask], dim=1).to(device)
        return {"encoder_hidden_states": llm, "encoder_hidden_states_2": clip, "encoder_attention_mask": mask}


def save_text_encoders(encoders: TextEncoders, root: Path) -> None:
    """Write `root/step_llm` and `root/hunyuan_clip`, tokenizers included."""
    checkpoints.save_step_llm(encoders.step_llm, root)
    encoders.llm_tokenizer.save(Path(root) / "step_llm" / LLM_FILE)
    checkpoints.save_clip_text(encoders.clip_text, root)
    encoders.clip_tokenizer.save(Path(root) / "hunyuan_clip" / "tokenizer" / CLIP_FILE)


def load_tokenizers(
    root: Path, llm_length: int | None = None, clip_length: int | None = None, unknown: str | None = None
) -> Tokenizers:
    """Read the vocabularies of `root/step_llm` and `root/hunyuan_clip`.

    Args:
        llm_length, clip_length: those that the DiT was trained with; by default what `text_lengths.json` says, which is
            beside encoders that were trained here, or else the released ones.
        unknown: error | replace, for what has no token; by default `error` for vocabularies that were trained here,
            which are closed over their captions, and `replace` for released ones.

    Raises:
        ArtifactError: on a missing or damaged file.
    """
    root = Path(root)
    ours = (root / LENGTHS_FILE).exists()
    lengths = _lengths(root / LENGTHS_FILE) if ours else RELEASED_LENGTHS
    policy = unknown or ("error" if ours else "replace")
    return Tokenizers(
        LLMTokenizer.load(root / "step_llm" / LLM_FILE, llm_length or lengths["llm_length"], policy),
        CLIPTokenizer.load(
            root / "hunyuan_clip" / "tokenizer" / CLIP_FILE, clip_length or lengths["clip_length"], policy
        ),
    )


def _lengths(path: Path) -> dict[str, int]:
    said = storage.read_json(path)
    lengths = RELEASED_LENGTHS | said if isinstance(said, dict) else {}
    if not lengths or any(type(n) is not int or n < 3 for n in lengths.values()):
        raise ArtifactError(f"{path} holds no {' and '.join(RELEASED_LENGTHS)} of 3 or more; copy it again")
    return lengths


def load_text_encoders(
    root: Path,
    device: torch.device | str = "cpu",
    llm_length: int | None = None,
    clip_length: int | None = None,
    unknown: str | None = None,
) -> TextEncoders:
    """Read `root/step_llm` and `root/hunyuan_clip`; for the other arguments see `load_tokenizers`.

    Raises:
        ArtifactError: on a missing or damaged file.
    """
    vocabularies = load_tokenizers(root, llm_length, clip_length, unknown)
    return TextEncoders(
        step_llm=checkpoints.load_step_llm(root, device),
        llm_tokenizer=vocabularies.llm,
        clip_text=checkpoints.load_clip_text(root, device),
        clip_tokenizer=vocabularies.clip,
    )
