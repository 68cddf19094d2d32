"""Every kind of training at toy size, as jobs that are killed with -9 and run again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rank_pool
import torch
from latent_cache import DIT, TRAIN, WIDTH, Z, fake_cache
from safetensors.torch import load_file, save_file

from stepvideo import job, storage
from stepvideo.config import dump, load
from stepvideo.data.draw import rng
from stepvideo.data.video_io import write_video
from stepvideo.fingerprint import fingerprint
from stepvideo.sink import read_events
from stepvideo.stage import InputRef, StageSpec, kind, resolve

CLIPS, STEPS, EVERY = 20, 12, 4
ENVIRONMENT = {"OMP_NUM_THREADS": "1", job.EXPECT_CODE: "1"}  # someone may edit the code while tests run
RUNTIME = {"checkpoint_every": EVERY, "log_every": 1, "threads": 1, "device": "cpu"}
DIT_TRAIN = {**TRAIN, "steps": STEPS, "runtime": RUNTIME}
ALIGN = {"steps": STEPS, "batch_size": 4, "precision": "32-true", "runtime": RUNTIME}
STAGES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {  # name: kind, inputs, config
    "text": (
        "text",
        ("curate", "subsets"),
        {
            "clip_text": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
            | {"max_position_embeddings": 48, "projection_dim": 8},
            "clip_image": {"widths": [8, 8, 8, 8], "projection_dim": 8},
            "step_llm": {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "num_attention_groups": 1}
            | {"ffn_hidden_size": 32},
            "llm_vocab": 60,
            "image_size": 32,
            **{"clip_steps": STEPS // 2, "llm_steps": STEPS // 2, "clip_batch": 8, "llm_batch": 8},
            "runtime": RUNTIME,
        },
    ),
    "vae": (
        "vae",
        ("curate", "subsets"),
        {
            "vae": {"enc_ch": 4, "dec_ch": 4, "num_groups": 1, "z_channels": 4, "dual_path": False}
            | {"enc_ch_mult": [1, 1, 1, 1], "dec_ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
            "discriminator": {"ch": 4, "ch_mult": [1, 1], "num_groups": 1},
            **{"steps": STEPS, "batch_size": 2, "sizes": [32, 16], "lengths": [9], "images_per_clip": 2},
            **{"gan": 0.5, "gan_from": 1, "precision": "32-true"},
            "optim": {"name": "muon", "lr": 1e-3, "ema": 0.9},
            "runtime": RUNTIME,
        },
    ),
    "t2i": ("train", ("latents", "subsets"), {**DIT_TRAIN, "media": "images"}),
    "t2vi": (
        "train",
        ("latents", "subsets", "init"),
        {
            **DIT_TRAIN,
            "media": "joint",
            "balance": {"packs": 4, "batch_size": 2, "video_to_image": 2.0},
            "snapshots": 3,
        },
    ),
    "sft": ("train", ("latents", "subsets", "init"), {**DIT_TRAIN, "media": "videos", "subset": "sft_1"}),
    "lora": (
        "train",
        ("latents", "subsets", "init"),
        {**DIT_TRAIN, "media": "videos", "subset": "sft_1", "lora": {"rank": 2, "dropout": 0.1}},  # dropout draws
    ),
    "dpo": ("dpo", ("init", "pairs"), {**ALIGN, "optim": {"lr": 1e-3, "warmup": 2}}),
    "reward": ("reward", ("init", "pairs"), {**ALIGN, "held_out": 0.5, "optim": {"lr": 1e-3, "warmup": 2}}),  # dropout
    "turbo": ("turbo", ("init", "couplings", "latents"), {**ALIGN, "sampling": {"steps": 1, "cfg": 1.0}}),
}


def make_inputs(folder: Path) -> Path:
    """What the stages read: curate, subsets, latents (four buckets), init, pairs, couplings."""
    draw = torch.Generator().manual_seed(0)
    _curate(folder / "curate")
    fake_cache(folder / "latents", lengths=(17, 34), low=("32x32", "32x48"))
    (folder / "subsets").mkdir()
    for name, count in (("s1", CLIPS), ("images", 0), ("sft_1", 6)):
        pq.write_table(pa.table({"clip_id": [f"{i:032x}" for i in range(count)]}), folder / f"subsets/{name}.parquet")
    _init(folder / "init", folder / "latents")
    x0 = torch.randn(8, 3, Z, 2, 2, generator=draw)
    text = {
        "encoder_hidden_states": torch.randn(8, 4, WIDTH, generator=draw),
        "encoder_hidden_states_2": torch.randn(8, 5, WIDTH, generator=draw),
        "encoder_attention_mask": torch.ones(8, 9, dtype=torch.int64),
    }
    for name, tensors in (
        ("pairs", {"winner": x0 + 1, "loser": x0.clone(), **text}),
        ("couplings", {"x0": x0, "x1": 0.3 * x0 + 1, "caption": torch.arange(8)}),
    ):
        (folder / name).mkdir()
        save_file(tensors, folder / name / f"{name}.safetensors")
    rows = ({"prompt": f"prompt {i}", "votes": [1, 1, -1 if i % 3 else 0]} for i in range(8))
    storage.write_atomic(folder / "pairs/pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _curate(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = []
    for i in range(CLIPS):
        video = rng(0, "clip", i).integers(0, 256, (17, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(folder / f"{i}.mp4", video, 8)
        colour, way = ("red", "blue", "green", "black")[i % 4], ("left", "right", "up", "down", "round")[i % 5]
        captions = f'{{"short": {{"en": ["a {colour} thing goes {way}", "{way} goes something {colour}"]}}}}'
        row = {"clip_id": f"{i:032x}", "kind": "clip", "file": f"{i}.mp4", "first_frame": 0, "frames": 17, "fps": 8.0}
        row |= {"height": 32, "width": 32, "crop": None, "captions": captions, "caption_source": "sidecar"}
        rows.append(row | {"attributes": None})
    pq.write_table(pa.Table.from_pylist(rows), folder / "catalog.parquet")


def _init(folder: Path, latents: Path) -> None:
    from stepvideo.models.config import DiTConfig
    from stepvideo.models.dit import DiT
    from stepvideo.training.flow import save_model

    dit = DiT(load(DiTConfig, DIT))
    dit.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():  # gates that are zero would hide much
        for p in dit.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    save_model(dit, folder, latents, None, None)


def prepare(name: str, inputs: Path, store: Path, optim: dict[str, Any] | None = None, **runtime: Any) -> Path:
    """The directory of a stage that can be run; `runtime` overrides what does not change the result."""
    kind_name, roles, config = STAGES[name]
    if optim:
        config = {**config, "optim": optim}
    for role in roles:
        target = store / role / "k" / "out"
        if not target.exists():
            target.parent.mkdir(parents=True)
            target.symlink_to(inputs / role)
    typed = load(resolve(kind(kind_name).config), {**config, "runtime": {**RUNTIME, **runtime}}, name)
    refs = {role: InputRef(role, "k", "d") for role in roles}
    code = fingerprint(kind(kind_name).run.split(":")[0])
    directory = store / name / "key"
    StageSpec(name, kind_name, "key", dump(typed), refs, str(store), code).write(directory / "spec.json")
    return directory


class Attempt(Protocol):
    """A running job."""

    def __init__(self, directory: Path) -> None: ...

    def kill(self) -> None: ...

    def ended(self) -> bool: ...

    def codes(self) -> list[int]: ...


class Command:
    """`python -m stepvideo.job DIRECTORY`."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "stepvideo.job", str(directory)]
        self.process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT})

    def kill(self) -> None:
        self.process.kill()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def codes(self) -> list[int]:
        return [self.process.wait(300)]


