"""Folders like the released ones at full size: every header as the release has it, the tensors as holes in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stepvideo.models import checkpoints
from stepvideo.models.checkpoints import LLM_SHARD_BYTES, NETWORKS
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.config_files import VAE_V1
from stepvideo.models.weights import SHARD_BYTES, split


def holes(path: Path, tensors: Mapping[str, Tensor], dtype: str) -> None:
    """A safetensors file of zeros that takes no disk space."""
    size = {"BF16": 2, "F32": 4}[dtype]
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * size
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        f.truncate(8 + len(raw) + end)


def sharded(folder: Path, stem: str, state: Mapping[str, Tensor], limit: int) -> list[int]:
    """bf16 shards with an index; returns their sizes in bytes."""
    state = {k: v.to(torch.bfloat16) for k, v in state.items()}
    parts = split(state, limit)
    weight_map, sizes = {}, []
    for i, keys in enumerate(parts, 1):
        name = f"{stem}-{i:05d}-of-{len(parts):05d}.safetensors"
        holes(folder / name, {k: state[k] for k in keys}, "BF16")
        sizes.append((folder / name).stat().st_size)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(v.nbytes for v in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return sizes


def write_release(root: Path, image_to_video: bool = False) -> dict[str, list[int]]:
    """Everything but the tokenizers; returns sizes of the shards."""
    dit, llm, clip = DiTConfig(use_additional_conditions=image_to_video), StepLLMConfig(), CLIPTextConfig()
    sizes = {
        "dit": sharded(root / "transformer", "diffusion_pytorch_model", meta("dit", dit), SHARD_BYTES),
        "step_llm": sharded(root / "step_llm", "model", meta("step_llm", llm), LLM_SHARD_BYTES),
    }
    holes(root / "vae" / "vae_v2.safetensors", meta("vae", VAEConfig()), "F32")
    holes(root / "vae" / "vae.safetensors", meta("vae", VAEConfig(**VAE_V1)), "F32")
    clip_folder = root / "hunyuan_clip" / "clip_text_encoder"
    unused = {"visual.proj": torch.empty(8, 8, device="meta"), "logit_scale": torch.empty((), device="meta")}
    holes(clip_folder / "model.safetensors", meta("clip_text", clip) | unused, "F32")
    configs = {
        root / "transformer": {
            "_class_name": "StepVideoModel", "_diffusers_version": "0.31.0", "attention_head_dim": 128,
            "attention_type": "parallel", "caption_channels": [6144, 1024], "dropout": 0.0, "in_channels": 64,
            "norm_elementwise_affine": False, "norm_eps": 1e-6, "norm_type": "ada_norm_single",
            "num_attention_heads": 48, "num_layers": 48, "out_channels": 64, "patch_size": 1,
            "use_additional_conditions": image_to_video,
        },
        root / "step_llm": {
            "architectures": ["Step1Model"], "hidden_size": 6144, "num_layers": 48, "num_attention_heads": 48,
            "num_attention_groups": 8, "ffn_hidden_size": 16896, "layernorm_epsilon": 1e-5,
            "padded_vocab_size": 65536, "seq_length": 16384, "torch_dtype": "bfloat16",
        },
        clip_folder: {
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
            "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 16,
            "num_hidden_layers": 24, "type_vocab_size": 2, "vocab_size": 47020, "pad_token_id": 0,
        },
    }  # fmt: skip
    for folder, config in configs.items():
        (folder / "config.json").write_text(json.dumps(config))
    checkpoints.save_scheduler(root)
    checkpoints.save_model_index(root, image_to_video)
    return sizes


def meta(name: str, cfg) -> dict[str, Tensor]:
    return NETWORKS[name].on_meta(cfg).state_dict()
