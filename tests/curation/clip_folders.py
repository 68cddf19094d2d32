"""Small CLIPs with random weights, saved as released ones are, and a clip to embed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stepvideo.curation.clip_frames import ClipFrames

HEAD_WIDTH = 16  # of the shared embedding
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**VISION, "image_size": 32, "patch_size": 8}


def clip_frames(seed: int = 0, samples: int = 8) -> ClipFrames:
    """Twelve frames of 48 × 80 noise."""
    frames = np.random.default_rng(seed).integers(0, 256, (12, 48, 80, 3), np.uint8)
    return ClipFrames.of(f"clip{seed}", len(frames), frames, 24.0, samples)


def save_clip(folder: Path) -> Path:
    """A CLIPModel with its processor's and tokenizer's files."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    letters = ["a", "b", "c"]
    vocabulary = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7}
    torch.manual_seed(0)
    text = {**VISION, "vocab_size": len(vocabulary), "max_position_embeddings": 77, **ends}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=HEAD_WIDTH))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _save_processor(folder)
    return folder


def save_chinese_clip(folder: Path) -> Path:
    """A ChineseCLIPModel with its processor's and tokenizer's files."""
    import torch
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "猫", "跑"]
    torch.manual_seed(0)
    text = {**VISION, "vocab_size": len(words), "max_position_embeddings": 64}
    model = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=TOWER, projection_dim=HEAD_WIDTH))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    _save_processor(folder)
    return folder


def _save_processor(folder: Path) -> None:
    said = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
