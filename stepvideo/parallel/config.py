"""How many ranks work on one model, and in which ways; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, fields

CHECKPOINTING = ("none", "full", "fraction", "attention")


@dataclass
class Degrees:
    """The degrees that divide the network itself; any combination gives the result of one rank, up to the order of
    additions.

    tensor: heads and feed-forward widths are divided (weights shrink); must divide both.
    ulysses: tokens are divided, and in self-attention heads (activations shrink); any degree up to the heads of a rank.
    """

    tensor: int = 1
    ulysses: int = 1

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


@dataclass
class ParallelConfig(Degrees):
    """Of inference: the product of the degrees is the number of ranks.

    cfg: the batch is divided, such as guidance's halves with and without the prompt; 2 is the natural degree.
    The Video-VAE is divided by chunks over all ranks, whatever the degrees.
    """

    cfg: int = 1

    def __post_init__(self) -> None:
        for f in fields(self):
            _ranks(f.name, getattr(self, f.name))

    @property
    def world_size(self) -> int:
        return self.tensor * self.ulysses * self.cfg


@dataclass
class TrainParallelConfig(Degrees):
    """Of training: the ranks that `tensor` and `ulysses` leave over are data ranks, which share a batch.

    zero: what the data (and Ulysses) ranks divide among them (ZeRO stages, arXiv:1910.02054). 0: nothing; 1: optimizer
    state and master weights, with weights gathered in the first forward of a step and gradients reduced in the last
    backward (the report's DP overlap, §6.2.2); 2: gradients also between micro-batches; 3: weights also between uses.
    shard: data ranks that divide among them, the rest being copies (HSDP); 0: all.
    sequence: between the matrices of a block, tensor ranks divide the tokens (Megatron's sequence parallelism).
    async_tensor: overlap the exchanges of tensor parallelism with its products; needs CUDA, `compile` and `sequence`.
    checkpointing: which activations are recomputed in backward. none | full: all inside every block | fraction: inside
    `checkpoint_fraction` of the blocks, evenly spread | attention: inside every block all but the attention's outputs.
    compile: each block by torch.compile.
    rows: of a Video-VAE the `ulysses` ranks divide the frames; so many of them divide the rows of each share.
    """

    rows: int = 1
    zero: int = 1
    shard: int = 0
    sequence: bool = True
    async_tensor: bool = False
    checkpointing: str = "none"
    checkpoint_fraction: float = 1.0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor", "ulysses", "rows"):
            _ranks(name, getattr(self, name))
        if self.ulysses % self.rows:
            raise ValueError(f"parallel.rows={self.rows} does not divide parallel.ulysses={self.ulysses}")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(
                f"parallel.zero={self.zero}: give 0 (copies), 1 (optimizer), 2 (gradients) or 3 (weights divided)"
            )
        if self.shard < 0 or (self.zero == 0 and self.shard > 1):
            fix = "leave it at 0" if self.zero == 0 else "give the number of data ranks that divide, or 0 for all"
            raise ValueError(f"parallel.shard={self.shard} with parallel.zero={self.zero}: {fix}")
        if self.checkpointing not in CHECKPOINTING:
            raise ValueError(f"parallel.checkpointing={self.checkpointing!r}: give one of {', '.join(CHECKPOINTING)}")
        if not 0 <= self.checkpoint_fraction <= 1:
            raise ValueError(f"parallel.checkpoint_fraction={self.checkpoint_fraction} must lie in [0, 1]")
        if self.async_tensor and not (self.compile and self.sequence and self.tensor > 1):
            raise ValueError(
                "parallel.async_tensor=true overlaps what a compiled block exchanges over tensor ranks: set "
                "parallel.compile=true, parallel.sequence=true and parallel.tensor above 1"
            )

    def dims(self, world_size: int) -> tuple[int, int, int, int]:
        """Ranks that (replicate, shard, ulysses, tensor) have; their product is `world_size`.

        Raises:
            ValueError: a number of ranks that does not divide.
        """
        network = self.tensor * self.ulysses
        if world_size % network:
            raise ValueError(
                f"parallel.tensor={self.tensor} x parallel.ulysses={self.ulysses} = {network} does not divide "
                f"{world_size} ranks; start a multiple of {network}, or lower them"
            )
        data = world_size // network
        shard = 1 if self.zero == 0 else self.shard or data
        if data % shard:
            raise ValueError(
                f"parallel.shard={shard} does not divide the {data} data ranks ({world_size} ranks / {network}); give "
                f"one of {', '.join(str(n) for n in range(1, data + 1) if not data % n)}, or 0 for all"
            )
        return data // shard, shard, self.ulysses, self.tensor


def _ranks(name: str, degree: int) -> None:
    if degree < 1:
        raise ValueError(f"parallel.{name}={degree}: give the number of ranks that share it, 1 or more")
