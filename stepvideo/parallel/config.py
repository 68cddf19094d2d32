"""How many ranks work on one model, and in which ways; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class ParallelConfig:
    """Degrees of parallelism, whose product is the number of ranks. Any combination gives the result of one rank, up to
    the order of additions.

    tensor: heads and feed-forward widths are divided (weights shrink); must divide both.
    ulysses: tokens are divided, and in self-attention heads (activations shrink); any degree up to the heads of a rank.
    cfg: the batch is divided, such as guidance's halves with and without the prompt; 2 is the natural degree.
    The Video-VAE is divided by chunks over all ranks, whatever the degrees.
    """

    tensor: int = 1
    ulysses: int = 1
    cfg: int = 1

    def __post_init__(self) -> None:
        for f in fields(self):
            degree = getattr(self, f.name)
            if degree < 1:
                raise ValueError(f"parallel.{f.name}={degree}: give the number of ranks that share it, 1 or more")

    @property
    def world_size(self) -> int:
        return self.tensor * self.ulysses * self.cfg

    def check(self, heads: int, ffn_width: int) -> None:
        """Whether a model of so many attention heads and such a feed-forward width can be divided so.

        Raises:
            ValueError: names the degree that does not fit and the nearest that do.
        """
        if heads % self.tensor or ffn_width % self.tensor:
            fitting = [n for n in range(1, heads + 1) if not heads % n and not ffn_width % n]
            near = [max((n for n in fitting if n < self.tensor), default=1)]
            near += [n for n in fitting if n > self.tensor][:1]
            raise ValueError(
                f"parallel.tensor={self.tensor} does not divide {heads} heads and a feed-forward width of {ffn_width}; "
                f"nearest that does: {' or '.join(map(str, near))} (parallel.ulysses takes any number of ranks)"
            )
        if self.ulysses > (own := heads // self.tensor):
            raise ValueError(
                f"parallel.ulysses={self.ulysses} exceeds the {own} heads that it divides ({heads} heads over "
                f"{self.tensor} tensor ranks); give at most {own}"
            )
