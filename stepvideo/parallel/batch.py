"""The batch divided over ranks; in guidance, the halves with and without the prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed import ProcessGroup

from stepvideo.diffusion.guidance import VelocityFn
from stepvideo.parallel.collectives import gather, own_share, shares


def split_batch(velocity: VelocityFn, group: ProcessGroup) -> VelocityFn:
    """`velocity` on each rank's share of the samples, with all results on every rank.

    A batch that does not divide evenly, such as the single sample of a step without guidance, is computed by all.
    """

    def divided(*, hidden_states: Tensor, **arguments: Any) -> Tensor:
        batch, ranks = hidden_states.shape[0], group.size()
        if batch % ranks:
            return velocity(hidden_states=hidden_states, **arguments)
        own = own_share(batch, group)
        mine = {k: v[own] if isinstance(v, Tensor) and v.ndim else v for k, v in arguments.items()}
        return gather(velocity(hidden_states=hidden_states[own], **mine), 0, shares(batch, ranks), group)

    return divided
