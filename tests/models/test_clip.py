"""CLIP: BERT's names and arithmetic, masks, and a contrastive head that learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder, contrastive_loss, perceptual_distance
from stepvideo.models.config import CLIPImageConfig, CLIPTextConfig


def text_encoder(**changes: int) -> CLIPTextEncoder:
    sizes: dict = dict(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    model = CLIPTextEncoder(CLIPTextConfig(**(sizes | {"max_position_embeddings": 12, "projection_dim": 8} | changes)))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def test_names_are_those_of_bert():
    layer = "bert.encoder.layer.1."
    expected = {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.embeddings.LayerNorm.bias",
        *(layer + f"attention.self.{p}.{w}" for p in ("query", "key", "value") for w in ("weight", "bias")),
        layer + "attention.output.dense.weight",
        layer + "attention.output.LayerNorm.weight",
        layer + "intermediate.dense.bias",
        layer + "output.dense.weight",
        layer + "output.LayerNorm.bias",
        "text_projection",
        "logit_scale",
    }
    keys = set(text_encoder().state_dict())
    assert expected <= keys
    assert len(keys) == 5 + 2 * 16 + 2
    assert not [k for k in text_encoder(projection_dim=0).state_dict() if not k.startswith("bert.")]


@torch.no_grad()
def test_a_layer_is_post_norm_bert_arithmetic():
    """Against torch's own post-norm encoder layer with the same weights."""
    model = text_encoder(num_hidden_layers=1)
    layer = model.bert.encoder.layer[0]
    p, out = layer.attention["self"], layer.attention["output"]
    reference = torch.nn.TransformerEncoderLayer(16, 2, 24, 0.0, F.gelu, 1e-12, batch_first=True).eval()
    reference.self_attn.in_proj_weight.copy_(torch.cat([p.query.weight, p.key.weight, p.value.weight]))
    reference.self_attn.in_proj_bias.copy_(torch.cat([p.query.bias, p.key.bias, p.value.bias]))
    reference.self_attn.out_proj.load_state_dict(out.dense.state_dict())
    reference.norm1.load_state_dict(out.LayerNorm.state_dict())
    reference.linear1.load_state_dict(layer.intermediate["dense"].state_dict())
    reference.linear2.load_state_dict(layer.output.dense.state_dict())
    reference.norm2.load_state_dict(layer.output.LayerNorm.state_dict())
    ids, mask = torch.tensor([[2, 5, 6, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]])
    expected = reference(model.bert.embeddings(ids), src_key_padding_mask=mask == 0)
    torch.testing.assert_close(model(ids, mask)[:, :4], expected[:, :4])


@torch.no_grad()
def test_padding_does_not_change_a_text():
    model = text_encoder()
    short = model.embed(torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4))
    padded = model.embed(torch.tensor([[2, 5, 6, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]]))
    torch.testing.assert_close(short, padded)
    torch.testing.assert_close(padded.norm(dim=-1), torch.ones(1))
    other_order = model.embed(torch.tensor([[2, 6, 5, 3]]), torch.ones(1, 4))
    assert (short - other_order).abs().max() > 1e-3


def test_contrastive_training_matches_images_with_texts():
    text, image = text_encoder(), CLIPImageEncoder(CLIPImageConfig(widths=[8, 16], projection_dim=8))
    image.init_weights(torch.Generator().manual_seed(0))
    ids = torch.tensor([[2, 5, 3], [2, 6, 3], [2, 7, 3]])
    pictures = torch.full((3, 3, 8, 8), -1.0)
    for i in range(3):
        pictures[i, i] = 1
    optimizer = torch.optim.AdamW([*text.parameters(), *image.parameters()], 3e-3)
    for _ in range(40):
        loss = contrastive_loss(image(pictures[:, None]), text.embed(ids), text.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = image(pictures[:, None]) @ text.embed(ids).T
    assert torch.equal(scores.argmax(1), torch.arange(3))


def test_several_frames_tell_motions_apart():
    """A clip and the same clip backwards hold the same pictures; only their order matches the text."""
    text, image = text_encoder(), CLIPImageEncoder(CLIPImageConfig(widths=[8, 16], projection_dim=8, frames=3))
    image.init_weights(torch.Generator().manual_seed(0))
    right = torch.full((1, 3, 3, 16, 16), -1.0)
    for t in range(3):
        right[:, t, :, 4:10, 5 * t : 5 * t + 6] = 1
    clips, ids = torch.cat([right, right.flip(1)]), torch.tensor([[2, 5, 3], [2, 6, 3]])
    optimizer = torch.optim.AdamW([*text.parameters(), *image.parameters()], 3e-3)
    for _ in range(60):
        loss = contrastive_loss(image(clips), text.embed(ids), text.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal((image(clips) @ text.embed(ids).T).argmax(1), torch.arange(2))
    with pytest.raises(ValueError, match=r"expected \[b, 3, 3, h, w\]"):
        image(clips[:, :2])


def test_equal_captions_are_no_negatives():
    embedding = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    embedding[1] = embedding[0]
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    scale = torch.tensor(3.0)
    assert contrastive_loss(embedding, embedding, scale, same) < contrastive_loss(embedding, embedding, scale)


@torch.no_grad()
def test_image_features_and_perceptual_distance():
    image = CLIPImageEncoder(CLIPImageConfig(widths=[8, 16, 24]))
    image.init_weights(torch.Generator().manual_seed(0))
    a = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    maps = image.features(a)
    assert [list(m.shape) for m in maps] == [[2, 8, 16, 16], [2, 16, 8, 8], [2, 24, 4, 4]]
    assert not perceptual_distance(maps, maps).any()
    near, far = image.features(a + 0.01), image.features(a.flip(0))
    assert (perceptual_distance(maps, near) < 0.1 * perceptual_distance(maps, far)).all()


@pytest.mark.parametrize("change", [{"widths": [12]}, {"widths": []}, {"projection_dim": 0}])
def test_wrong_image_configs_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        CLIPImageConfig(**change)
