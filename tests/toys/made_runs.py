"""A store of finished runs as the cascade leaves them, written by hand: manifests, events, evaluations with videos.

raw → captions → subsets → sft.1 (train) → evaluate.sft.1. What two runs share has one key, as in a real store.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.artifact import Artifact, Store, content_digest, key_of
from stepvideo.config import result_part
from stepvideo.data.video_io import write_video
from stepvideo.evaluation.results import ATTRIBUTES, Row, write_rows

FPS, FRAMES, SIDE, BITS = 10, 20, 64, 5
CURATION = {"languages": ["zh", "en"]}
TRAINING = {"optim": {"lr": 0.1, "name": "muon"}, "subset": "sft_1", "media": "videos", "images": "", "steps": 40}


class MadeRuns:
    """`run(...)` adds a run; stages whose key is there already are its hits."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.at = ["--store", str(self.store.root)]
        self._started = 1_790_000_000.0

    def run(
        self,
        name: str,
        lr: float = 0.1,
        languages: tuple[str, ...] = ("zh", "en"),
        better: int = 0,
        evaluated: bool = True,
        state: str = "done",
        data_md5: str = "aa.dir",
        **more: Any,
    ) -> str:
        """A run whose model has everything right in 20 + `better` of 60 prompts; returns its id."""
        self._started += 1000
        self._cached: dict[str, bool] = {}
        self._lineage = {
            "run": name,
            "git_sha": "c0ffee" * 6,
            "git_dirty": "",
            "data_md5": data_md5,
            "command": "stepvideo run",
        }
        raw = self.artifact("raw", "raw", {"content": data_md5}, {}, {"index.json": data_md5}, data_md5=data_md5)
        captions = self.artifact(
            "captions", "captions", {"languages": list(languages)}, {"raw": raw}, {"t": str(languages)}
        )
        training = {**TRAINING, "optim": {**TRAINING["optim"], "lr": lr}}
        sft = self.artifact("sft.1", "train", training, {"captions": captions}, {"model": f"{lr} {languages}"}, lr=lr)
        made = [raw, captions, sft]
        if evaluated:
            made.append(self._evaluation(sft, better))
        stages = {
            a.manifest["stage"]: {
                "key": a.manifest["key"],
                "state": "complete",
                "digest": a.digest,
                "cached": self._cached[a.manifest["stage"]],
                "metrics": a.metrics,
            }
            for a in made
        }
        config = {"name": "made", "store": str(self.store.root), "tracking": {"mlflow": False}, "seed": 0}
        config |= {"stages": {"captions": {"languages": list(languages)}, "sft": {**training, "seed": 0}}, **more}
        nodes = [{"name": n, "kind": "", "inputs": {}} for n in ("raw", "captions", "sft.1", "evaluate.sft.1")]
        about = {
            "id": name,
            "state": state,
            "pid": 1,
            "host": "h",
            "started": self._started,
            "ended": self._started + 9,
        }
        about |= {"config": config, "overrides": [f"lr={lr}"], "until": None, "nodes": nodes, "stages": stages}
        storage.write_json(self.store.root / "_runs" / name / "run.json", {**about, "tracking": {}})
        return name

    def artifact(
        self, stage: str, kind: str, config: dict, inputs: dict[str, Artifact], files: dict[str, str], **of: Any
    ) -> Artifact:
        """One that is there already is left as it is."""
        config = {**config, "runtime": {"nproc": 2}, "seed": 0}
        refs = {
            r: {"stage": a.manifest["stage"], "key": a.manifest["key"], "digest": a.digest} for r, a in inputs.items()
        }
        hashed = {"kind": kind, "config": result_part(config), "inputs": {r: v["digest"] for r, v in refs.items()}}
        key = key_of({**hashed, "code": "f00d", "of": of.get("model", "")})
        directory = self.store.dir(stage, key)
        self._cached[stage] = (directory / "manifest.json").exists()
        if not self._cached[stage]:
            for name, text in files.items():
                storage.write_atomic(directory / "out" / name, text)
            self._finish(directory, stage, kind, key, config, refs, of)
        found = self.store.find(stage, key)
        assert found is not None
        return found

    def _finish(self, directory: Path, stage: str, kind: str, key: str, config: dict, refs: dict, of: dict) -> None:
        if lr := of.get("lr"):
            rows = [
                {"type": "metrics", "step": s, "time": 1.0, "values": {"loss": 1 / (1 + lr * s), "lr": lr}}
                for s in range(41)
            ]
            rows.insert(5, {"type": "metrics", "step": 40, "time": 0.5, "values": {"loss": 9.0}})  # of a killed attempt
            storage.write_atomic(directory / "events.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
        attempts = [{"started": 0.0, "ended": 3.0, "exit": -9}, {"started": 4.0, "ended": 14.0, "exit": 0}]
        storage.write_json(directory / "ledger.json", {"attempts": attempts})
        files = storage.checksums(directory / "out")
        spec = {"stage": stage, "kind": kind, "key": key, "config": config, "inputs": refs}
        storage.write_json(
            directory / "spec.json", spec | {"store": str(self.store.root), "fingerprint": "f00d", "lineage": {}}
        )
        about = {
            "schema": 1,
            "stage": stage,
            "kind": kind,
            "key": key,
            "config": config,
            "inputs": refs,
            "files": files,
        }
        about |= {
            "fingerprint": "f00d",
            "digest": content_digest(files),
            "metrics": of.get("metrics", {"loss": of.get("lr", 0.0)}),
        }
        about |= {"lineage": self._lineage, "environment": {"host": "h"}, "started": 4.0, "finished": 14.0}
        storage.write_json(directory / "manifest.json", about)

    def _evaluation(self, model: Artifact, better: int) -> Artifact:
        """60 prompts; the prompt decides which are hard, so that two models can be paired."""
        rows = [sample(i, i < 20 + better) for i in range(60)]
        config = {"n_train": 60, "better": better}
        refs = {"model": model}
        made = self.artifact(
            "evaluate.sft.1", "evaluate", config, refs, {"note": str(better)}, metrics={"train/all": (20 + better) / 60}
        )
        if not (made.out / "results.jsonl").exists():
            write_rows(made.out / "results.jsonl", rows)
            sampling = {
                "steps": 4,
                "cfg": 1.0,
                "time_shift": 1.0,
                "cfg_schedule": "constant",
                "frames": FRAMES,
                "height": SIDE,
                "width": SIDE,
            }
            runs = {"main": {"sampling": sampling, "nfe": 4, "splits": {}}}
            storage.write_json(made.out / "summary.json", {"runs": runs, "fps": FPS, "gate": {}, "prompt_seed": 1})
            for row in rows:
                if row.sample:
                    film(made.out / row.sample, better * 100 + row.index)
            files = storage.checksums(made.out)
            manifest = {**made.manifest, "files": files, "digest": content_digest(files)}
            storage.write_json(made.dir / "manifest.json", manifest)
            made = Artifact(made.dir, manifest)
        return made


def sample(i: int, good: bool, kept: int = 3) -> Row:
    right: dict[str, bool | None] = {a: good for a in ATTRIBUTES}
    right["shape"] = None  # untestable
    attrs = {"colour": "red", "shape": "square", "direction": "left", "size": "large", "count": 1}
    soft = dict.fromkeys(attrs, 0.9 if good else 0.1)
    path = f"samples/main/{i:04d}.mp4" if i < kept else ""
    return Row("main", i, f"a red square <{i}>", "en", i >= 30, attrs, 1, 4, 4, right, {}, soft, 0.5, path)


def film(path: Path, seed: int) -> None:
    """Every frame carries its number in its lowest rows, as bits."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 255, (FRAMES, 1, 1, 3)).repeat(SIDE, 1).repeat(SIDE, 2).astype(np.uint8)
    for frame in range(FRAMES):
        bits = [255 * (frame >> b & 1) for b in range(BITS)]
        video[frame, -16:, : 12 * BITS] = np.repeat(bits, 12)[None, :, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, video, FPS)
