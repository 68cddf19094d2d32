"""The configurations that a case's json, or a released config, describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepvideo.inference.parity.golden import Asked, NotUnderstood
from stepvideo.models.config import DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.config_files import DIT_FIXED

DIT = (
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "in_channels",
    "out_channels",
    "patch_size",
    "norm_eps",
)
VAE = ("in_channels", "z_channels", "enc_ch", "enc_ch_mult", "dec_ch", "dec_ch_mult", "num_res_blocks", "frame_len")
STEP_LLM = ("hidden_size", "num_layers", "num_attention_heads", "num_attention_groups", "ffn_hidden_size")
STEP_LLM += ("layernorm_epsilon", "padded_vocab_size")
DUAL_PATH = 4 * 8  # channels between the dual-path modules for each latent channel, as released


@dataclass
class SplitDiTConfig(DiTConfig):
    """A DiT whose RoPE-3D splits a head as its case says; the released config has no field for it."""

    rope_ch_split: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.rope_split) != self.attention_head_dim or any(n < 2 or n % 2 for n in self.rope_split):
            raise ValueError(
                f"rope_ch_split={self.rope_ch_split} must be three even numbers that sum to attention_head_dim="
                f"{self.attention_head_dim}"
            )

    @property
    def rope_split(self) -> list[int]:
        return self.rope_ch_split or super().rope_split


def dit_config(config: Asked[Any], image_to_video: bool = False) -> DiTConfig:
    """Of a DiT; `image_to_video` holds where the config does not say."""
    captions = config["caption_channels"]  # one number where there is one text encoder
    for name, value in DIT_FIXED.items():
        if config.get(name, value) != value:
            raise NotUnderstood(f"{name}={config[name]!r}: only {value!r} is implemented")
    config.skip("attention_type")  # how the released code runs in parallel
    return SplitDiTConfig(
        **_fields(config, DIT),
        caption_channels=[captions] if isinstance(captions, int) else [c for c in captions if c],
        use_additional_conditions=config.get("use_additional_conditions", image_to_video),
        rope_ch_split=list(config.get("rope_ch_split") or []),
    )


def vae_config(config: Asked[Any], version: int = 2) -> VAEConfig:
    """Of a Video-VAE: v2 (8×16×16, dual path) or v1 (4×8×8, norms over space and time together)."""
    values = _fields(config, VAE)
    for side, name in (("enc", "encoder"), ("dec", "decoder")):
        if name in config:
            level = config.within(name)
            values |= {f"{side}_ch": level["ch"], f"{side}_ch_mult": level["ch_mult"]}
            _all_known(level, name)
    if (made := config.get("out_channels", 3)) != values.get("in_channels", 3):
        raise NotUnderstood(f"out_channels={made}: only as many as in_channels are implemented")
    version = config.get("version", version)
    if version == 1:
        cfg = VAEConfig(**values, dual_path=False, spatial_group_norm=False)
    elif version == 2:
        cfg = VAEConfig(**values, dual_path_ch=DUAL_PATH * values.get("z_channels", VAEConfig.z_channels))
    else:
        raise NotUnderstood(f"version={version!r}: Video-VAE 1 and 2 are implemented")
    if config.get("latent_len", cfg.latent_len) != cfg.latent_len:
        raise ValueError(f"latent_len={config['latent_len']}: {cfg.frame_len} frames have {cfg.latent_len} latents")
    return cfg


def step_llm_config(config: Asked[Any]) -> StepLLMConfig:
    """Of a Step-LLM."""
    config.skip("seq_length")  # of its training; the bias has no limit
    return StepLLMConfig(**_fields(config, STEP_LLM))


def _fields(config: Asked[Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: config[name] for name in names if name in config}


def _all_known(config: Asked[Any], where: str) -> None:
    if rest := config.rest():
        raise NotUnderstood(f"{where}: {', '.join(rest)} not understood")
