"""CLIP's two towers: released ones in transformers' layout, and the small ones that this project trains.

Legend: S frames, E embedding, N texts, H W sides in pixels.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.clip_pixels import Pixels
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.curation.tagging_config import HUB
from stepvideo.data.caption_kinds import LANGUAGES
from stepvideo.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT = {"clip": 77, "chinese_clip": 52}  # tokens of a text, as each was trained
KNOWS = {"clip": ("en",), "chinese_clip": ("zh",)}  # languages of the same
SMALL_SIDE = 64  # pixels of the frames that the shipped small tower was trained on


class Towers:
    """What embeds frames and texts. The last clip's frames are kept: several tags are functions of them.

    Attributes:
        languages: of the texts that it was trained on.
    """

    languages: tuple[str, ...] = LANGUAGES

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[ClipFrames], np.ndarray] | None = None

    def frames(self, clip: ClipFrames) -> np.ndarray:
        """Unit vectors float32 [S, E]."""
        if self._last is None or self._last[0]() is not clip:
            with _inference():
                self._last = weakref.ref(clip), _unit(self._images(clip.frames))
        return self._last[1]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, E]; longer texts are cut."""
        with _inference():
            return _unit(self._texts(list(texts)))

    def _images(self, frames: list[np.ndarray]) -> Tensor:
        raise NotImplementedError

    def _texts(self, texts: list[str]) -> Tensor:
        raise NotImplementedError


class ReleasedTowers(Towers):
    """`CLIPModel` (LAION's heads) or `ChineseCLIPModel` (the report's CLIP Score) of a folder, in float32.

    Raises:
        Absent: no such folder, or no transformers.
        ArtifactError: the folder holds another model, or not all of its weights as safetensors.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.model = folder, _pretrained(folder)
        kind = self.model.config.model_type
        self.context, self.languages = CONTEXT[kind], KNOWS[kind]
        self.pixels = Pixels.of(folder, self.model.config.vision_config.image_size)

    def _images(self, frames: list[np.ndarray]) -> Tensor:
        import torch

        pixels = torch.from_numpy(np.stack([self.pixels(f) for f in frames]))
        return self.model.get_image_features(pixels).pooler_output

    def _texts(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt")
        return self.model.get_text_features(**tokens).pooler_output

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)


class SmallTowers(Towers):
    """The towers of a `text` stage's artifact: a clip is one embedding, of all frames that its network compares.

    Raises:
        Absent: no such folder.
        ArtifactError: the folder is no artifact of that stage.
    """

    def __init__(self, folder: Path, side: int = SMALL_SIDE) -> None:
        from stepvideo.models.checkpoints import load_clip_image

        super().__init__()
        self.folder, self.side, self.image = folder, side, load_clip_image(folder, dtype=_float32())

    def _images(self, frames: list[np.ndarray]) -> Tensor:
        from stepvideo.data.frames import square, to_tensor

        chosen = np.linspace(0, len(frames) - 1, self.image.cfg.frames).round().astype(int)
        return self.image(to_tensor(square(np.stack([frames[i][..., ::-1] for i in chosen]), self.side)[None]))

    def _texts(self, texts: list[str]) -> Tensor:
        encoder, tokenizer = self.text
        return encoder.embed(*tokenizer.encode_batch(texts))

    @functools.cached_property
    def text(self) -> tuple[Any, Any]:
        from stepvideo.models.checkpoints import load_clip_text
        from stepvideo.models.text_encoders import load_tokenizers

        return load_clip_text(self.folder, dtype=_float32()), load_tokenizers(self.folder, unknown="replace").clip


@functools.cache
def released(folder: Path) -> ReleasedTowers:
    """Once a process, for all backends that share it."""
    return ReleasedTowers(folder)


def local(weights: str, what: str) -> Path:
    """Where weights lie: a path, or `hub:OWNER/NAME` for a folder of the Hugging Face hub.

    Raises:
        Absent: none were given, there is nothing, or the hub does not have or give them.
    """
    if not weights:
        raise Absent(f"no weights were given; give {what}")
    if weights.startswith(HUB):
        return _from_hub(weights.removeprefix(HUB))
    if not (path := Path(weights).expanduser()).exists():
        raise Absent(f"{path} is missing; give {what}")
    return path


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except Exception as e:  # its own, those of HTTP, and of the disk
        raise Absent(f"hub:{repository} did not come: {type(e).__name__}: {e}") from e


def _pretrained(folder: Path) -> Any:
    """The model of a folder; every tensor of it is from the file."""
    try:
        import transformers
    except ImportError as e:
        raise Absent(f"transformers is not installed ({e}); pip install 'stepvideo[curate]'") from e
    transformers.logging.disable_progress_bar()
    classes = {"clip": transformers.CLIPModel, "chinese_clip": transformers.ChineseCLIPModel}
    try:
        kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in classes:
            raise ArtifactError(f"{folder} holds a model of type {kind!r}; give one of {', '.join(classes)}")
        model, said = classes[kind].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=_float32(), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as e:
        raise ArtifactError(f"{folder} holds no CLIP in safetensors: {str(e).splitlines()[0]}") from e
    if missing := sorted(said["missing_keys"]):
        raise ArtifactError(f"{folder} lacks {len(missing)} tensors of its CLIP ({missing[0]}, …); copy it again")
    return model.eval()


def _float32() -> Any:
    import torch

    return torch.float32


def _unit(embedding: Tensor) -> np.ndarray:
    from torch.nn.functional import normalize

    return normalize(embedding.float(), dim=-1).numpy()


@contextmanager
def _inference() -> Iterator[None]:
    """No gradients, and one thread: workers are as many as cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
