"""Config of low-rank adapters (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

ATTENTION = ("attn1.wqkv", "attn1.wo", "attn2.wq", "attn2.wkv", "attn2.wo")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")


@dataclass
class LoRAConfig:
    """Low-rank adapters (Hu et al., 2021): they learn, the network itself does not."""

    rank: int = 0  # 0: none, all weights learn
    alpha: float = 16.0  # the adapters' product counts alpha / rank times
    targets: list[str] = field(default_factory=lambda: [*ATTENTION, *FEED_FORWARD])  # ends of names of linear layers
    dropout: float = 0.0  # of the adapters' inputs

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank={self.rank} must be 0 (no adapters) or more")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha={self.alpha} must be greater than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout={self.dropout} must lie in [0, 1)")
        if self.rank and not self.targets:
            raise ValueError("lora.targets is empty: name the layers that get adapters, or set lora.rank=0")
