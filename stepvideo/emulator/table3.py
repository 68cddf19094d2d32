"""The report's Table 3, TFLOP of a training sample of each size, against the counter of training and balancing."""

from __future__ import annotations

from typing import Any

from stepvideo.emulator.flops import block_flops
from stepvideo.models.config import DiTConfig, VAEConfig

PRINTED = {
    (204, 256, 256): 1717.20,
    (204, 192, 320): 1592.61,
    (136, 256, 256): 1079.85,
    (136, 192, 320): 1004.89,
    (68, 256, 256): 509.31,
    (68, 192, 320): 475.87,
    (1, 256, 256): 44.99,
}
"""(frames, height, width): TFLOP."""

TEXT = 256
"""Tokens of a prompt; the table leaves CLIP's out, and everything outside the blocks."""

BAR_EXACT, BAR_ERROR = 6, 0.008
"""Rows to the printed digit, and TFLOP at most. No quadratic in the tokens has all seven: one digit is off in print."""


def table3() -> dict[str, Any]:
    """Every row with both figures, how many agree to the printed digit, the largest difference, and `ok`."""
    vae, rows = VAEConfig(), []
    for (frames, height, width), printed in PRINTED.items():
        latent = vae.num_latents(frames), height // vae.spatial_factor, width // vae.spatial_factor
        counted = 3 * block_flops(DiTConfig(), *latent, TEXT) / 1e12
        rows.append(
            {
                "size": f"{frames}x{height}x{width}",
                "printed": printed,
                "counted": counted,
                "difference": counted - printed,
                "exact": round(counted, 2) == printed,
            }
        )
    exact, worst = sum(r["exact"] for r in rows), max(abs(r["difference"]) for r in rows)
    return {"ok": exact >= BAR_EXACT and worst <= BAR_ERROR, "exact": exact, "max_error": worst, "rows": rows}


def text(result: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [f"{'frames x height x width':24} {'report':>9} {'counted':>11} {'difference':>11}   TFLOP a sample"]
    for r in result["rows"]:
        same = "" if r["exact"] else "   another last digit"
        lines.append(f"{r['size']:24} {r['printed']:9.2f} {r['counted']:11.4f} {r['difference']:+11.4f}{same}")
    n, verdict = len(result["rows"]), "met" if result["ok"] else "MISSED"
    lines.append(
        f"{result['exact']} of {n} rows to the printed digit (bar {BAR_EXACT}), at most {result['max_error']:.4f} "
        f"TFLOP off (bar {BAR_ERROR}): {verdict}"
    )
    return "\n".join(lines)
