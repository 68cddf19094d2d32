"""The project's own small CLIP as an embedding of clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_folders import clip_frames

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.clip_model import SmallTowers
from stepvideo.curation.backends.embedding import SmallEmbedding
from stepvideo.data.frames import square, to_tensor
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import save_clip_image, save_clip_text
from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder
from stepvideo.models.config import CLIPImageConfig, CLIPTextConfig
from stepvideo.models.tokenizers import CLIP_FILE, LLM_FILE, CLIPTokenizer, LLMTokenizer

SIDE = 64


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """What the stage `text` leaves of its CLIP, with random weights."""
    root = tmp_path_factory.mktemp("text")
    tokenizer = CLIPTokenizer.train(["a red ball", "红球"], length=16)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = CLIPTextEncoder(CLIPTextConfig(vocab_size=tokenizer.vocab_size, projection_dim=8, **size))
    image = CLIPImageEncoder(CLIPImageConfig(widths=[8, 16], frames=3, projection_dim=8))
    for tower in (text, image):
        tower.init_weights(torch.Generator().manual_seed(0))
    save_clip_text(text, root)
    save_clip_image(image, root)
    tokenizer.save(root / "hunyuan_clip" / "tokenizer" / CLIP_FILE)
    LLMTokenizer.train(["a red ball", "a red cube", "红球"], 32, 16).save(root / "step_llm" / LLM_FILE)
    (root / "text_lengths.json").write_text('{"llm_length": 16, "clip_length": 16}')
    return root, image.eval(), text.eval(), tokenizer


def test_a_clip_is_one_embedding_of_as_many_frames_as_the_network_compares(artifact):
    root, image, _, _ = artifact
    clip = clip_frames()
    chosen = np.stack([clip.frames[i][..., ::-1] for i in (0, 4, 7)])
    with torch.no_grad():
        expected = image(to_tensor(square(chosen, SIDE)[None]))[0]
    np.testing.assert_allclose(SmallEmbedding(str(root))(clip)["embedding"], expected, atol=1e-6)


def test_texts_lie_beside_clips(artifact):
    root, _, text, tokenizer = artifact
    towers = SmallTowers(root)
    with torch.no_grad():
        expected = text.embed(*tokenizer.encode_batch(["a red ball"]))
    found = towers.texts(["a red ball"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_folder_without_the_towers_is_refused(tmp_path):
    with pytest.raises(Absent, match="artifact of the stage `text`"):
        SmallEmbedding()
    with pytest.raises(ArtifactError):
        SmallEmbedding(str(tmp_path))
