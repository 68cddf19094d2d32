"""What a rank needs to train a DiT, in bytes, in closed form; torch-free. Checked against the real modules in tests.

Counted is what autograd keeps of our blocks (`dit_blocks`, `qk_norm`, `modulation`) and of the plans of
`stepvideo.parallel`, as they run on an accelerator. What a driver, a caching allocator and libraries add is `RESERVE`.

Legend: n elements of a video activation (batch · tokens · width) of a Ulysses rank, e bytes of an element.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.flops import video_tokens
from stepvideo.emulator.ledger import BYTES
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig

RESERVE = 4_000_000_000  # context, communication buffers, workspaces of products, fragments
FSDP_BLOCKS = 2  # whose whole weights or gradients are under way at a time


@dataclass(frozen=True)
class MicroBatch:
    """What a data rank computes at once: samples of one latent shape (frames, height, width) and their text tokens."""

    samples: int
    latent: tuple[int, int, int]
    text: int = 256  # Step-LLM's
    clip: int = 77


@dataclass(frozen=True)
class Training:
    """How a DiT is trained: the ranks and what they divide, and what an optimizer keeps."""

    parallel: TrainParallelConfig
    ranks: int = 1
    precision: str = "bf16-mixed"
    accumulate: int = 1  # micro-batches of a step
    muon: bool = False  # for the blocks' matrices; AdamW for the rest
    ema: bool = False

    @property
    def e(self) -> int:
        return BYTES["fp32" if self.precision == "32-true" else "bf16"]

    @property
    def shards(self) -> int:
        """Ranks that share the master weights of a tensor rank."""
        _, shard, ulysses, _ = self.parallel.dims(self.ranks)
        return shard * (ulysses if self.parallel.zero else 1)

    @property
    def residual(self) -> int:
        """Bytes of an element between the blocks: one process computes under autocast, which adds up in fp32."""
        return 4 if self.ranks == 1 else self.e


@dataclass(frozen=True)
class TrainMemory:
    """Bytes of one rank. All parts but the activations' and gradients' live through the whole step."""

    master: int  # fp32 weights
    optimizer: int  # moments
    ema: int
    weights: int  # gathered, in the dtype of the computation
    gradients: int
    exchange: int  # FSDP's blocks under way
    activations: int  # kept from forward to backward
    backward: int  # what the backward adds to them at its worst moment, such as the recomputed ones of a block
    reserve: int = RESERVE

    @property
    def tensors(self) -> int:
        """The worst moment: when the backward sets in, or at its end, when the gradients are there."""
        standing = self.master + self.optimizer + self.ema + self.weights + self.exchange
        return standing + max(self.activations + self.backward, self.gradients + self.backward)

    @property
    def total(self) -> int:
        return self.tensors + self.reserve


def train_memory(cfg: DiTConfig, batch: MicroBatch, how: Training, reserve: int = RESERVE) -> TrainMemory:
    """Raises ValueError: ranks that do not divide so, or blocks that this does not describe (MMDiT)."""
    if cfg.block != "cross":
        raise ValueError(f"block={cfg.block!r}: training memory is predicted for block='cross'")
    par, p = how.parallel, dit_parameters(cfg)
    par.check(cfg.num_attention_heads, 4 * cfg.inner_dim)
    matrices = p.block_matrices // par.tensor
    block = matrices + p.block - p.block_matrices
    own = p.layers * block + p.outside  # parameters of a tensor rank
    share, by_muon = own / how.shards, p.layers * matrices / how.shards if how.muon else 0
    gathered = FSDP_BLOCKS * block + p.outside if par.zero == 3 else own
    summed = own if par.zero <= 1 and how.accumulate > 1 else 0  # over micro-batches, in fp32
    kept, backward = _activations(cfg, batch, how)
    return TrainMemory(
        master=round(4 * share),
        optimizer=round(8 * share - 4 * by_muon),
        ema=round(4 * share) if how.ema else 0,
        weights=0 if how.ranks == 1 and how.e == 4 else how.e * gathered,
        gradients=round(4 * share) + 4 * summed,
        exchange=0 if how.ranks == 1 else FSDP_BLOCKS * block * (how.e + 4),
        activations=kept,
        backward=backward,
        reserve=reserve,
    )


def checkpointed(par: TrainParallelConfig, layers: int) -> int:
    """Blocks that recompute."""
    share = {"none": 0.0, "fraction": par.checkpoint_fraction}.get(par.checkpointing, 1.0)
    return round(share * layers)


def block_activations(cfg: DiTConfig, batch: MicroBatch, how: Training) -> int:
    """What one block keeps for its backward."""
    par, e, r = how.parallel, how.e, how.residual
    n, text = _sizes(cfg, batch, par)
    rows = n // cfg.inner_dim  # tokens of all samples
    between = n // par.tensor if _divided_between(par) else n
    heads, text_heads = n // par.tensor, text // par.tensor
    # Before the matrices, whole on every tensor rank: both norms' outputs, and what cross-attention reads.
    total = 3 * n * e
    # Residual stream at both norms; the branches that are gated.
    total += 2 * between * (r + e)
    # Self-attention: q, k normalised; v with the projection it lies in, or with q and k as Ulysses ranks receive them;
    # out; out for the next product. Cross-attention: q; out twice. Feed-forward: before and after GELU.
    total += (3 + 2 + 2 + 3 + 8) * heads * e
    if par.ulysses > 1 and not par.compile:
        total -= 2 * heads * e
    total += 3 * text_heads * e
    # QK-norm works in fp32: before and after the norm. A compiler recomputes both from the projections; in fp32 the
    # former of self-attention and of the text are the projections.
    copies = 8 * (3 * heads + text_heads) if e < 4 else 16 * heads + 4 * text_heads
    total += heads * e if par.compile else copies
    # A number a head and token: rms of q and k twice, of cross q, and the two attentions' log-sum-exp; a norm's two.
    per_head = rows * cfg.num_attention_heads // par.tensor
    return total + 4 * (5 * per_head + 4 * rows)


def _activations(cfg: DiTConfig, batch: MicroBatch, how: Training) -> tuple[int, int]:
    """Kept from forward to backward, and how much more there is at the worst moment of the backward."""
    par, e = how.parallel, how.e
    n, text = _sizes(cfg, batch, par)
    heads, between = n // par.tensor, n // par.tensor if _divided_between(par) else n
    whole, block = n * par.ulysses, block_activations(cfg, batch, how)
    again = checkpointed(par, cfg.num_layers)
    few = between * how.residual  # kept of a block that recomputes: its input
    if par.checkpointing == "attention":
        few += 2 * heads * e + 8 * heads // cfg.attention_head_dim
    # Of all tokens: what goes into and out of the last norm, and into the output projection.
    last = 3 * whole * e
    tokens = batch.samples * video_tokens(cfg, *batch.latent)
    ends = last + (whole - n) * e  # Ulysses' share of the first block's input is a view of the whole
    ends += tokens * cfg.patch_size**2 * (cfg.patch_channels + cfg.out_channels) * e
    ends += 8 * tokens // batch.samples * cfg.attention_head_dim  # tables of the rotation
    ends += text * e + batch.samples * batch.text * (cfg.caption_channels[0] + 3 * cfg.inner_dim) * e
    kept = (cfg.num_layers - again) * block + again * few + ends
    if not again:
        return kept, last
    # The feed-forward's backward, once the block is there again; with sequence parallelism gradients are gathered.
    gradients = (4 * heads + between + (2 * n if _divided_between(par) else 0)) * e
    return kept, max(last, block - few + gradients - last)


def _sizes(cfg: DiTConfig, batch: MicroBatch, par: TrainParallelConfig) -> tuple[int, int]:
    """Elements of the video's and the text's activations on a Ulysses rank."""
    clip = batch.clip if len(cfg.caption_channels) == 2 else 0
    tokens = -(-video_tokens(cfg, *batch.latent) // par.ulysses)
    return batch.samples * tokens * cfg.inner_dim, batch.samples * (batch.text + clip) * cfg.inner_dim


def _divided_between(par: TrainParallelConfig) -> bool:
    """Whether tensor ranks divide the tokens between a block's matrices."""
    return par.sequence and par.tensor > 1
