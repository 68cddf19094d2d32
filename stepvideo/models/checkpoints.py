"""Whole models on disk, in the released layout: what is saved here loads there, and the other way round.

    model_index.json
    transformer/{config.json, diffusion_pytorch_model*.safetensors}
    vae/{config.json, vae_v2.safetensors}                  config.json is ours; without it the released widths hold
    step_llm/{config.json, model*.safetensors, step1_chat_tokenizer.model}
    hunyuan_clip/clip_text_encoder/{config.json, model.safetensors or pytorch_model.bin}
    hunyuan_clip/tokenizer/vocab.txt
    hunyuan_clip/clip_image_encoder/{config.json, model.safetensors}      ours, optional
    scheduler/scheduler_config.json

Any subset of the folders may be present: a stage's artifact holds what the stage made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.models.config import CLIPImageConfig, VAEConfig, saved
from stepvideo.models.config_files import (
    BERT_FIXED,
    DIT_FIXED,
    clip_text_config,
    dit_config,
    read_config,
    step_llm_config,
    vae_config,
)
from stepvideo.models.dit import DiT
from stepvideo.models.weights import SHARD_BYTES, assign, read_tensors, save_tensors

if TYPE_CHECKING:
    from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder
    from stepvideo.models.step_llm import StepLLM
    from stepvideo.models.video_vae import VideoVAE

M = TypeVar("M", bound=nn.Module)

DIFFUSERS = {"_diffusers_version": "0.31.0"}
CLIP_UNUSED = ("visual.", "bert.pooler.", "bert.embeddings.position_ids")


def save_dit(model: DiT, root: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `root/transformer`."""
    folder = Path(root) / "transformer"
    config = {"_class_name": "StepVideoModel", **DIFFUSERS, "attention_type": "parallel", **DIT_FIXED}
    save_tensors(model.state_dict(), folder, "diffusion_pytorch_model", shard_bytes)
    _write_json(folder / "config.json", config | saved(model.cfg))


def load_dit(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> DiT:
    """Read `root/transformer`; tensors keep their saved dtype unless `dtype` is given.

    Raises:
        ArtifactError: on a missing or damaged file, or tensors that do not fit the config.
    """
    folder = Path(root) / "transformer"
    model = _meta(DiT, dit_config(root))
    return _load(model, *read_tensors(folder, "diffusion_pytorch_model"), folder, device, dtype)


def save_vae(model: VideoVAE, root: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `root/vae`: `vae_v2` with the dual path (8×16×16), `vae` without (4×8×8), as the release names them."""
    folder = Path(root) / "vae"
    save_tensors(model.state_dict(), folder, _vae_stem(model.cfg), shard_bytes)
    _write_json(folder / "config.json", {"_class_name": "VideoVAE", **saved(model.cfg)})


def load_vae(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> VideoVAE:
    """Read `root/vae`; without a config.json, as in the release, the released widths are taken."""
    from stepvideo.models.video_vae import VideoVAE

    folder, cfg = Path(root) / "vae", vae_config(root)
    return _load(_meta(VideoVAE, cfg), *read_tensors(folder, _vae_stem(cfg)), folder, device, dtype)


def _vae_stem(cfg: VAEConfig) -> str:
    return "vae_v2" if cfg.dual_path else "vae"


def save_step_llm(model: StepLLM, root: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the network of `root/step_llm` (its tokenizer is saved by itself)."""
    folder = Path(root) / "step_llm"
    save_tensors(model.state_dict(), folder, "model", shard_bytes)
    _write_json(folder / "config.json", {"architectures": ["Step1Model"], **asdict(model.cfg)})


def load_step_llm(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> StepLLM:
    """Read the network of `root/step_llm`."""
    from stepvideo.models.step_llm import StepLLM

    folder = Path(root) / "step_llm"
    return _load(_meta(StepLLM, step_llm_config(root)), *read_tensors(folder, "model"), folder, device, dtype)


def save_clip_text(model: CLIPTextEncoder, root: Path) -> None:
    """Write `root/hunyuan_clip/clip_text_encoder`."""
    folder = Path(root) / "hunyuan_clip" / "clip_text_encoder"
    save_tensors(model.state_dict(), folder, "model")
    _write_json(folder / "config.json", {"architectures": ["BertModel"], **BERT_FIXED, **asdict(model.cfg)})


def load_clip_text(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> CLIPTextEncoder:
    """Read `root/hunyuan_clip/clip_text_encoder`; of the released file, the image tower and the pooler are left
    aside."""
    from stepvideo.models.clip import CLIPTextEncoder

    folder, cfg = Path(root) / "hunyuan_clip" / "clip_text_encoder", clip_text_config(root)
    tensors, origin = read_tensors(folder, "model", pickled="pytorch_model.bin")
    heads = () if cfg.projection_dim else ("text_projection", "logit_scale")
    tensors = {k: v for k, v in tensors.items() if not k.startswith((*CLIP_UNUSED, *heads))}
    return _load(_meta(CLIPTextEncoder, cfg), tensors, origin, folder, device, dtype)


def save_clip_image(model: CLIPImageEncoder, root: Path) -> None:
    """Write `root/hunyuan_clip/clip_image_encoder`."""
    folder = Path(root) / "hunyuan_clip" / "clip_image_encoder"
    save_tensors(model.state_dict(), folder, "model")
    _write_json(folder / "config.json", {"_class_name": "CLIPImageEncoder", **asdict(model.cfg)})


def load_clip_image(
    root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> CLIPImageEncoder:
    """Read `root/hunyuan_clip/clip_image_encoder`."""
    from stepvideo.models.clip import CLIPImageEncoder

    folder = Path(root) / "hunyuan_clip" / "clip_image_encoder"
    cfg = read_config(CLIPImageConfig, storage.read_json(folder / "config.json"), folder, known={"_class_name"})
    return _load(_meta(CLIPImageEncoder, cfg), *read_tensors(folder, "model"), folder, device, dtype)


def save_scheduler(root: Path) -> None:
    """Write `scheduler/scheduler_config.json` as released (steps and shift are chosen at sampling)."""
    config = {"_class_name": "FlowMatchDiscreteScheduler", **DIFFUSERS}
    config |= {"num_train_timesteps": 1, "reverse": False, "solver": "euler"}
    _write_json(Path(root) / "scheduler" / "scheduler_config.json", config)


def save_model_index(root: Path, image_to_video: bool = False) -> None:
    """Write `model_index.json`, with the module names of the released text-to-video or image-to-video model."""
    scheduler, model = "stepvideo", "stepvideo"
    if image_to_video:
        scheduler, model = "stepvideo.diffusion.scheduler", "stepvideo.modules.model"
    index = {"_class_name": "StepVideoPipeline", **DIFFUSERS}
    index |= {"scheduler": [scheduler, "FlowMatchDiscreteScheduler"], "transformer": [model, "StepVideoModel"]}
    _write_json(Path(root) / "model_index.json", index)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    """As diffusers writes them: sorted keys, two spaces."""
    storage.write_atomic(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def _meta(cls: type[M], cfg: Any) -> M:
    with torch.device("meta"):
        return cls(cfg)


def _load(
    model: M,
    tensors: Mapping[str, Tensor],
    origin: Mapping[str, Path],
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> M:
    assign(model, tensors, origin, folder)
    return model.to(device=device, dtype=dtype).eval()