class Forks:
    """The same in processes that find everything imported, as many as the job has ranks."""

    def __init__(self, directory: Path) -> None:
        ranks = StageSpec.read(directory / "spec.json").config["runtime"]["nproc"]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1]), "WORLD_SIZE": str(ranks)}
        places = [{**place, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(ranks)] if ranks > 1 else [{}]
        self._pool = rank_pool.shared()
        pids = [self._pool.start({**p, **ENVIRONMENT}, job.main, directory) for p in places]
        self._codes: dict[int, int | None] = dict.fromkeys(pids)

    def kill(self) -> None:
        for pid, code in zip(list(self._codes), self._look(), strict=True):
            if code is None:
                with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                    os.kill(pid, signal.SIGKILL)

    def ended(self) -> bool:
        return any(code is not None for code in self._look())

    def codes(self) -> list[int]:
        until = time.monotonic() + 300
        while None in (codes := self._look()) and time.monotonic() < until:
            time.sleep(0.005)
        return [1 if code is None else code for code in codes]

    def _look(self) -> list[int | None]:
        for pid, code in self._codes.items():
            if code is None:
                self._codes[pid] = self._pool.exit_code(pid)
        return list(self._codes.values())


def torchrun(directory: Path, ranks: int) -> int:
    """What `torchrun --standalone` does, with ranks that are forks; the worst exit code."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(1, 1, ranks, **place, start_method="fork", monitor_interval=0.1)
    return max(elastic_launch(config, job.main)(directory).values())


def kill_after(directory: Path, rows: int, run: type[Attempt]) -> None:
    """Start a job and kill -9 it once it has logged `rows` steps."""
    before, attempt = len(attempts(directory)), run(directory)
    while len(now := attempts(directory)) == before or now[-1] < rows:
        assert not attempt.ended(), f"{directory} ended before it had logged {rows} steps: {attempt.codes()}"
        time.sleep(0.002)
    attempt.kill()
    assert set(attempt.codes()) == {-signal.SIGKILL}


def attempts(directory: Path) -> list[int]:
    """How many steps each attempt logged."""
    found: list[int] = []
    for record in read_events(directory / "events.jsonl")[0]:
        if record.get("name") == "attempt_started":
            found.append(0)
        if record["type"] == "metrics" and "grad_norm" in record["values"]:
            found[-1] += 1
    return found


def killed(directory: Path, kills: int, seed: int, run: type[Attempt] = Forks) -> dict[str, Any]:
    """Run a job that is killed `kills` times, at steps drawn from `seed`, and then ends; its files.

    A single kill comes once there is a checkpoint; of several, some may come before.
    """
    first = 1 if kills > 1 else 2 * EVERY + 1
    cuts = rng(seed, "kills", directory.parent.name).permutation(np.arange(first, STEPS - 1))[:kills]
    for before, after in pairwise([0, *sorted(map(int, cuts))]):
        kill_after(directory, after - before, run)
    files = finished(directory, run)
    assert kills > 1 or attempts(directory)[-1] < STEPS, "it began anew"
    return files


def finished(directory: Path, run: type[Attempt] = Forks) -> dict[str, Any]:
    """Run a job to its end; its files by checksum."""
    codes = run(directory).codes()
    assert set(codes) == {0}, f"{directory}: exit codes {codes}"
    return storage.checksums(directory / "out")


def reshard(inputs: Path, folder: Path, before: dict[str, int], after: dict[str, int], ranks: int = 4) -> None:
    """T2VI killed on so many ranks and continued on half of them ends as on all of them undisturbed, to 1e-5."""
    plain = {"name": "adamw", "lr": 3e-3, "ema": 0.8}  # Muon's bfloat16 makes 1e-3 of a step of a sum's last bits
    whole = prepare("t2vi", inputs, folder / "whole", plain, nproc=ranks, parallel=before)
    finished(whole)
    directory = prepare("t2vi", inputs, folder / "killed", plain, nproc=ranks, parallel=before)
    kill_after(directory, 2 * EVERY + 1, Forks)
    prepare("t2vi", inputs, folder / "killed", plain, nproc=ranks // 2, parallel=after)
    finished(directory)
    assert attempts(directory)[-1] < STEPS, "it began anew"
    a, b = (load_file(d / "out/transformer/diffusion_pytorch_model.safetensors") for d in (whole, directory))
    for name in a:
        assert (a[name] - b[name]).norm() <= 1e-5 * a[name].norm(), name
