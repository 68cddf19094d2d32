"""One dimension of an activation divided over ranks, and what a layer fetches beyond its own share (halo exchange).

Each layer says by a `Window` what it reads; every rank knows where all ranks' shares are cut, so one all-to-all brings
just what is missing, also where shares are uneven or smaller than the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from stepvideo.parallel.collectives import gather, shares

TIME, ROWS = 2, 3  # dimensions of [B, C, T, H, W]
Cuts = list[int]  # rank r holds cuts[r] … cuts[r + 1] - 1
Span = tuple[int, int]  # first and end


@dataclass(frozen=True)
class Window:
    """Along one dimension, output i of a layer reads the inputs from i * stride - before on, `taps` of them, and
    belongs to the rank that holds input i * stride + owner."""

    taps: int
    before: int
    stride: int = 1
    owner: int = 0

    def read(self, cuts: Cuts) -> list[Span]:
        """First and end of what each rank reads, where `cuts` are those of the input."""
        out = [max(0, -((self.owner - b) // self.stride)) for b in cuts]
        first = [o * self.stride - self.before for o in out]
        return [(a, b - self.stride + self.taps) for a, b in zip(first, first[1:], strict=False)]


class Axis:
    """One divided dimension of the encoder or the decoder during a call: where it is cut, at each resolution."""

    def __init__(self, dim: int, group: ProcessGroup) -> None:
        self.dim, self.group = dim, group
        self.cuts: list[Cuts] = []
        self.divided = False

    def enter(self, units: int, cuts: Callable[[Cuts], list[Cuts]]) -> None:
        """Share `units` latents; `cuts` gives where they cut each resolution."""
        ranks = self.group.size()
        self.divided = units >= ranks
        if not self.divided and self.dim == ROWS:
            raise ValueError(
                f"{ranks} ranks cannot share {units} rows of latents; use at most {units} ranks for the height, or "
                "larger videos"
            )
        sizes = shares(units, ranks) if self.divided else [units]
        self.cuts = cuts([sum(sizes[:r]) for r in range(len(sizes) + 1)])

    def span(self, level: int) -> Span:
        """What of a resolution this rank holds."""
        me = self.group.rank() if self.divided else 0
        return self.cuts[level][me], self.cuts[level][me + 1]

    def own(self, x_BCTHW: Tensor) -> Tensor:
        first, stop = self.span(0)
        return x_BCTHW.narrow(self.dim, first, stop - first)

    def bring(self, x_BCTHW: Tensor, level: int, window: Window) -> Tensor:
        """Own share, extended or cut to what `window` reads."""
        cuts = self.cuts[level]
        if self.divided:
            return _Fetch.apply(x_BCTHW, self.dim, cuts, window.read(cuts), self.group)
        first, stop = window.read(cuts)[0]
        return F.pad(x_BCTHW, [0, 0] * (4 - self.dim) + [-first, stop - cuts[-1]])

    def whole(self, x_BCTHW: Tensor, cuts: Cuts) -> Tensor:
        """The shares of all ranks, joined."""
        if not self.divided:
            return x_BCTHW
        return gather(x_BCTHW, self.dim, [b - a for a, b in zip(cuts, cuts[1:], strict=False)], self.group)


class _Fetch(torch.autograd.Function):
    """The range `read[me]` of what all ranks hold along `dim`, zeros outside of it; only what is missing travels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, cuts: Cuts, read: list[Span], group: ProcessGroup) -> Tensor:
        me = group.rank()
        held, wanted = (cuts[me], cuts[me + 1]), read[me]
        given = [_common(held, other) for other in read]
        taken = [_common((cuts[r], cuts[r + 1]), wanted) for r in range(group.size())]
        own, given[me], taken[me] = given[me], (0, 0), (0, 0)
        ctx.plan = x.shape, dim - 1, held, wanted, own, given, taken, group
        x_BTHWC, d = x.movedim(1, -1), dim - 1
        out_BTHWC = x.new_empty([wanted[1] - wanted[0] if i == d else n for i, n in enumerate(x_BTHWC.shape)])
        for outside in ((wanted[0], min(0, wanted[1])), (max(cuts[-1], wanted[0]), wanted[1])):
            _part(out_BTHWC, d, wanted, outside).zero_()
        _part(out_BTHWC, d, wanted, own).copy_(_part(x_BTHWC, d, held, own))
        received = _swap([_part(x_BTHWC, d, held, span) for span in given], taken, d, group)
        for span, piece in zip(taken, received, strict=True):
            _part(out_BTHWC, d, wanted, span).copy_(piece)
        return out_BTHWC.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (b, c, t, h, w), d, held, wanted, own, given, taken, group = ctx.plan
        g_BTHWC, dx_BTHWC = grad.movedim(1, -1), grad.new_zeros(b, t, h, w, c)
        _part(dx_BTHWC, d, held, own).copy_(_part(g_BTHWC, d, wanted, own))
        received = _swap([_part(g_BTHWC, d, wanted, span) for span in taken], given, d, group)
        for span, piece in zip(given, received, strict=True):
            _part(dx_BTHWC, d, held, span).add_(piece)
        return dx_BTHWC.movedim(-1, 1), None, None, None, None


def _common(a: Span, b: Span) -> Span:
    first, stop = max(a[0], b[0]), min(a[1], b[1])
    return (first, stop) if first < stop else (0, 0)


def _part(x: Tensor, d: int, held: Span, span: Span) -> Tensor:
    """`span` of a tensor that holds `held` along d."""
    return x.narrow(d, span[0] - held[0], span[1] - span[0]) if span[0] < span[1] else x.narrow(d, 0, 0)


def _swap(pieces: list[Tensor], wanted: list[Span], d: int, group: ProcessGroup) -> list[Tensor]:
    """Piece r to rank r; what came from each, of the lengths `wanted` along d. One all-to-all."""
    shapes = [[b - a if i == d else n for i, n in enumerate(pieces[0].shape)] for a, b in wanted]
    sent, received = [p.numel() for p in pieces], [torch.Size(s).numel() for s in shapes]
    flat = torch.cat([p.reshape(-1) for p in pieces])
    out = flat.new_empty(sum(received))
    dist.all_to_all_single(out, flat, received, sent, group)
    return [piece.view(shape) for piece, shape in zip(out.split(received), shapes, strict=True)]
