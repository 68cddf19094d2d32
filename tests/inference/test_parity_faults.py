"""`stepvideo parity` can fail: each fault of a golden folder gets its verdict and exit code, beside whole results of
the other cases."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepvideo.errors import ArtifactError
from stepvideo.inference.parity import command
from stepvideo.inference.parity.compare import BAD_INPUT, MISS, NOT_COMPARED, OK, REPORTED

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DIT, VAE, PIPE, KEYS = "dit_t2v_b_patch2", "vae_a", "pipe_t2v_a", "official_30b_keys"
BESIDE = {PIPE: ("dit_t2v_a",)}

Break = Callable[[Path, str], None]  # of a folder and a case in it


def config(change: Callable[[dict[str, Any]], Any]) -> Break:
    def edit(folder: Path, case: str) -> None:
        path = folder / f"{case}.json"
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return edit


def tensors(which: str, change: Callable[[dict[str, Tensor]], Any]) -> Break:
    def edit(folder: Path, case: str) -> None:
        path = folder / f"{case}.{which}.safetensors"
        held = {k: v.clone() for k, v in load_file(path).items()}
        change(held)
        save_file(held, path)

    return edit


def truncated(ending: str) -> Break:
    def edit(folder: Path, case: str) -> None:
        path = folder / f"{case}.{ending}"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return edit


def removed(ending: str) -> Break:
    return lambda folder, case: (folder / f"{case}.{ending}").unlink()


FAULTS: dict[str, tuple[str, Break, str, str]] = {
    "perturbed weight": (
        DIT,
        tensors("weights", lambda t: t["transformer_blocks.1.ff.net.2.weight"].mul_(1.01)),
        MISS,
        "",
    ),
    "wrong expected output": (DIT, tensors("io", lambda t: t["out.x"][0, 0, 0, 0].add_(1e-3)), MISS, ""),
    "expected output not a number": (DIT, tensors("io", lambda t: t["out.x"].fill_(torch.nan)), MISS, ""),
    "other guidance": (PIPE, config(lambda j: j.update(guidance_scale=8.9)), MISS, ""),
    "other rope split": (DIT, config(lambda j: j.update(rope_ch_split=[8, 8, 16])), MISS, ""),
    "other table": ("sched_tables", config(lambda j: j["combos"][3].update(reverse=False)), MISS, ""),
    "a name that the network lacks": (KEYS, config(lambda j: j["dit_ti2v"]["keys"].append(["x", [1]])), MISS, "x"),
    "other parameter count": (KEYS, config(lambda j: j["video_vae_v1"].update(param_count=258828194)), MISS, ""),
    "unknown kind": (DIT, config(lambda j: j.update(kind="dit_t2v_v9")), NOT_COMPARED, "'dit_t2v_v9'"),
    "no kind": (DIT, config(lambda j: j.pop("kind")), NOT_COMPARED, "kind None in dit_t2v_b_patch2.json"),
    "unknown network": (KEYS, config(lambda j: j.update(upscaler=j["dit_t2v"])), NOT_COMPARED, "no network of that"),
    "extra output": (
        DIT,
        tensors("io", lambda t: t.update({"out.y": t["out.x"].clone()})),
        NOT_COMPARED,
        "no comparison for it",
    ),
    "extra tap": (
        VAE,
        tensors("io", lambda t: t.update({"out.tap_enc_new": t["out.latent_img"].clone()})),
        NOT_COMPARED,
        "no comparison for it",
    ),
    "unknown key": (DIT, config(lambda j: j.update(qk_norm="none")), NOT_COMPARED, "key of the json that this version"),
    "unknown key of an entry": (
        "sched_tables",
        config(lambda j: j["combos"][0].update(solver="heun")),
        NOT_COMPARED,
        "solver not understood",
    ),
    "unknown input": (
        DIT,
        tensors("io", lambda t: t.update({"in.fps": torch.ones(1)})),
        NOT_COMPARED,
        "input that this version",
    ),
    "unknown norm": (DIT, config(lambda j: j.update(norm_type="layer_norm")), NOT_COMPARED, "norm_type='layer_norm'"),
    "truncated tensors": (DIT, truncated("io.safetensors"), BAD_INPUT, f"{DIT}.io.safetensors is damaged"),
    "truncated json": (DIT, truncated("json"), BAD_INPUT, f"{DIT}.json cannot be read"),
    "truncated weights": (VAE, truncated("weights.safetensors"), BAD_INPUT, f"{VAE}.weights.safetensors is damaged"),
    "no weights": (DIT, removed("weights.safetensors"), BAD_INPUT, f"{DIT}.weights.safetensors is missing"),
    "no tensors": (DIT, removed("io.safetensors"), BAD_INPUT, f"{DIT}.io.safetensors is missing"),
    "no json": (DIT, removed("json"), BAD_INPUT, f"{DIT}.json is missing"),
    "no weights of a run": (PIPE, config(lambda j: j.update(weights_from="gone")), BAD_INPUT, "gone.json is missing"),
    "weights of another width": (
        DIT,
        config(lambda j: j.update(num_attention_heads=4)),
        BAD_INPUT,
        f"{DIT}.weights.safetensors is \\[64\\], the config makes it \\[128\\]",
    ),
    "listed output is absent": (
        DIT,
        config(lambda j: j["outputs"].update(z={"shape": [1]})),
        BAD_INPUT,
        f"{DIT}.json lists outputs z",
    ),
    "missing key": (PIPE, config(lambda j: j.pop("steps")), BAD_INPUT, "lacks 'steps'"),
    "impossible config": (VAE, config(lambda j: j.update(z_channels=5)), BAD_INPUT, "dual_path_ch=160"),
    "wrong latent length": (VAE, config(lambda j: j.update(latent_len=5)), BAD_INPUT, "latent_len=5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_finds(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, spoil, verdict, message = FAULTS[fault]
    for path in GOLDEN.iterdir():
        if path.name.split(".")[0] in (case, "rope3d", *BESIDE.get(case, ())):
            shutil.copy(path, tmp_path / path.name)
    spoil(tmp_path, case)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([str(tmp_path), "--json"])
    if verdict == BAD_INPUT:  # the command line prints the message and exits 2
        with pytest.raises(ArtifactError, match=message):
            command.call(args)
    else:
        assert command.call(args) == 1
    found = json.loads(capsys.readouterr().out)
    wrong = [row for row in found["rows"] if row["verdict"] not in (OK, REPORTED)]
    assert not found["passed"] and found["totals"][verdict] == len(wrong) > 0
    assert {(row["case"], row["verdict"]) for row in wrong} == {(case, verdict)}
    assert message.replace("\\", "") in wrong[0]["note"]
    assert {row["case"] for row in found["rows"]} >= {"rope3d", case}
