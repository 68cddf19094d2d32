"""Pictures of the documents, from models of ours.

python scripts/docs_picture.py samples STORE [MODEL]     # docs/pictures/samples.gif: a trained model draws four prompts
python scripts/docs_picture.py vae                       # docs/pictures/vae.png: the shipped VAE beside the original
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs/pictures"
PROMPTS = (
    "a large red circle moves right",
    "a small blue square moves up",
    "一个绿色的大三角形向左移动",
    "two large yellow circles move down",
)
SIDE, BAR, GAP = 160, 22, 8  # of a video, of its caption, between videos: pixels
MOST = 400 * 1024  # bytes


def samples(store: str, model: str = "") -> Path:
    """Four prompts, drawn by `stepvideo generate` and put side by side as a GIF. Seed 0, none chosen."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "prompts.txt")
        asked.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "stepvideo.cli", "generate", "--prompts", str(asked), "--out", f"{folder}/out"]
        command += ["--store", store, "--seed", "0", *(["--model", model] if model else [])]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        videos = [_read(p) for p in sorted(Path(folder, "out").rglob("*.mp4"))]
    if len(videos) != len(PROMPTS):
        raise SystemExit(f"{len(videos)} videos for {len(PROMPTS)} prompts")
    frames = np.concatenate([_tile(v, text) for v, text in zip(videos, PROMPTS)], axis=2)
    _save(OUT / "samples.gif", frames)
    return OUT / "samples.gif"


def vae() -> Path:
    """Four rendered clips that nothing was trained on; above the original, below what the shipped VAE keeps of it."""
    import torch

    from stepvideo.data.show import contact_sheet
    from stepvideo.models.checkpoints import load_vae
    from stepvideo.world.attributes import held_out_combinations
    from stepvideo.world.config import RenderConfig
    from stepvideo.world.render import render

    net = load_vae(ROOT / "weights/vae", dtype=torch.float32).eval()
    cfg = RenderConfig(size=64, frames=17, backgrounds=["plain", "gradient"])
    rows = []
    for seed, attrs in enumerate(held_out_combinations()[:: max(1, len(held_out_combinations()) // 3)][:3]):
        clip = render(attrs, seed, cfg, allow_held_out=True)[:17]
        x = torch.from_numpy(clip).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            back = net.decode(net.encode(x, sample=False))[0]
        rows += [clip, ((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()]
    Image.fromarray(contact_sheet(rows, columns=6)).save(OUT / "vae.png", optimize=True)
    return OUT / "vae.png"


def _save(path: Path, frames: np.ndarray) -> None:
    """A GIF of few colours, which flat shapes do not miss, without dithering, which GIF packs badly."""
    none = Image.Dither.NONE
    first, *rest = (Image.fromarray(f).quantize(48, Image.Quantize.MEDIANCUT, dither=none) for f in frames)
    first.save(path, save_all=True, append_images=rest, duration=120, loop=0, optimize=True)


def _read(path: Path) -> np.ndarray:
    from stepvideo.world.media import decode_mp4

    return decode_mp4(path)


def _tile(video: np.ndarray, text: str) -> np.ndarray:
    """uint8 [T, SIDE + BAR, SIDE + GAP, 3]: the video with its prompt below."""
    tiles = []
    for frame in video:
        tile = Image.new("RGB", (SIDE + GAP, SIDE + BAR), "white")
        tile.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.NEAREST), (0, 0))
        ImageDraw.Draw(tile).text((2, SIDE + 5), _latin(text), fill="black")
        tiles.append(np.asarray(tile))
    return np.stack(tiles)


def _latin(text: str) -> str:
    """Pillow's own font has no Chinese characters; the page gives the prompt in full."""
    return text.removeprefix("a ") if text.isascii() else "(Chinese, see below)"


def main(words: list[str]) -> int:
    makers = {"samples": samples, "vae": vae}
    if not words or words[0] not in makers:
        print(__doc__)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    made = makers[words[0]](*words[1:])
    size = made.stat().st_size
    print(f"{made.relative_to(ROOT)}: {size / 1024:.0f} kB")
    return 0 if size <= MOST else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
