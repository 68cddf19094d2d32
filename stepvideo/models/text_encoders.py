"""Both text encoders with their tokenizers: prompts in, the DiT's text arguments out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stepvideo.models import checkpoints
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.tokenizers import CLIP_FILE, LLM_FILE, CLIPTokenizer, LLMTokenizer


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

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], allow_unk: bool = False) -> dict[str, Tensor]:
        """Text arguments of `DiT.forward` for these prompts.

        Returns:
            encoder_hidden_states [b, l1, Step-LLM width], encoder_hidden_states_2 [b, l2, CLIP width], and
            encoder_attention_mask [b, l2 + l1] int64, whose CLIP part is all ones as released (its padding is
            attended).

        Raises:
            UnknownToken: if a prompt holds a token outside a vocabulary, unless `allow_unk`.
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


def load_text_encoders(
    root: Path, device: torch.device | str = "cpu", llm_length: int = 320, clip_length: int = 77
) -> TextEncoders:
    """Read `root/step_llm` and `root/hunyuan_clip`; the lengths are those that the DiT was trained with.

    Raises:
        ArtifactError: on a missing or damaged file.
    """
    return TextEncoders(
        step_llm=checkpoints.load_step_llm(root, device),
        llm_tokenizer=LLMTokenizer.load(Path(root) / "step_llm" / LLM_FILE, llm_length),
        clip_text=checkpoints.load_clip_text(root, device),
        clip_tokenizer=CLIPTokenizer.load(Path(root) / "hunyuan_clip" / "tokenizer" / CLIP_FILE, clip_length),
    )
