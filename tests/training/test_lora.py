"""Adapters: only they learn, merged equals unmerged, files are peft's, ranks agree."""

from __future__ import annotations

import argparse
import copy

import pytest
import torch
from latent_cache import Z
from lora_cases import CFG, batch, network, three_steps
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.parallel.activation import Fraction, recompute
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.training import lora, lora_command
from stepvideo.training.lora_config import ATTENTION, FEED_FORWARD, LoRAConfig
from stepvideo.training.lora_files import find, merged, write

pytest.importorskip("peft")
LAYERS = len(ATTENTION) + len(FEED_FORWARD)


def train(net, steps=3, lr=3e-2):
    opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        opt.zero_grad()
        net(**batch()).square().mean().backward()
        opt.step()
    return net


@pytest.fixture
def trained():
    net = network()
    lora.apply(net, CFG, seed=3)
    return train(net)


def close(a, b):
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def test_only_adapters_learn_and_start_from_the_network_itself():
    base = network()
    net = copy.deepcopy(base)
    lora.apply(net, CFG, seed=3)
    assert torch.equal(net(**batch()), base(**batch())), "B is zero at first"
    learning = [n for n, p in net.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 2 * LAYERS and all("lora_" in n for n in learning)
    assert net.given == {k for k in net.state_dict() if "lora_" not in k}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train(net)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and moved <= set(learning) and any("lora_A" in k for k in moved)
    assert not close(net(**batch()), base(**batch()))
    with lora.adapters_off(net):
        assert torch.equal(net(**batch()), base(**batch()))
    assert not close(net(**batch()), base(**batch())), "on again"


def test_what_is_recomputed_drops_the_same_inputs():
    grads = []
    for share in (0.0, 1.0):
        net = network()
        lora.apply(net, LoRAConfig(rank=4, dropout=0.5), seed=3)
        recompute(list(net.transformer_blocks), Fraction(share))
        torch.manual_seed(0)
        net(**batch()).square().mean().backward()
        grads.append([p.grad for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    nets = [network() for _ in range(3)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        lora.apply(net, CFG, seed)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (lora.adapters(net)["transformer_blocks.0.attn1.wqkv.lora_A"] for net in nets)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_merged_equals_unmerged(trained):
    wanted = trained(**batch()).detach()
    lora.merge(trained)
    assert set(trained.state_dict()) == set(network().state_dict()) and not hasattr(trained, "given")
    assert close(trained(**batch()), wanted)


def test_hand_over_and_the_command(trained, tmp_path, capsys):
    save_dit(network(), tmp_path / "base", shard_bytes=50_000)
    storage.write_json(tmp_path / "base" / "transformer" / "latent_stats.json", {"mean": [0.5] * Z, "std": [2.0] * Z})
    wanted = trained(**batch()).detach()
    whole = lora.hand_over(trained, CFG, tmp_path / "stage")
    assert close(whole(**batch()), wanted)
    words = [str(tmp_path / "base"), str(tmp_path / "stage" / "lora"), "--out", str(tmp_path / "out")]
    parser = argparse.ArgumentParser()
    lora_command.add_arguments(parser)
    assert lora_command.call(parser.parse_args(words)) == 0
    assert f"{2 * LAYERS} adapted layers" in capsys.readouterr().out
    found = load_dit(tmp_path / "out")
    assert close(found(**batch()), wanted)
    stats = "transformer/latent_stats.json"
    assert storage.read_json(tmp_path / "out" / stats) == storage.read_json(tmp_path / "base" / stats)
    with pytest.raises(ConfigError, match="is not empty"):
        lora_command.call(parser.parse_args(words))
    untouched = network()
    assert lora.hand_over(untouched, LoRAConfig(), tmp_path / "plain") is untouched
    assert not (tmp_path / "plain").exists()


def test_peft_reads_what_we_write_and_we_read_what_peft_writes(trained, tmp_path):
    import peft

    wanted = trained(**batch()).detach()
    write(lora.adapters(trained), CFG, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(network(), str(tmp_path / "ours"))
    assert close(theirs(**batch()), wanted)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    a, b = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    save_dit(network(), tmp_path / "base")
    model, value = merged(tmp_path / "base", tmp_path / "theirs")
    state = {k: value(k, v) for k, v in model.state_dict().items()}
    by_peft = theirs.merge_and_unload().state_dict()
    assert all(close(state[k], by_peft[k]) for k in state)


def test_merging_keeps_the_dtype_and_rslora_its_scale(trained, tmp_path):
    save_dit(network(torch.bfloat16), tmp_path / "base")
    write(lora.adapters(trained), CFG, tmp_path / "adapter")
    model, value = merged(tmp_path / "base", tmp_path / "adapter")
    assert {value(k, v).dtype for k, v in model.state_dict().items()} == {torch.bfloat16}
    assert find(tmp_path / "adapter").scale == 2.0
    config = tmp_path / "adapter" / "adapter_config.json"
    storage.write_json(config, storage.read_json(config) | {"use_rslora": True})
    assert find(tmp_path / "adapter").scale == 4.0


def test_bad_input(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"'attn9\.wq' is no linear layer.*attn1\.wqkv"):
        lora.apply(network(), LoRAConfig(rank=2, targets=["attn9.wq"]), 0)
    with pytest.raises(ConfigError, match=r"parallel\.tensor=2"):
        lora.apply(network(), CFG, 0, tensor=2)
    for bad in ({"rank": -1}, {"alpha": 0.0}, {"dropout": 1.0}, {"rank": 2, "targets": []}):
        with pytest.raises(ConfigError, match=r"lora\."):
            load(LoRAConfig, bad)

    adapter, base = tmp_path / "adapter", tmp_path / "base"
    write(lora.adapters(trained), CFG, adapter)
    save_dit(network(), base)
    good = storage.read_json(adapter / "adapter_config.json")
    for change, match in (
        ({"use_dora": True}, "use_dora=True cannot be merged here"),
        ({"rank_pattern": {"wq": 3}}, "rank_pattern="),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"r": "x"}, "is no LoRA's"),
        ({"r": 3}, "the rank is 3"),
    ):
        storage.write_json(adapter / "adapter_config.json", good | change)
        with pytest.raises(ArtifactError, match=match):
            merged(base, adapter)
    storage.write_json(adapter / "adapter_config.json", good)
    save_dit(network(num_layers=1), tmp_path / "shallow")
    with pytest.raises(ArtifactError, match=r"adapts transformer_blocks\.1\..*which .*shallow lacks"):
        merged(tmp_path / "shallow", adapter)
    save_dit(network(num_attention_heads=4), tmp_path / "wide")
    with pytest.raises(ArtifactError, match=r"adapter makes transformer_blocks\.0.* it is "):
        merged(tmp_path / "wide", adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="no half of a pair"):
        merged(base, adapter)


PLANS = {"zero0": {"zero": 0}, "zero1": {"zero": 1}, "zero3": {"zero": 3}, "full": {"zero": 3, "checkpointing": "full"}}


@pytest.mark.soak
def test_two_ranks_learn_as_one(ranks):
    """FSDP2 with frozen weights beside adapters, and the network without adapters in the same step."""
    alone = three_steps(TrainParallelConfig(zero=0), 1)
    assert alone[0][2] < alone[0][1] < alone[0][0], "they do learn"
    base = network().state_dict()
    still = {k.replace(".base_layer.", "."): v for k, v in alone[2].items() if "lora_" not in k}
    assert still.keys() == base.keys() and all(torch.equal(still[k], base[k]) for k in base)
    for name, plan in (PLANS | {"ulysses": {"ulysses": 2}}).items():
        losses, norms, state = ranks(2, three_steps, TrainParallelConfig(**plan), 2)[0]
        assert losses == pytest.approx(alone[0], rel=1e-5), name
        assert norms == pytest.approx(alone[1], rel=1e-5), name
        assert state.keys() == alone[2].keys()
        for key, tensor in state.items():
            assert close(tensor, alone[2][key]), (name, key)
