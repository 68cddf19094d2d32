"""How generation trades speed, or a little quality, for memory. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

OFFLOAD = ("none", "component", "layer")
QUANTIZATION = ("none", "int8", "fp8")
TEXT = ("resident", "free", "process")


@dataclass
class MemoryConfig:
    """The defaults are fastest and exact, and need the most memory.

    offload: where weights wait that are not computing. `none`: all on the device. `component`: each network is moved
        there for its phase alone. `layer`: also the DiT's blocks and the Step-LLM's layers are, one after the other.
    prefetch: with `layer`, blocks that are copied ahead of the one that computes.
    quantization: of the matrices in the DiT's blocks: `int8` or `fp8` (e4m3) weights with a scale for each output
        feature; half the memory of bf16. Changes the result slightly.
    vae_tile: side in pixels of the squares that frames are decoded in; 0 decodes whole frames. Changes the result
        slightly, because norms and attention then see a tile only.
    vae_overlap: pixels that neighbouring tiles share and are blended over.
    text: the text encoders are kept (`resident`), dropped after use and before the other networks are read (`free`),
        or run in a process of their own (`process`), which may have another device.
    cfg_batched: both halves of guidance in one call (faster) or one after the other (half the activations).
    """

    offload: str = "none"
    prefetch: int = 1
    quantization: str = "none"
    vae_tile: int = 0
    vae_overlap: int = 64
    text: str = "resident"
    cfg_batched: bool = True

    def __post_init__(self) -> None:
        for name, known in (("offload", OFFLOAD), ("quantization", QUANTIZATION), ("text", TEXT)):
            if getattr(self, name) not in known:
                raise ValueError(f"memory.{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.prefetch < 0:
            raise ValueError(f"memory.prefetch={self.prefetch}: give 0 (copy when needed) or more")
        if self.vae_tile < 0 or self.vae_overlap < 0:
            raise ValueError(f"memory.vae_tile={self.vae_tile}, vae_overlap={self.vae_overlap}: give pixels, 0 or more")
        if self.vae_tile and self.vae_overlap * 2 > self.vae_tile:
            raise ValueError(
                f"memory.vae_overlap={self.vae_overlap} must be at most half of vae_tile={self.vae_tile}, so that a "
                "pixel lies in no more than two tiles a direction"
            )

    @property
    def lossy(self) -> dict[str, str | int]:
        """The options that change the result beyond the order of additions."""
        quantized: dict[str, str | int] = {"quantization": self.quantization} if self.quantization != "none" else {}
        return quantized | ({"vae_tile": self.vae_tile, "vae_overlap": self.vae_overlap} if self.vae_tile else {})

    @property
    def exact(self) -> bool:
        """Whether the result is that of the defaults, up to the order of additions."""
        return not self.lossy

    def describe(self) -> str:
        """What differs from the defaults, for tables."""
        parts = [
            f"text {self.text}" if self.text != "resident" else "",
            f"offload {self.offload}" if self.offload != "none" else "",
            f"{self.prefetch} ahead" if self.offload == "layer" and self.prefetch != 1 else "",
            self.quantization if self.quantization != "none" else "",
            "" if self.cfg_batched else "guidance in turn",
            f"VAE tiles of {self.vae_tile}" if self.vae_tile else "",
        ]
        return ", ".join(p for p in parts if p) or "all resident"
