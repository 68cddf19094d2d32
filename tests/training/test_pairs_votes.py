"""People's votes in place of simulated ones: the stage takes them, and says what is wrong with a table."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from latent_cache import context
from safetensors.torch import load_file

from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from stepvideo.training import pairs
from stepvideo.training.pairs_votes import check_digest, read_votes

TEXTS = ["a red circle", "一个圆"]
GOOD = {"study": "s", "item": "i1", "prompt": "一个圆", "winner": "p0001-2", "loser": "p0001-0", "votes": [1, 1, -1]}


def table(tmp_path, *rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_a_table_of_votes(tmp_path):
    path = table(tmp_path, {**GOOD, "by": "adjudicated", "simulated": False, "prompt_id": "p0001"}, "", GOOD)
    (n, pair), again = read_votes(path, TEXTS, 3)
    assert n == 1 and pair["winner"] == 2 and pair["loser"] == 0 and pair["margin"] == 1
    assert pair["by"] == "adjudicated" and pair["study"] == "s" and again[1]["votes"] == [1, 1, -1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{torn", "line 2 is no row"),
        ([1], "line 2 is no row"),
        ({k: v for k, v in GOOD.items() if k != "votes"}, "votes"),
        ({**GOOD, "winner": "p0001-7"}, r"winner 'p0001-7' is no sample.*p0000-0 … p0001-2"),
        ({**GOOD, "loser": "p0000-0"}, "two samples of one prompt"),
        ({**GOOD, "loser": "p0001-2"}, "two samples of one prompt"),
        ({**GOOD, "prompt": "一个方块"}, "the study asked '一个方块', this stage's prompt 1 is '一个圆'"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path, row, said):
    with pytest.raises(ArtifactError, match=said):
        read_votes(table(tmp_path, GOOD, row), TEXTS, 3)


def test_a_table_that_is_empty_absent_or_another(tmp_path):
    with pytest.raises(StepVideoError, match="has no pair"):
        read_votes(table(tmp_path), TEXTS, 3)
    path = table(tmp_path, GOOD)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    check_digest("", "")
    check_digest(str(path), digest)
    with pytest.raises(ConfigError, match=f"together; its sha256 is {digest}"):
        check_digest(str(path), "")
    with pytest.raises(ConfigError, match="plan again"):
        check_digest(str(path), "0" * 64)
    with pytest.raises(ConfigError, match="no such file"):
        check_digest(str(tmp_path / "absent"), digest)


class Pipe:
    """Latents that say which sample they are of."""

    @classmethod
    def load(cls, *_):
        return cls()

    def encode_prompts(self, texts):
        return {"encoder_hidden_states": torch.zeros(len(texts), 1, 1)}

    def sample(self, texts, *, indices, **_):
        return type("Done", (), {"latents": torch.tensor(indices).float().view(-1, 1, 1, 1, 1)})

    def decode(self, latents):
        return np.repeat(latents.numpy().astype(np.uint8).reshape(-1, 1, 1, 1, 1), 3, -1).repeat(32, 2).repeat(32, 3)


def test_the_stage_makes_a_study_and_takes_its_votes(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "Pipeline", Pipe)
    inputs = dict.fromkeys(("model", "vae", "text"), tmp_path)
    config = {"prompts": 3, "samples": 2, "guideline_share": 0.5, "batch_size": 4, "runtime": {"device": "cpu"}}
    first = context("pairs", inputs, {**config, "save_videos": True, "tie": 0.0, "flip": 1.0}, tmp_path / "first")
    with pytest.raises(StepVideoError, match="preferred no sample"):  # black pictures: all ties, whatever the tie is
        pairs.run(context("pairs", inputs, {**config, "tie": 1.0}, tmp_path / "ties"))
    monkeypatch.setattr(pairs, "judge", lambda *_: [{"winner": 0, "loser": 1, "votes": [1], "margin": 1}])
    pairs.run(first)
    asked = [json.loads(line) for line in (first.out / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(p.stem for p in (first.out / "videos").iterdir()) == [f"{p['id']}-{k}" for p in asked for k in (0, 1)]

    prompt = asked[2].get("zh") or asked[2]["en"]
    path = table(tmp_path, {**GOOD, "prompt": prompt, "winner": "p0002-1", "loser": "p0002-0", "simulated": False})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config |= {"votes": digest, "runtime": {"device": "cpu", "votes": str(path)}}
    ctx = context("pairs", inputs, config, tmp_path / "second")
    assert pairs.run(ctx)["pairs"] == 1
    made = load_file(ctx.out / "pairs.safetensors")
    assert made["winner"].item() == 5 and made["loser"].item() == 4
    row = json.loads((ctx.out / "pairs.jsonl").read_text())
    assert row["study"] == "s" and row["item"] == "i1" and row["simulated"] is False and row["prompt"] == prompt
    assert (ctx.out / "votes.jsonl").read_bytes() == path.read_bytes()
