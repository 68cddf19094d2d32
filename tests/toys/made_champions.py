"""A store and a registry with evaluated models of given skills, made without any run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import toy_champion
from made_runs import film
from memory_registry import MemoryRegistry

from flows.promote import registry_of
from flows.promote_evidence import Evidence, judge
from stepvideo import storage
from stepvideo.artifact import Artifact, Store, content_digest
from stepvideo.evaluation.champion import Rules
from stepvideo.world.attributes import NAMES
from tasks.registry import Registry, Version, register

MODEL = "stepvideo-t2v"


class Made:
    """Versions 1, 2, … with skills. `uri`: of MLflow; "": the registry is in memory. `films`: prompts with a video."""

    def __init__(self, folder: Path, uri: str, *skills: float, films: int = 0) -> None:
        self.store, self.films = Store(folder / "store"), films
        self.memory = None if uri else MemoryRegistry(folder / "kept", MODEL)
        tracking = {"mlflow": True, "mlflow_uri": uri, "experiment": "stepvideo", "model_name": MODEL}
        self.config: dict[str, Any] = {"tracking": tracking, "work": str(folder / "work")}
        about = {"id": "r", "state": "done", "started": 1.0, "config": self.config, "overrides": []}
        storage.write_json(self.store.root / "_runs" / "r" / "run.json", about)
        for number, skill in enumerate(skills, 1):
            self.add(number, skill)

    @property
    def registry(self) -> Registry:
        """As a new process has it."""
        return self.memory or registry_of(self.config)

    def add(self, number: int, skill: float) -> Version:
        model = self._artifact("fit", number, "toy-skilled", {}, skill)
        inputs = {"model": {"stage": "fit", "key": model.manifest["key"], "digest": model.digest}}
        self._artifact("evaluate.fit", number, "evaluate", inputs, skill)
        if self.memory:
            return self.registry.version(self.memory.add(model))
        server = self.registry.server
        run = "" if server.uri.startswith("sqlite") else server.client.create_run(server.experiment_id).info.run_id
        return self.registry.version(register(server, MODEL, model, run, {}))

    def evidence(self, challenger: int, champion: int = 1, **rules: Any) -> Evidence:
        sides = []
        for number in (challenger, champion):
            found = [self.store.find(stage, f"{number:016d}") for stage in ("fit", "evaluate.fit")]
            assert found[0] and found[1]
            sides.append((self.registry.version(number), *found))
        return judge(self.store, sides[0], sides[1], Rules(**rules))

    def _artifact(self, stage: str, number: int, kind: str, inputs: dict[str, Any], skill: float) -> Artifact:
        directory = self.store.dir(stage, f"{number:016d}")
        skills = dict.fromkeys(NAMES, skill)
        if kind == "evaluate":
            rows = toy_champion.scores(skills, toy_champion.asked(60), number)
            for i in range(self.films):
                rows[i] = replace(rows[i], sample=f"samples/main/{i:04d}.mp4")
                film(directory / "out" / rows[i].sample, 100 * number + i)
            toy_champion.write(directory / "out", rows)
        else:
            storage.write_json(directory / "out" / "model.json", {**skills, "number": number})
        files = storage.checksums(directory / "out")
        manifest = {"stage": stage, "key": directory.name, "kind": kind, "files": files, "inputs": inputs}
        manifest |= {"digest": content_digest(files), "finished": time.time(), "fingerprint": "f"}
        manifest |= {"config": {"skill": skill}, "lineage": {"command": f"stepvideo run number={number}"}}
        storage.write_json(directory / "manifest.json", manifest)
        return Artifact(directory, manifest)
