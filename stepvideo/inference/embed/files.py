"""Text features in a file: texts are encoded once, on a machine that can hold Step-LLM, and used anywhere.

One safetensors file: the tensors that `TextEncoders.encode` returns, and in its metadata the texts, a digest of the
encoders' weights and the lineage. Equal texts and encoders give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from stepvideo import storage
from stepvideo.diffusion.conditions import CLIP, LLM, MASK, TextFeatures, of_streams
from stepvideo.errors import ArtifactError

KEY = "stepvideo.embeddings.1"


def save_embeddings(path: Path, features: TextFeatures, encoder: str, lineage: Mapping[str, str] | None = None) -> None:
    """Write features of both encoders, whole or not at all.

    Args:
        encoder: digest of the encoders' weights.
        lineage: anything else to be known of their origin.

    Raises:
        ArtifactError: the file cannot be written.
    """
    about = {"texts": list(features.texts), "encoder": encoder, "lineage": dict(lineage or {})}
    metadata = {KEY: json.dumps(about, sort_keys=True)}  # one entry: safetensors shuffles several
    tensors = {k: v.detach().cpu().contiguous() for k, v in features.conditions.items()}
    storage.write_atomic(Path(path), safetensors.torch.save(tensors, metadata))


def load_embeddings(path: Path, caption_channels: Sequence[int]) -> TextFeatures:
    """The features in a file, as a DiT of these `caption_channels` takes them; one without CLIP leaves CLIP's out.

    Raises:
        ArtifactError: it is no such file, is damaged, or was made by encoders of other widths.
    """
    texts = read_metadata(path)["texts"]
    try:
        tensors = safetensors.torch.load_file(path)
        llm, clip, mask = tensors[LLM], tensors[CLIP], tensors[MASK]
    except (SafetensorError, OSError, KeyError) as e:
        raise ArtifactError(f"{path} is damaged: {e!r}; make it again with `stepvideo embed`") from e
    n, tokens = len(texts), [*llm.shape[1:2], *clip.shape[1:2]]
    if not (llm.ndim == clip.ndim == 3 and len(llm) == len(clip) == n and list(mask.shape) == [n, sum(tokens)]):
        shapes = ", ".join(str(list(t.shape)) for t in (llm, clip, mask))
        raise ArtifactError(f"{path}: {n} texts and tensors of {shapes} do not fit; make it again")
    widths = [llm.shape[-1], clip.shape[-1]]
    if list(caption_channels) != widths[: len(caption_channels)]:
        raise ArtifactError(
            f"{path} holds text features of widths {widths}, this transformer reads {list(caption_channels)}; encode "
            "the texts with the encoders that it was trained with"
        )
    return TextFeatures(texts, of_streams({LLM: llm, CLIP: clip, MASK: mask}, caption_channels))


def read_metadata(path: Path) -> dict[str, Any]:
    """texts, encoder (a digest) and lineage.

    Raises:
        ArtifactError: the file is missing or not one of text features.
    """
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise ArtifactError(f"{path} cannot be read as text features: {e}; make them with `stepvideo embed`") from e
    if KEY not in metadata:
        raise ArtifactError(f"{path} holds no text features of this version; make them with `stepvideo embed`")
    try:
        about = json.loads(metadata[KEY])
        if all(isinstance(text, str) for text in about["texts"]) and {"encoder", "lineage"} <= set(about):
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise ArtifactError(f"{path} is damaged: it does not tell its texts and encoders; make it again")
