"""A reward model on latents: how good a video is for its prompt, as annotators would have it (report §4.4).

It reads what the policy's own blocks make of the clean latent and the text, so that it needs no decoded video and no
other network, and starts from a model that knows both.

    transformer/               its blocks, in the released layout
    reward/head.safetensors    the rest
    reward/calibration.json    {temperature, tie}: what makes probabilities of differences
    reward/prompts.json        {train, calibration, test}: prompts that it has seen, and those that were held out

Legend: B pairs, f latent frames, z channels, h w latent sides, d inner width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.models.dit import DiT
from stepvideo.training.flow import TEXT_KEYS

FOLDER = "reward"


class RewardModel(nn.Module):
    """Latent [B, f, z, h, w] and text → score [B] fp32, of which only differences within a prompt mean something, and
    the threshold of ties, a scalar: what is divided over ranks is whole in a forward only.
    """

    def __init__(self, dit: DiT, dropout: float = 0.0) -> None:
        super().__init__()
        self.dit = dit
        width = dit.cfg.inner_dim
        self.norm = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, 1, bias=False)
        self.tie = nn.Parameter(torch.zeros(1))  # softplus of it is Rao and Kupper's threshold; FSDP takes no scalar
        self.dropout = dropout
        nn.init.zeros_(self.head.weight)  # no video is better than another before training
        self._tokens: Tensor | None = None
        dit.proj_out.requires_grad_(False)  # what a velocity is made with
        dit.proj_out.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._tokens = args[0]

    def forward(self, latents: Tensor, **text: Tensor) -> tuple[Tensor, Tensor]:
        clean = torch.ones(len(latents), device=latents.device)
        self.dit(hidden_states=latents, timestep=clean, **{k: text[k] for k in TEXT_KEYS if k in text})
        assert self._tokens is not None
        tokens, self._tokens = self._tokens.float(), None
        pooled = torch.cat([tokens.mean(1), tokens.amax(1)], dim=1)  # the whole video, and its most telling places
        with torch.autocast(latents.device.type, enabled=False):  # bf16 has no digits for the difference of two scores
            norm = F.layer_norm(pooled, pooled.shape[1:], self.norm.weight.float(), self.norm.bias.float())
            score = F.linear(F.dropout(norm, self.dropout, self.training), self.head.weight.float())
        return score.squeeze(1), F.softplus(self.tie.float()).squeeze()


def truncated(dit: DiT, layers: int) -> DiT:
    """The first `layers` blocks of a network (0: all), in place."""
    if layers > len(dit.transformer_blocks):
        raise ArtifactError(f"layers={layers}: the network has {len(dit.transformer_blocks)} blocks; give at most that")
    if layers:
        dit.transformer_blocks = dit.transformer_blocks[:layers]
        dit.cfg.num_layers = layers
    return dit


def outcomes(difference: Tensor, tie: Tensor | float) -> Tensor:
    """Log-probabilities [B, 3] of: first preferred, tie, second preferred (Rao and Kupper, 1967).

    Args:
        difference: score of the first minus that of the second [B].
        tie: threshold, 0 or more; at 0 there are no ties, and this is Bradley and Terry's model.
    """
    first, second = F.logsigmoid(difference - tie), F.logsigmoid(-difference - tie)
    twice = 2 * torch.as_tensor(tie).to(difference)
    # what the two leave over, as a product: their rest would be rounded away where one of them is sure
    tied = first + second + twice + (-torch.expm1(-twice)).clamp_min(1e-12).log()
    return torch.stack([first, tied, second], dim=1)


def preference(difference: Tensor) -> Tensor:
    """Probability [B] that the first is preferred, among comparisons that are no tie."""
    return torch.sigmoid(difference)


def votes_loss(difference: Tensor, tie: Tensor | float, votes_B3: Tensor) -> Tensor:
    """Mean negative log-likelihood of a pair's votes [B]; votes: counts of first, tie, second."""
    votes = votes_B3.to(difference)
    return -(outcomes(difference, tie) * votes).sum(1) / votes.sum(1)


@dataclass(frozen=True)
class Calibration:
    """Scores are divided by `temperature`; differences then have the threshold `tie`."""

    temperature: float = 1.0
    tie: float = 0.0


def save_reward(
    model: RewardModel, out: Path, calibration: Calibration, prompts: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write it. prompts: by the part that they belong to, for trainings that go on from it."""
    save_dit(model.dit, out)
    (out / FOLDER).mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in _head(model).items()}, out / FOLDER / "head.safetensors")
    storage.write_json(out / FOLDER / "calibration.json", vars(calibration))
    storage.write_json(out / FOLDER / "prompts.json", {part: sorted(held) for part, held in (prompts or {}).items()})


def _head(model: RewardModel) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in model.state_dict().items() if not k.startswith("dit.")}


def seen_prompts(root: Path) -> dict[str, list[str]]:
    """Prompts by the part of its training that they belonged to.

    Raises:
        ArtifactError: it is not known.
    """
    path = root / FOLDER / "prompts.json"
    if not path.exists():
        raise ArtifactError(
            f"{path} is missing: which prompts this reward model has seen is not known, so nothing can be tested on "
            "others; start from a model of stage `average`, or give held_out=0"
        )
    return storage.read_json(path)


def load_reward(root: Path, device: torch.device | str = "cpu") -> tuple[RewardModel, Calibration]:
    """The network in evaluation mode, fp32, and its calibration.

    Raises:
        ArtifactError: a file is missing or does not fit.
    """
    folder = root / FOLDER
    model = RewardModel(load_dit(root, dtype=torch.float32))
    try:
        head = load_file(folder / "head.safetensors")
        if head.keys() != _head(model).keys():
            raise ValueError(f"head.safetensors has {', '.join(head)}")
        model.load_state_dict(head, strict=False)
        calibration = Calibration(**storage.read_json(folder / "calibration.json"))
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as e:
        raise ArtifactError(f"{folder} holds no reward model: {e}; give the output of a `reward` stage") from e
    return model.to(device).eval(), calibration
