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
WEIGHTS = (".safetensors", ".safetensors.index.json")
VAE_STEMS = {"v2": "vae_v2", "v1": "vae"}  # the preferred one first
VAE_V1: dict[str, Any] = {"z_channels": 16, "dual_path": False, "spatial_group_norm": False}


def dit_config(root: Path) -> DiTConfig:
    """What `root/transformer/config.json` says, without the weights."""
    folder = Path(root) / "transformer"
    data = storage.read_json(folder / "config.json")
    known = {"_class_name", "_diffusers_version", "_name_or_path", "attention_type", *DIT_FIXED}
    return read_config(DiTConfig, data, folder, fixed=DIT_FIXED, known=known)


def vae_config(root: Path, version: str = "") -> VAEConfig:
    """What `root/vae/config.json` says, without the weights. A released folder has none: there `version` (v1 | v2)
    chooses between its two files, v2 if both are there.

    Raises:
        ArtifactError: a config.json that is not of a VAE, or not of that version.
    """
    folder = Path(root) / "vae"
    if version not in ("", *VAE_STEMS):
        raise ArtifactError(f"version={version!r}: a Video-VAE is v1 (4x8x8) or v2 (8x16x16)")
    if (folder / "config.json").exists():
        cfg = read_config(VAEConfig, storage.read_json(folder / "config.json"), folder, known={"_class_name"})
        if version and version != vae_version(cfg):
            raise ArtifactError(f"{folder} holds a Video-VAE {vae_version(cfg)}, not {version}")
        return cfg
    held = [v for v, stem in VAE_STEMS.items() if any((folder / f"{stem}{end}").exists() for end in WEIGHTS)]
    return VAEConfig(**VAE_V1) if (version or (held or ["v2"])[0]) == "v1" else VAEConfig()


def vae_version(cfg: VAEConfig) -> str:
    """The release's name of this form."""
    return "v2" if cfg.dual_path else "v1"


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
    if not isinstance(data, Mapping):
        raise ArtifactError(f"{path} holds no keys and values; copy it again")
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
