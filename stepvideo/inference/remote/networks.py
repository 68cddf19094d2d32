"""Text encoders and a VAE on another machine, called as if they were here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from stepvideo.errors import StepVideoError
from stepvideo.inference.remote.client import Connection
from stepvideo.inference.remote.tensors import MEDIA_TYPE, pack, unpack
from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import DiagonalGaussian

TEXT_NAMES = ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask")
PATIENCE_S = 12_000.0  # a request waits its turn on the server; as released


class _Remote:
    """Arguments: see `Connection`. Results arrive on the CPU until `to` names a device."""

    def __init__(self, url: str, token: str = "", timeout_s: float = PATIENCE_S) -> None:
        self.connection = Connection(url, token, timeout_s)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        self.device = torch.device(device)
        return self

    def _part(self, name: str) -> dict:
        found = self.connection.json("GET", "/v1/model")[name]
        if found is None:
            raise StepVideoError(f"{self.connection.url} serves no {name}; start it with --part {name} or all")
        return found

    def _call(self, path: str, body: bytes, kind: str, *names: str) -> dict[str, Tensor]:
        answer = unpack(self.connection.bytes("POST", path, body, kind), *names)
        return {name: tensor.to(self.device) for name, tensor in answer.items()}


class RemoteTextEncoders(_Remote):
    """`stepvideo.models.text_encoders.TextEncoders` on a server."""

    @cached_property
    def widths(self) -> list[int]:
        """Of the features: Step-LLM, CLIP."""
        return self._part("text")["widths"]

    def encode(self, prompts: Sequence[str], allow_unk: bool | None = None) -> dict[str, Tensor]:
        """See `TextEncoders.encode`. Raises StepVideoError with the server's reason."""
        body = json.dumps({"prompts": list(prompts), "allow_unk": allow_unk}).encode()
        return self._call("/v1/text-encode", body, "application/json", *TEXT_NAMES)


class RemoteVAE(_Remote):
    """`stepvideo.models.video_vae.VideoVAE` on a server, without gradients. Shapes are those of its methods."""

    @cached_property
    def cfg(self) -> VAEConfig:
        return VAEConfig(**self._part("vae")["config"])

    def num_latents(self, frames: int) -> int:
        return self.cfg.num_latents(frames)

    def encode_moments(self, x_BTCHW: Tensor) -> Tensor:
        return self._call("/v1/vae-encode", pack({"video": x_BTCHW}), MEDIA_TYPE, "moments")["moments"]

    def encode(self, x_BTCHW: Tensor, generator: torch.Generator | None = None, sample: bool = True) -> Tensor:
        posterior = DiagonalGaussian(self.encode_moments(x_BTCHW))
        return posterior.sample(generator) if sample else posterior.mean

    def decode(self, z_BTCHW: Tensor, boundary_mix: bool = True) -> Tensor:
        path = f"/v1/vae-decode?boundary_mix={str(boundary_mix).lower()}"
        return self._call(path, pack({"latents": z_BTCHW}), MEDIA_TYPE, "video")["video"]

    def parameters(self) -> Iterator[Tensor]:
        """None of its own; what it computes with is float32, here."""
        yield torch.empty(0, device=self.device)
