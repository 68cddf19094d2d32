"""What a folder in the released layout holds, part by part, and whether each part is whole; reads headers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import NETWORKS, Network, vae_network
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.config_files import VAE_STEMS, VAE_V1, WEIGHTS
from stepvideo.models.text_encoders import load_tokenizers
from stepvideo.models.tokenizers import CHAT_TOKENS
from stepvideo.models.weights import fit, wrong_total

RELEASED = {
    "dit": DiTConfig(),
    "vae v2": VAEConfig(),
    "vae v1": VAEConfig(**VAE_V1),
    "step_llm": StepLLMConfig(),
    "clip_text": CLIPTextConfig(),
}
TOKENIZER_FILES = ("step_llm/step1_chat_tokenizer.model", "hunyuan_clip/tokenizer/vocab.txt")
SMALL_FILES = ("model_index.json", "scheduler/scheduler_config.json", "text_lengths.json", "sampling.json")


@dataclass
class Part:
    """One network, or the tokenizers. `problems` make it unusable; `notes` do not."""

    name: str
    folder: str
    files: int = 0
    size: int = 0  # bytes on disk
    parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)  # parameters by dtype
    config: dict[str, Any] = field(default_factory=dict)
    unlike_released: dict[str, list[Any]] | None = None  # field: [here, released]; None: nothing like it was released
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)  # tensors that no network uses
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    deep: dict[str, Any] = field(default_factory=dict)


@dataclass
class Survey:
    """A model folder, or any part of one."""

    root: Path
    kind: str
    parts: list[Part]
    others: list[str]
    problems: list[str]  # of the parts and between them
    usable: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems

    def part(self, name: str) -> Part | None:
        return next((p for p in self.parts if p.name.split()[0] == name), None)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"root": str(self.root), "ok": self.ok}


def networks(root: Path) -> Iterator[tuple[str, Network]]:
    """The networks that have a folder here; a VAE folder without config.json may hold two."""
    for name, network in NETWORKS.items():
        folder = root / network.folder
        if not folder.is_dir():
            continue
        if name != "vae":
            yield name, network
            continue
        held = [v for v, stem in VAE_STEMS.items() if any((folder / f"{stem}{end}").exists() for end in WEIGHTS)]
        if (folder / "config.json").exists() or not held:
            yield "vae", vae_network()
        else:
            yield from ((f"vae {version}", vae_network(version)) for version in held)


def survey(root: Path) -> Survey:
    """Look at a folder.

    Raises:
        ArtifactError: there is no folder, or nothing of a model in it.
    """
    if not root.is_dir():
        raise ArtifactError(f"{root} is no folder; give the folder of a model or of an artifact")
    found = {name: _network(root, name, network) for name, network in networks(root)}
    parts = [part for part, _ in found.values()]
    if any((root / name).exists() for name in TOKENIZER_FILES) or {"step_llm", "clip_text"} & set(found):
        parts.append(_tokenizers(root, {name: cfg for name, (_, cfg) in found.items() if cfg is not None}))
    if not parts:
        known = ", ".join(f"{n.folder}/" for n in NETWORKS.values())
        raise ArtifactError(f"{root} holds no part of a model ({known}); give the folder above these")
    problems = [f"{part.name}: {problem}" for part in parts for problem in part.problems]
    problems += _between({name.split()[0]: cfg for name, (_, cfg) in reversed(found.items()) if cfg is not None})
    names = {part.name.split()[0] for part in parts}
    others = [name for name in SMALL_FILES if (root / name).exists()]
    kind = _kind(root, names, {name: cfg for name, (_, cfg) in found.items()})
    return Survey(root, kind, parts, others, problems, [] if problems else _usable(names))


def _network(root: Path, name: str, network: Network) -> tuple[Part, Any]:
    folder = root / network.folder
    files = [p for p in storage.tree(folder) if p.suffix in (".safetensors", ".bin") or p.name.endswith(".json")]
    part = Part(name, network.folder, len(files), sum(p.stat().st_size for p in files))
    cfg = None
    try:
        cfg = network.config(root)
        part.config = asdict(cfg)
        if name == "vae":
            part.name = name = "vae v2" if cfg.dual_path else "vae v1"
        part.unlike_released = _unlike(cfg, RELEASED.get(name))
        held, part.aside = network.held(root, cfg)
        empty = network.on_meta(cfg)
    except ArtifactError as e:
        part.problems.append(str(e))
        return part, cfg
    part.files, part.size = _on_disk(folder, {e.file for e in held.values()})
    part.parameters = sum(e.numel for e in held.values())
    dtypes: Counter[str] = Counter()
    for entry in held.values():
        dtypes[entry.dtype] += entry.numel
    part.dtypes = dict(dtypes)
    differs = fit(empty, held)
    part.missing, part.unexpected = differs.missing, differs.unexpected
    part.problems += differs.problems()
    if part.problems and (hint := network.hint(cfg, held)):
        part.problems.append(hint)
    index = folder / f"{network.stem(cfg)}.safetensors.index.json"
    if index.exists() and (problem := wrong_total(index, held)):
        part.problems.append(problem)
    if part.aside:
        part.notes.append(f"{len(part.aside)} tensors that no part uses are left aside ({', '.join(part.aside[:3])} …)")
    return part, cfg


def _on_disk(folder: Path, files: set[Path]) -> tuple[int, int]:
    small = {p for p in (folder / "config.json", *folder.glob("*.index.json")) if p.exists()}
    return len(files | small), sum(p.stat().st_size for p in files | small)


def _unlike(cfg: Any, released: Any) -> dict[str, list[Any]] | None:
    if released is None:
        return None
    pairs = {f.name: [getattr(cfg, f.name), getattr(released, f.name)] for f in fields(cfg)}
    pairs.pop("use_additional_conditions", None)  # both were released
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _tokenizers(root: Path, configs: dict[str, Any]) -> Part:
    files = [p for p in (*(root / name for name in TOKENIZER_FILES), *(root / "hunyuan_clip/tokenizer").glob("*"))]
    files = sorted({p for p in files if p.is_file()})
    part = Part("tokenizers", "", len(files), sum(p.stat().st_size for p in files))
    try:
        both = load_tokenizers(root)
    except ArtifactError as e:
        part.problems.append(str(e))
        return part
    part.config = {
        "llm_vocabulary": both.llm.vocab_size,
        "llm_length": both.llm.length,
        "clip_vocabulary": both.clip.vocab_size,
        "clip_length": both.clip.length,
        "unknown": both.llm.unknown,
    }
    for network, key, size in (
        ("step_llm", "padded_vocab_size", both.llm.vocab_size),
        ("clip_text", "vocab_size", both.clip.vocab_size),
    ):
        if network in configs and size > (room := getattr(configs[network], key)):
            part.problems.append(f"{size} tokens, but {network} has {key}={room}: the vocabulary is of another model")
    if lacking := [t for t in CHAT_TOKENS if not both.llm.has(t)]:
        part.notes.append(f"Step-LLM's vocabulary lacks {', '.join(lacking)}; the released code insists on them")
    return part


def _between(configs: dict[str, Any]) -> list[str]:
    """What does not fit between the parts."""
    problems = []
    dit, vae = configs.get("dit"), configs.get("vae")
    if dit and vae and dit.in_channels != vae.z_channels:
        problems.append(f"the transformer works on {dit.in_channels} latent channels, the VAE has {vae.z_channels}")
    widths = [configs[name].hidden_size for name in ("step_llm", "clip_text") if name in configs]
    if dit and len(widths) == 2 and list(dit.caption_channels) != widths[: len(dit.caption_channels)]:
        problems.append(f"the transformer reads text of widths {dit.caption_channels}, the encoders give {widths}")
    return problems


def _kind(root: Path, names: set[str], configs: dict[str, Any]) -> str:
    dit = configs.get("dit")
    task = "" if dit is None else "image-to-video" if dit.use_additional_conditions else "text-to-video"
    text = {"step_llm", "clip_text", "tokenizers"}
    if {"dit", "vae", *text} <= names:
        kind = f"a whole {task} model".replace("  ", " ")
    elif names == {"dit"}:
        kind = f"a {task} transformer alone (as the released Turbo)".replace("  ", " ")
    else:
        titles = {"dit": f"a {task} transformer", "vae": "a Video-VAE"}
        kind = " and ".join(title for name, title in titles.items() if name in names)
        if text <= names:
            kind += " and text encoders" if kind else "text encoders"
        elif text & names:
            kind += (" and " if kind else "") + f"a part of the text encoders ({', '.join(sorted(text & names))})"
    stage = next(filter(None, (_stage(folder / "manifest.json") for folder in (root, root.parent))), "")
    return (kind or "a model part") + (f", artifact of stage {stage}" if stage else "")


def _stage(manifest: Path) -> str:
    """The stage that made an artifact; "" where the file is another's: many programs have a manifest.json."""
    try:
        about = storage.read_json(manifest)
    except ArtifactError:
        return ""
    return str(about["stage"]) if isinstance(about, dict) and "stage" in about else ""


def _usable(names: set[str]) -> list[str]:
    text = {"step_llm", "clip_text", "tokenizers"}
    uses = []
    if {"dit", "vae", *text} <= names:
        uses.append("generate --model")
    elif "dit" in names:
        lacking = [o for o, need in (("--vae", {"vae"}), ("--text", text)) if not need <= names]
        uses.append(f"generate --model, with {' and '.join(lacking)} of another folder")
    for part, need in (("dit", {"dit"}), ("vae", {"vae"}), ("text", text)):
        if need <= names:
            uses.append(f"run weights.{part}=DIR (start of training)")
    return uses
