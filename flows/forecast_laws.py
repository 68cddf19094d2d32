"""Bytes of artifacts by law: what a stage's settings, and those of the stages that it reads, say of its size.

The clips are counted where the curation is there already, or where every raw file is rendered; else each raw file
counts as one clip, which is too few for long videos: then the law is a lower bound, and `Counts.known` says so.

Measured on `profile=smoke` (docs/housekeeping.md says how well it holds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flows.graph import Node
from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.config import load
from stepvideo.curation.raw import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from stepvideo.emulator.vae_memory import vae_parameters
from stepvideo.models.config import CLIPTextConfig, StepLLMConfig, VAEConfig
from stepvideo.models.layout import PARTS

Config = Mapping[str, Any]

FLOAT, HALF, BLOCK = 4, 2, 4096  # bytes of a weight, of an element of the cache, of the disk at least for each file
FILES = 6e4  # bytes of manifest, spec, events, ledger and curves of a stage that trains
TOKENIZER = 2.4e5  # bytes of a small sentencepiece model, its tables included
RAW = 1.6e6  # bytes of the raw data of this repository, if their folder is not there to be counted
# Bytes of the pages of a stage's gate, and of its tables a clip (its single frame and stills counted as clips).
TABLES = {"curate": (4.7e6, 300), "tags": (4.3e6, 100), "captions": (4.3e6, 270), "subsets": (4.6e6, 180)}
CURATED = 1.4  # bytes of clips for each byte of raw files: they are cut and encoded again, with a frame each


@dataclass(frozen=True)
class Counts:
    """clips: videos; images: stills, and one frame of each clip. known: counted, not one clip for each raw file."""

    clips: float
    images: float
    known: bool

    @property
    def rows(self) -> float:
        return self.clips + self.images


class Laws:
    """The laws of one graph. `of(node)` is None where there is none.

    Args:
        made: artifacts that are there already, by stage.
    """

    def __init__(self, nodes: Iterable[Node], made: Mapping[str, Artifact]) -> None:
        self._nodes = {n.name: n for n in nodes}
        self._made = made
        self.counts = self._counted()

    def of(self, node: Node) -> float | None:
        """Bytes of the artifact, or None."""
        law = _BY_KIND.get(node.kind)
        return law(self, node) if law else None

    def is_bound(self, node: Node) -> bool:
        """Whether the artifact may well be larger, as nobody knows yet how many clips there are."""
        return node.kind in ("latents", *TABLES) and not self.counts.known

    def _counted(self) -> Counts:
        cut = next((n for n in self._nodes.values() if n.kind == "curate"), None)
        said = self._made[cut.name].metrics if cut and cut.name in self._made else {}
        if "clips" in said:
            return Counts(said["clips"], said.get("images", 0.0) + said.get("frames", 0.0), True)
        sources = [self._nodes[s] for s in cut.inputs.values() if s in self._nodes] if cut else []
        videos, stills = (sum(_count(s.config, which) for s in sources) for which in (VIDEO_SUFFIXES, IMAGE_SUFFIXES))
        return Counts(videos, videos + stills, bool(sources) and all(s.kind == "render" for s in sources))

    def _source(self, node: Node, role: str) -> Node | None:
        return self._nodes.get(node.inputs.get(role, ""))

    def latents(self, node: Node) -> float:
        """Moments of every clip in its bucket at both resolutions, embeddings of every caption (`data.latents`)."""
        c, text = node.config, self._source(node, "text")
        vae = _vae(self._source(node, "vae"))
        clips, images = (
            min(count, c[most] or count)
            for count, most in ((self.counts.clips, "max_clips"), (self.counts.images, "max_images"))
        )
        total = FILES + 250 * (clips + images)  # tables
        if vae and not c["on_the_fly"]:
            longest = max(c["lengths"])
            for sizes in c["resolutions"].values():
                side = max(_pixels(s) for s in sizes) / vae.spatial_factor**2
                of = 2 * vae.z_channels * side * HALF
                total += of * (clips * vae.num_latents(longest) + images)
        captions = (clips + images) * len(c["kinds"]) * len(c["languages"]) * c["variants"]
        return total + captions * _embedding(text)

    def text(self, node: Node) -> float:
        """Both encoders; vocabularies are what the tokenizers learn, at most `llm_vocab` pieces and some characters."""
        c = node.config
        llm, clip = load(StepLLMConfig, dict(c["step_llm"])), load(CLIPTextConfig, dict(c["clip_text"]))
        return FLOAT * (_llm(llm, c["llm_vocab"]) + _bert(clip, c["llm_vocab"]) + _tower(c)) + TOKENIZER + FILES

    def vae(self, node: Node) -> float:
        """Its weights."""
        return FLOAT * sum(vae_parameters(load(VAEConfig, dict(node.config["vae"])))) + FILES

    def render(self, node: Node) -> float:
        """0.25 bytes a pixel (crf 14, yuv444p, measured on the small world), and a block of disk for each file."""
        c = node.config
        side = float(c["size"])
        pixels = (float(c["width"]) or side) * (float(c["height"]) or side) * float(c["frames"])
        return float(c["n_clips"]) * (0.25 * pixels + BLOCK)

    def folder(self, node: Node) -> float:
        """What is copied from a folder: raw data, or weights."""
        files = _files(node.config)
        if files is None:
            return RAW if node.kind == "raw" else 0.0
        parts = [p for names in PARTS.values() for p in names]
        if node.kind != "raw":
            files = [p for p in files if set(p.parts) & set(parts)] or files
        return float(sum(p.stat().st_size + BLOCK / 2 for p in files))

    def tables(self, node: Node) -> float:
        """Pages of the gate, and a row a clip; of the curation the clips too."""
        pages, row = TABLES[node.kind]
        total = pages + row * self.counts.rows
        if node.kind == "curate":
            sources = (self._nodes[s] for s in node.inputs.values() if s in self._nodes)
            total += CURATED * sum(self.of(s) or 0.0 for s in sources)
        return total


_BY_KIND: dict[str, Callable[[Laws, Node], float]] = {
    **{"render": Laws.render, "raw": Laws.folder, "shipped": Laws.folder, "given": Laws.folder},
    **{"latents": Laws.latents, "text": Laws.text, "vae": Laws.vae},
    **dict.fromkeys(TABLES, Laws.tables),
}


def _pixels(size: str) -> int:
    height, _, width = size.partition("x")
    return int(height) * int(width)


def _files(config: Config) -> Sequence[Path] | None:
    """Of the folder that a stage copies; None if it is not on this machine."""
    folder = config.get("runtime", {}).get("path", "")
    if not folder or storage.is_remote(folder) or not Path(folder).is_dir():
        return None
    return list(storage.tree(Path(folder)))


def _count(config: Config, suffixes: tuple[str, ...]) -> float:
    if "n_clips" in config:
        return float(config["n_clips"]) if suffixes == VIDEO_SUFFIXES else 0.0
    return float(sum(p.suffix.lower() in suffixes for p in _files(config) or ()))


def _said(node: Node | None, name: str) -> Config:
    """A config that lies in the folder of weights that a node hands on."""
    path = Path(node.config.get("runtime", {}).get("path", "") if node else "") / name
    return storage.read_json(path) if path.is_file() else {}


def _known(cls: Any, data: Config) -> Any:
    return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data}) if data else None


def _vae(node: Node | None) -> VAEConfig | None:
    own = node.config.get("vae") if node else None
    return load(VAEConfig, dict(own)) if own else _known(VAEConfig, _said(node, "vae/config.json"))


def _embedding(node: Node | None) -> float:
    """Bytes of one caption: all CLIP tokens, and half as many LLM tokens as there may be."""
    if node is None:
        return 0.0
    lengths = node.config if "llm_length" in node.config else _said(node, "text_lengths.json")
    own = "step_llm" in node.config
    llm = node.config["step_llm"] if own else _said(node, "step_llm/config.json")
    clip = node.config["clip_text"] if own else _said(node, "hunyuan_clip/clip_text_encoder/config.json")
    if not (lengths and llm and clip):
        return 0.0
    return HALF * (lengths["llm_length"] / 2 * llm["hidden_size"] + lengths["clip_length"] * clip["hidden_size"])


def _llm(c: StepLLMConfig, vocabulary: int) -> float:
    d, kv = c.hidden_size, c.num_attention_groups * c.head_dim
    return min(c.padded_vocab_size, vocabulary) * d + c.num_layers * (2 * d * (d + kv) + 3 * d * c.ffn_dim + 2 * d)


def _bert(c: CLIPTextConfig, vocabulary: int) -> float:
    d, f = c.hidden_size, c.intermediate_size
    tables = min(c.vocab_size, vocabulary) + c.max_position_embeddings + c.type_vocab_size + 2 + c.projection_dim
    return tables * d + c.num_hidden_layers * (4 * d * (d + 1) + 2 * d * f + f + 5 * d)


def _tower(c: Config) -> float:
    """CLIP's image side: two 3×3 convolutions a width, the last one projected."""
    image = c["clip_image"]
    widths = [image["in_channels"], *image["widths"]]
    return sum(9 * b * (a + b) + 4 * b for a, b in zip(widths, widths[1:])) + image["projection_dim"] * 2 * widths[-1]
