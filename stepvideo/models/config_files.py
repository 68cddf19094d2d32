"""The config.json files of a model's folders as typed configurations; torch-free, so that planning stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig

C = TypeVar("C")

DIT_FIXED = {"dropout": 0.0, "norm_elementwise_affine": False, "norm_type": "ada_norm_single"}
BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}


def dit_config(root: Path) -> DiTConfig:
    """What `root/transformer/config.json` says, without the weights."""
    folder = Path(root) / "transformer"
    data = storage.read_json(folder / "config.json")
    known = {"_class_name", "_diffusers_version", "_name_or_path", "attention_type", *DIT_FIXED}
    return read_config(DiTConfig, data, folder, fixed=DIT_FIXED, known=known)


def vae_config(root: Path) -> VAEConfig:
    """What `root/vae/config.json` says, without the weights."""
    folder = Path(root) / "vae"
    data = storage.read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    return read_config(VAEConfig, data, folder, known={"_class_name"})


def step_llm_config(root: Path) -> StepLLMConfig:
    """What `root/step_llm/config.json` says, without the weights."""
    folder = Path(root) / "step_llm"
    return read_config(StepLLMConfig, storage.read_json(folder / "config.json"), folder)


def clip_text_config(root: Path) -> CLIPTextConfig:
    """What `root/hunyuan_clip/clip_text_encoder/config.json` says, without the weights."""
    folder = Path(root) / "hunyuan_clip" / "clip_text_encoder"
    return read_config(CLIPTextConfig, storage.read_json(folder / "config.json"), folder, fixed=BERT_FIXED)


def read_config(
    cls: type[C],
    data: Mapping[str, Any],
    folder: Path,
    fixed: Mapping[str, Any] | None = None,
    known: set[str] | None = None,
) -> C:
    """A typed config from a config.json; `fixed` keys must have that value; other keys are errors where `known` is
    given."""
    path = folder / "config.json"
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in (fixed or {}).items():
        if data.get(key, value) != value:
            raise ArtifactError(f"{path}: {key} is {data[key]!r}; only {value!r} is implemented")
    if known is not None and (unknown := sorted(set(data) - names - known)):
        raise ArtifactError(f"{path}: unknown keys {', '.join(unknown)}; it is not the config of a {cls.__name__}")
    try:
        return cls(**{k: v for k, v in data.items() if k in names})
    except (TypeError, ValueError) as e:
        raise ArtifactError(f"{path}: {e}") from e
