"""One folder in the released layout from the artifacts of several stages."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.inference.inspect.survey import Survey, survey
from stepvideo.models.checkpoints import save_model_index, save_scheduler
from stepvideo.models.config_files import dit_config
from stepvideo.models.layout import BESIDE, PARTS
from stepvideo.models.tokenizers import BERT_CONFIG, SPECIAL_TOKENS

WEIGHTS = (".safetensors", ".bin")
LATENT_STATS = "transformer/latent_stats.json"
ROLES = [f"{t.strip('[]').lower()}_token" for t in SPECIAL_TOKENS]


def assemble(out: Path, transformer: Path, vae: Path, text: Path, copy: bool = False) -> list[str]:
    """Make `out` a complete model: it appears whole, checked, or not at all.

    Args:
        transformer: folder that holds `transformer/`, and `sampling.json` if it was trained here.
        vae, text: folders that hold `vae/`, and `step_llm/` and `hunyuan_clip/`.
        copy: weights of their own instead of hard links, which take no space but change with their source.

    Returns:
        What software other than this needs to know before it runs the model.

    Raises:
        ArtifactError: `out` is there already, a part is missing, damaged, or does not fit another.
    """
    out = Path(out)
    if out.exists():
        raise ArtifactError(f"{out} exists already; remove it or choose another folder")
    image_to_video = dit_config(transformer).use_additional_conditions
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    except OSError as e:
        raise ArtifactError(f"cannot write {out}: {e.strerror or e}; choose another folder") from e
    try:
        for role, source in {"dit": transformer, "vae": vae, "text": text}.items():
            _take(role, Path(source), made, copy)
        _complete(made, image_to_video)
        found = survey(made)
        if not found.ok:
            told = "; ".join(found.problems).replace(f"{made}{os.sep}", "")
            raise ArtifactError(f"the parts make no whole model: {told}")
        made.chmod(0o755)
        os.replace(made, out)
    except OSError as e:
        if e.errno == errno.ENOTEMPTY:
            raise ArtifactError(f"{out} was made by somebody else meanwhile; choose another folder") from e
        raise ArtifactError(f"cannot write {out}: {e.strerror or e}; free space or choose another folder") from e
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return _elsewhere(out, found)


def _take(role: str, source: Path, made: Path, copy: bool) -> None:
    for name in PARTS[role]:
        if not (source / name).is_dir():
            raise ArtifactError(f"{source} holds no {name}/; give the folder that does")
    files = [p for name in PARTS[role] for p in storage.tree(source / name)]
    files += [source / name for name in BESIDE[role] if (source / name).exists()]
    for path in files:
        target = made / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        link = path.suffix in WEIGHTS and not copy  # people edit the small files
        (storage.link_or_copy if link else shutil.copyfile)(path, target)


def _complete(made: Path, image_to_video: bool) -> None:
    """The small files that the stages do not write."""
    save_scheduler(made)
    save_model_index(made, image_to_video)
    tokens = dict(zip(ROLES, SPECIAL_TOKENS))
    bert = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "tokenize_chinese_chars": True, **tokens}
    for name, content in ((BERT_CONFIG, bert), ("special_tokens_map.json", tokens)):
        if not (path := made / "hunyuan_clip" / "tokenizer" / name).exists():
            storage.write_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _elsewhere(out: Path, found: Survey) -> list[str]:
    notices = []
    if (out / LATENT_STATS).exists():
        notices.append(f"the transformer works on normalised latents: undo {LATENT_STATS} before decoding")
    if (out / "text_lengths.json").exists():
        lengths: dict[str, Any] = storage.read_json(out / "text_lengths.json")
        told = ", ".join(f"{v} ({k})" for k, v in sorted(lengths.items()))
        notices.append(f"prompts are padded to {told} tokens, where the release has 77 and 320")
    fixed = [part.name for part in found.parts if part.name.startswith("vae") and part.unlike_released]
    if fixed:
        notices.append(
            "the released code builds the released Video-VAE only; this one has other widths (vae/config.json)"
        )
    dit = found.part("dit")
    if dit and dit.config["attention_head_dim"] != 128:
        notices.append(
            f"the released code has RoPE for heads of 128 channels only; here a head has "
            f"{dit.config['attention_head_dim']}"
        )
    return notices
