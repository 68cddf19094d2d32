"""Whole models on disk, in the released layout: what is saved here loads there, and the other way round.

    model_index.json
    transformer/{config.json, diffusion_pytorch_model*.safetensors}
    vae/{config.json, vae_v2.safetensors or vae.safetensors}   config.json is ours; without it the released widths hold
    step_llm/{config.json, model*.safetensors, step1_chat_tokenizer.model}
    hunyuan_clip/clip_text_encoder/{config.json, model.safetensors or pytorch_model.bin}
    hunyuan_clip/tokenizer/vocab.txt
    hunyuan_clip/clip_image_encoder/{config.json, model.safetensors}      ours, optional
    scheduler/scheduler_config.json

Any subset of the folders may be present: a stage's artifact holds what the stage made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.config import CLIPImageConfig, CLIPTextConfig, DiTConfig, VAEConfig, saved
from stepvideo.models.config_files import (
    BERT_FIXED,
    DIT_FIXED,
    VAE_STEMS,
    clip_text_config,
    dit_config,
    read_config,
    step_llm_config,
    vae_config,
    vae_version,
)
from stepvideo.models.dit import DiT
from stepvideo.models.tensor_files import DTYPES, Entry
from stepvideo.models.weights import (
    SHARD_BYTES,
    Value,
    fill,
    listing,
    require_fit,
    same,
    save_tensors,
    without_memory,
)

if TYPE_CHECKING:
    from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder
    from stepvideo.models.step_llm import StepLLM
    from stepvideo.models.video_vae import VideoVAE

LLM_SHARD_BYTES = 5 * 1000**3
DIFFUSERS = {"_diffusers_version": "0.31.0"}
CLIP_FOLDER = "hunyuan_clip/clip_text_encoder"
CLIP_UNUSED = ("visual.", "bert.pooler.", "bert.embeddings.position_ids")
CLIP_HEADS = ("text_projection", "logit_scale")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A kind of network in a model folder: where it lies and what it is made from.

    Args:
        config: reads its configuration from the model folder.
        stem: of its files, by the configuration.
        pickled: a torch file that is read where there are no safetensors.
        unused: beginnings of names that a released file holds and the network does not use.
        ours: a name in a file → the network's own, by the configuration.
        hint: what a file probably is that does not fit.
    """

    folder: str
    build: Callable[[Any], nn.Module]
    config: Callable[[Path], Any]
    stem: Callable[[Any], str]
    pickled: str = ""
    unused: Callable[[Any], tuple[str, ...]] = lambda cfg: ()
    ours: Callable[[Any, str], str] = lambda cfg, name: name
    hint: Callable[[Any, Mapping[str, Entry]], str] = lambda cfg, found: ""

    def held(self, root: Path, cfg: Any) -> tuple[dict[str, Entry], list[str]]:
        """The network's tensors under its own names, and the names of those that are left aside.

        Raises:
            ArtifactError: on a missing or damaged file.
        """
        found = listing(Path(root) / self.folder, self.stem(cfg), self.pickled)
        unused = self.unused(cfg)
        aside = [k for k in found if unused and k.startswith(unused)]
        return {self.ours(cfg, k): e for k, e in found.items() if k not in set(aside)}, aside

    def on_meta(self, cfg: Any) -> nn.Module:
        """The network without memory for its weights.

        Raises:
            ArtifactError: no network has this config.
        """
        try:
            with without_memory():
                return self.build(cfg)
        except (TypeError, ValueError, RuntimeError) as e:
            raise ArtifactError(f"{self.folder}/config.json: no network can be made of it: {e}") from e

    def opened(self, root: Path) -> tuple[nn.Module, dict[str, Entry]]:
        """The network on the meta device, in the dtype of its file, and where its tensors lie.

        Raises:
            ArtifactError: on a missing or damaged file, or tensors that do not fit the config.
        """
        cfg = self.config(root)
        found, _ = self.held(root, cfg)
        model = self.on_meta(cfg)
        require_fit(model, found, Path(root) / self.folder, hint=self.hint(cfg, found))
        return model.to(DTYPES[next(iter(found.values())).dtype]), found

    def load(self, root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Any:
        """Read it. Tensors keep their saved dtype, which must be one for all, unless `dtype` is given.

        Raises:
            ArtifactError: on a missing or damaged file, or tensors that do not fit the config.
        """
        cfg = self.config(root)
        found, aside = self.held(root, cfg)
        if aside:
            _LOG.info("%s: left aside %d tensors that are not used: %s", self.folder, len(aside), ", ".join(aside[:3]))
        model = self.on_meta(cfg)
        fill(model, found, Path(root) / self.folder, device, dtype, self.hint(cfg, found))
        return model.eval()


def _vae(cfg: VAEConfig) -> nn.Module:
    from stepvideo.models.video_vae import VideoVAE

    return VideoVAE(cfg)


def _step_llm(cfg: Any) -> nn.Module:
    from stepvideo.models.step_llm import StepLLM

    return StepLLM(cfg)


def _clip_text(cfg: Any) -> nn.Module:
    from stepvideo.models.clip import CLIPTextEncoder

    return CLIPTextEncoder(cfg)


def _clip_image(cfg: Any) -> nn.Module:
    from stepvideo.models.clip import CLIPImageEncoder

    return CLIPImageEncoder(cfg)


def _clip_image_config(root: Path) -> CLIPImageConfig:
    folder = Path(root) / "hunyuan_clip" / "clip_image_encoder"
    return read_config(CLIPImageConfig, storage.read_json(folder / "config.json"), folder, known={"_class_name"})


def _vae_stem(cfg: VAEConfig) -> str:
    return VAE_STEMS[vae_version(cfg)]


def _vae_name(cfg: VAEConfig, name: str) -> str:
    """The decoder's last convolution: files have it with and without `.conv`."""
    plain = name.replace("decoder.conv_out.conv.", "decoder.conv_out.")
    return plain if cfg.dual_path else plain.replace("decoder.conv_out.", "decoder.conv_out.conv.")


def _vae_hint(cfg: VAEConfig, found: Mapping[str, Entry]) -> str:
    if ("encoder.conv_patchify.conv.conv.weight" in found) == cfg.dual_path:
        return ""
    held = "v1 (4x8x8)" if cfg.dual_path else "v2 (8x16x16)"
    right = VAE_STEMS["v1" if cfg.dual_path else "v2"]
    return f"the file holds a Video-VAE {held}: name it {right}.safetensors, with a config.json of its own if any"


def _dit_hint(cfg: DiTConfig, found: Mapping[str, Entry]) -> str:
    image_to_video = any("motion_score_embedder" in name for name in found)
    if image_to_video == cfg.use_additional_conditions:
        return ""
    kinds = ("image-to-video (TI2V)", "text-to-video (T2V)")
    held, said = kinds if image_to_video else kinds[::-1]
    return f"the weights are of {held}, the config is of {said}: copy the config.json that belongs to the weights"


def _clip_unused(cfg: CLIPTextConfig) -> tuple[str, ...]:
    return CLIP_UNUSED if cfg.projection_dim else (*CLIP_UNUSED, *CLIP_HEADS)


NETWORKS = {
    "dit": Network("transformer", DiT, dit_config, lambda cfg: "diffusion_pytorch_model", hint=_dit_hint),
    "vae": Network("vae", _vae, vae_config, _vae_stem, ours=_vae_name, hint=_vae_hint),
    "step_llm": Network("step_llm", _step_llm, step_llm_config, lambda cfg: "model"),
    "clip_text": Network(
        CLIP_FOLDER, _clip_text, clip_text_config, lambda cfg: "model", "pytorch_model.bin", _clip_unused
    ),
    "clip_image": Network("hunyuan_clip/clip_image_encoder", _clip_image, _clip_image_config, lambda cfg: "model"),
}


def vae_network(version: str = "") -> Network:
    """The VAE of a folder that may hold v1 and v2."""
    return replace(NETWORKS["vae"], config=partial(vae_config, version=version))


def save_dit(model: DiT, root: Path, shard_bytes: int = SHARD_BYTES, value: Value = same) -> None:
    """Write `root/transformer`; see `save_tensors`."""
    folder = Path(root) / "transformer"
    config = {"_class_name": "StepVideoModel", **DIFFUSERS, "attention_type": "parallel", **DIT_FIXED}
    save_tensors(model.state_dict(), folder, "diffusion_pytorch_model", shard_bytes, value)
    _write_json(folder / "config.json", config | saved(model.cfg))


def load_dit(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> DiT:
    """Read `root/transformer`; see `Network.load`."""
    return NETWORKS["dit"].load(root, device, dtype)


def save_vae(model: VideoVAE, root: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `root/vae`: `vae_v2` with the dual path (8×16×16), `vae` without (4×8×8), as the release names them."""
    folder = Path(root) / "vae"
    save_tensors(model.state_dict(), folder, _vae_stem(model.cfg), shard_bytes)
    _write_json(folder / "config.json", {"_class_name": "VideoVAE", **saved(model.cfg)})


def load_vae(
    root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, version: str = ""
) -> VideoVAE:
    """Read `root/vae`; see `Network.load`, and `vae_config` for the version (v1 | v2)."""
    return vae_network(version).load(root, device, dtype)


def save_step_llm(model: StepLLM, root: Path, shard_bytes: int = LLM_SHARD_BYTES) -> None:
    """Write the network of `root/step_llm` (its tokenizer is saved by itself)."""
    folder = Path(root) / "step_llm"
    save_tensors(model.state_dict(), folder, "model", shard_bytes)
    _write_json(folder / "config.json", {"architectures": ["Step1Model"], **asdict(model.cfg)})


def load_step_llm(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> StepLLM:
    """Read the network of `root/step_llm`; see `Network.load`."""
    return NETWORKS["step_llm"].load(root, device, dtype)


def save_clip_text(model: CLIPTextEncoder, root: Path) -> None:
    """Write `root/hunyuan_clip/clip_text_encoder`."""
    folder = Path(root) / CLIP_FOLDER
    save_tensors(model.state_dict(), folder, "model")
    _write_json(folder / "config.json", {"architectures": ["BertModel"], **BERT_FIXED, **asdict(model.cfg)})


def load_clip_text(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> CLIPTextEncoder:
    """Read `root/hunyuan_clip/clip_text_encoder`; of the released file, the image tower and the pooler are left
    aside."""
    return NETWORKS["clip_text"].load(root, device, dtype)


def save_clip_image(model: CLIPImageEncoder, root: Path) -> None:
    """Write `root/hunyuan_clip/clip_image_encoder`."""
    folder = Path(root) / "hunyuan_clip" / "clip_image_encoder"
    save_tensors(model.state_dict(), folder, "model")
    _write_json(folder / "config.json", {"_class_name": "CLIPImageEncoder", **asdict(model.cfg)})


def load_clip_image(
    root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> CLIPImageEncoder:
    """Read `root/hunyuan_clip/clip_image_encoder`; see `Network.load`."""
    return NETWORKS["clip_image"].load(root, device, dtype)


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
