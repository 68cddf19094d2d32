"""Recorded cross-attention for eyes: heat maps over the video, a film with all words, and a page that explains them.

Shape legend: T frames, H W pixels, f latent frames, h w their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stepvideo import storage
from stepvideo.data.show import enlarge
from stepvideo.data.video_io import write_image, write_video
from stepvideo.inference.attention.summary import Summary
from stepvideo.page_style import CSS
from stepvideo.svg import Series, bar_chart, line_chart

STRIP = 5  # frames of a word's picture
GAP = 4
Frames = NDArray[np.uint8]


def heat(frames: Frames, map_fhw: NDArray[np.float32]) -> Frames:
    """A map over the video, uint8 [T, H, W, 3]: dark where the word is least read, bright where most.

    The scale is the map's own, the same for all frames.
    """
    low, high = np.quantile(map_fhw, [0.02, 0.98])
    norm = np.clip((map_fhw - low) / max(float(high - low), 1e-12), 0, 1).astype(np.float32)
    t, h, w = frames.shape[:3]
    at = np.linspace(0, len(norm) - 1, t)
    first = np.floor(at).astype(int)
    after, part = np.minimum(first + 1, len(norm) - 1), (at - first)[:, None, None].astype(np.float32)
    in_time = norm[first] * (1 - part) + norm[after] * part
    out = np.empty_like(frames)
    for i, (frame, level) in enumerate(zip(frames, in_time, strict=True)):
        big = np.clip(cv2.resize(level, (w, h), interpolation=cv2.INTER_CUBIC), 0, 1)
        colours = cv2.applyColorMap((big * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
        out[i] = (0.35 * grey + 0.65 * colours).astype(np.uint8)
    return out


def _strip(frames: Frames) -> Frames:
    """Frames from first to last, side by side: [H, width, 3]."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(STRIP, len(frames))).round().astype(int)]
    gap = np.full((frames.shape[1], GAP, 3), 255, np.uint8)
    return np.concatenate([part for f in chosen for part in (f, gap)][:-1], axis=1)


def write(
    folder: Path, prompt: str, frames: Frames, maps_fhww: NDArray[np.float32], found: Summary, times: Sequence[float]
) -> None:
    """`video.png`, `word-NN.png` a word, `attention.mp4` (the video, then every word) and `index.html`."""
    big = enlarge(frames)
    films = [heat(big, maps_fhww[..., i]) for i in range(len(found.words))]
    write_image(folder / "video.png", _strip(big))
    for i, film in enumerate(films):
        write_image(folder / f"word-{i:02d}.png", _strip(film))
    if len(big) > 1:
        write_video(folder / "attention.mp4", _tiled([big, *films]), 8, crf=18)
    storage.write_atomic(folder / "index.html", _page(prompt, found, times, len(big) > 1))


def _tiled(films: Sequence[Frames], columns: int = 4) -> Frames:
    """Films side by side, in rows; black where there is none."""
    columns = min(columns, len(films))
    rows = -(-len(films) // columns)
    t, h, w = films[0].shape[:3]
    out = np.zeros((t, rows * h, columns * w, 3), np.uint8)
    for i, film in enumerate(films):
        y, x = divmod(i, columns)
        out[:, y * h : (y + 1) * h, x * w : (x + 1) * w] = film
    return out


def _page(prompt: str, found: Summary, times: Sequence[float], film: bool) -> str:
    most = max((w.of_words for w in found.words), default=1.0) or 1.0
    said, at = [], 0
    for w in found.words:
        said.append(escape(prompt[at : w.word.start]))
        strength = round(100 * w.of_words / most)
        said.append(
            f'<span style="background:color-mix(in srgb,var(--c1) {strength}%,transparent);border-radius:3px;'
            f'padding:.1em .15em" title="{w.of_words:.1%}">{escape(w.word.text)}</span>'
        )
        at = w.word.end
    said.append(escape(prompt[at:]))
    strips = "".join(
        f"<h3>{escape(w.word.text)} <small class=soft>{w.of_words:.1%} of the words' attention"
        f'{", neglected" if w.neglected else ""}</small></h3><img src="word-{i:02d}.png" alt="">'
        for i, w in enumerate(found.words)
    )
    names = [w.word.text for w in found.words][:8]
    steps = [Series(n, [(t, s["words"][i]) for t, s in zip(times, found.by_step)], i) for i, n in enumerate(names)]
    layers = [Series(n, [(j, s["words"][i]) for j, s in enumerate(found.by_layer)], i) for i, n in enumerate(names)]
    charts = [
        bar_chart("share of the words' attention", [(w.word.text, round(w.of_words, 4)) for w in found.words]),
        bar_chart(
            "share of all attention, of what is no word",
            [(k, round(v, 4)) for k, v in found.others.items()],
            label_width=150,
        ),
        line_chart("by time (0 noise, 1 data)", steps, "t") if len(times) > 1 else "",
        line_chart("by layer", layers, "layer") if len(found.by_layer) > 1 else "",
    ]
    neglected = f" Neglected: {escape(', '.join(found.neglected))}." if found.neglected else ""
    tiles = ", then ".join(["the video", *(escape(w.word.text) for w in found.words)])
    video = f"<h2>All words</h2><video src=attention.mp4 controls loop muted></video><p class=soft>{tiles}</p>"
    return (
        f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>attention</title>"
        f"<style>{CSS} img,video{{max-width:100%;border-radius:4px}}</style><main><h1>Cross-attention of a prompt</h1>"
        f"<p class=lead>{''.join(said)}</p><p>Evenness {found.evenness:.3f} (1: every word is read alike); the most "
        f"attended word has {found.top:.1%} of the words' attention.{neglected}</p>"
        f"<p class=soft>Means over steps, layers, heads and places. A word of more tokens has more places to be read. "
        f"Each picture has a scale of its own.</p><img src=video.png alt=''><div class=plots>"
        f"{''.join(f'<div>{c}</div>' for c in charts if c)}</div><h2>Where each word is read</h2>{strips}"
        f"{video if film else ''}</main>\n"
    )
