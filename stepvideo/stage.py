"""A stage: a function from (typed config, input artifacts) to (output artifact, metrics).

`KINDS` names every kind of stage by strings, so that planning and `--help` import nothing heavy. The environment
variable `STEPVIDEO_KINDS` adds kinds of one's own, in the driver and in its jobs:
"name=module:function,module:ConfigClass; …".
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import artifact, storage
from stepvideo.config import StageConfig, load, result_part
from stepvideo.errors import ConfigError
from stepvideo.sink import NullSink, Sink


@dataclass(frozen=True)
class Kind:
    """Where a kind's function and its config dataclass live ("module:attribute"), and what it is for."""

    run: str
    config: str
    help: str


KINDS: dict[str, Kind] = {
    "raw": Kind("stepvideo.curation.raw:run", "stepvideo.curation.config:RawConfig", "index raw videos and images"),
    "render": Kind("stepvideo.world.stage:run", "stepvideo.world.config:RenderConfig", "render world clips to mp4"),
    "curate": Kind("stepvideo.curation.stage:run", "stepvideo.curation.config:CurateConfig", "cut, tag, caption clips"),
    "tags": Kind("stepvideo.curation.tagging:run", "stepvideo.curation.tagging_config:TaggingConfig", "tag clips"),
    "concepts": Kind(
        "stepvideo.curation.concepts:run", "stepvideo.curation.concepts_config:ConceptsConfig", "clusters of clips"
    ),
    "captions": Kind(
        "stepvideo.curation.captioning.stage:run", "stepvideo.curation.captioning.config:CaptionsConfig", "word clips"
    ),
    "labels": Kind(
        "stepvideo.curation.labelling.stage:run", "stepvideo.curation.labelling.config:LabelsConfig", "people's labels"
    ),
    "shards": Kind("stepvideo.data.tar_stage:run", "stepvideo.data.tar_shards_config:TarShardsConfig", "tars of clips"),
    "subsets": Kind("stepvideo.curation.subsets:run", "stepvideo.curation.config:SubsetsConfig", "six nested subsets"),
    "sheet": Kind("stepvideo.curation.sheet:run", "stepvideo.curation.sheet_config:SheetConfig", "a page of clips"),
    "text": Kind("stepvideo.training.text:run", "stepvideo.training.config:TextConfig", "train the text encoders"),
    "vae": Kind("stepvideo.training.vae:run", "stepvideo.training.config:VAETrainConfig", "train the Video-VAE"),
    "shipped": Kind("stepvideo.training.shipped:run", "stepvideo.training.config:ShippedConfig", "weights in the repo"),
    "given": Kind("stepvideo.training.given:run", "stepvideo.training.config:GivenConfig", "weights from a folder"),
    "latents": Kind("stepvideo.data.latents:run", "stepvideo.data.config:LatentsConfig", "cache latents, embeddings"),
    "train": Kind("stepvideo.training.train:run", "stepvideo.training.config:TrainConfig", "train the DiT"),
    "produce": Kind("stepvideo.training.produce:run", "stepvideo.training.config:ProduceConfig", "encode and send"),
    "average": Kind("stepvideo.training.average:run", "stepvideo.training.config:AverageConfig", "average models"),
    "pairs": Kind("stepvideo.training.pairs:run", "stepvideo.training.dpo_config:PairsConfig", "sample, judge pairs"),
    "dpo": Kind("stepvideo.training.dpo:run", "stepvideo.training.dpo_config:DPOConfig", "Video-DPO"),
    "reward": Kind("stepvideo.training.reward:run", "stepvideo.training.dpo_config:RewardConfig", "train on votes"),
    "ranked": Kind("stepvideo.training.ranked:run", "stepvideo.training.dpo_config:RankedConfig", "pairs by reward"),
    "couplings": Kind("stepvideo.training.couplings:run", "stepvideo.training.config:CouplingsConfig", "2-RF pairs"),
    "turbo": Kind("stepvideo.training.turbo:run", "stepvideo.training.config:TurboConfig", "2-rectified flow"),
    "evaluate": Kind("stepvideo.evaluation.stage:run", "stepvideo.evaluation.config:EvaluateConfig", "score a model"),
    "report": Kind("stepvideo.evaluation.report:run", "stepvideo.evaluation.config:ReportConfig", "tables, HTML page"),
}


def resolve(path: str) -> Any:
    """The object named "module:attribute"."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def kind(name: str) -> Kind:
    known = KINDS | _plugins()
    if name not in known:
        raise ConfigError(f"unknown kind of stage {name!r}; known: {', '.join(known)}")
    return known[name]


def _plugins() -> dict[str, Kind]:
    kinds = {}
    for entry in filter(None, (e.strip() for e in os.environ.get("STEPVIDEO_KINDS", "").split(";"))):
        name, _, paths = entry.partition("=")
        run, _, config = (p.strip() for p in paths.partition(","))
        if ":" not in run or ":" not in config:
            raise ConfigError(f"STEPVIDEO_KINDS: {entry!r} is not name=module:function,module:ConfigClass")
        kinds[name.strip()] = Kind(run, config, "from STEPVIDEO_KINDS")
    return kinds


@dataclass
class InputRef:
    """One input of a stage: which artifact, by name, key and content digest."""

    stage: str
    key: str
    digest: str


@dataclass
class StageSpec:
    """All that a job needs; written to `spec.json` in the stage directory, read by `python -m stepvideo.job`."""

    stage: str
    kind: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, InputRef]
    store: str
    fingerprint: str
    lineage: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        storage.write_json(path, {"schema": artifact.SCHEMA, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> StageSpec:
        data = artifact.read_versioned(path)
        del data["schema"]
        try:
            return cls(**{**data, "inputs": {k: InputRef(**v) for k, v in data["inputs"].items()}})
        except (KeyError, TypeError) as e:
            raise ConfigError(f"{path} is not a stage spec: {e}") from e

    def typed_config(self) -> StageConfig:
        return load(resolve(kind(self.kind).config), self.config, self.stage)

    def hashed(self) -> dict[str, Any]:
        """What the key is a digest of."""
        return {
            "kind": self.kind,
            "config": result_part(self.config),
            "inputs": {role: ref.digest for role, ref in self.inputs.items()},
            "code": self.fingerprint,
        }


@dataclass
class StageContext:
    """What a running stage sees. `out` is empty and becomes the artifact; `work` survives a killed attempt.

    Rank 0 makes `out`: the others write there only after a first barrier with it.

    Attributes:
        shared: kept results that serve other keys, too; whoever writes there names them by all that they depend on.
        share: (i, n): as element i of a job array, do every n-th part, make no artifact, and raise `Shared`.
        expected: path in `out` → sha256 that the file must turn out to have, or the stage fails.
        stage, key: whose run this is, for who watches.
    """

    config: Any
    inputs: dict[str, Path]
    out: Path
    work: Path
    sink: Sink = field(default_factory=NullSink)
    rank: int = 0
    world_size: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    shared: Path | None = None
    share: tuple[int, int] | None = None
    expected: dict[str, str] = field(default_factory=dict)
    stage: str = "stage"
    key: str = ""

    def should_stop(self) -> bool:
        """True once a preemption signal came: save to `work` at the next boundary and raise `Preempted`."""
        return self.stop.is_set()


RunFn = Callable[[StageContext], dict[str, float]]
