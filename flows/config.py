"""The driver's own config: what is chosen once for a whole cascade (torch-free).

The configs of the stages live beside the stages; `flows.compose` puts them under `stages`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo.config import Runtime
from tasks.slurm_config import SlurmConfig

LAUNCHERS = ("debug", "local", "submitit-local", "slurm")
WEIGHTS = {"text": ("train", "shipped"), "vae": ("train", "shipped", "tune"), "dit": ("train",)}


@dataclass
class ClusterConfig:
    """Where and how jobs run."""

    launcher: str = "local"  # debug | local | submitit-local | slurm
    concurrency: int = 1  # stages at a time, where the graph allows it
    snapshot: bool = True  # jobs run a copy of the code as it was when the driver started
    gpu: str = ""  # what predictions are for: a name of stepvideo/emulator/hardware.yaml; empty: this machine
    grace_s: float = 30.0  # from the request to stop until SIGKILL, when the flow is cancelled
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # of launcher=slurm

    def __post_init__(self) -> None:
        if self.launcher not in LAUNCHERS:
            raise ValueError(f"cluster.launcher is {self.launcher!r}; give one of {', '.join(LAUNCHERS)}")
        if self.concurrency < 1:
            raise ValueError(f"cluster.concurrency is {self.concurrency}; give 1 or more")
        if self.launcher == "debug" and self.concurrency > 1:
            raise ValueError(f"cluster.concurrency is {self.concurrency}; cluster=debug has one process: give 1")


@dataclass
class TrackingConfig:
    """Which servers are told."""

    mlflow: bool = True
    mlflow_uri: str = ""  # empty: SQLite, <work>/mlflow.db
    experiment: str = "stepvideo"
    model_name: str = "stepvideo-t2v"  # in MLflow's registry
    prefect: bool = True
    prefect_url: str = ""  # empty: PREFECT_API_URL if it is set, else a server of the run's own
    mirror: str = ""  # s3://BUCKET/FOLDER that artifacts are copied to as well, and taken from; empty: none

    def __post_init__(self) -> None:
        for name in ("mlflow_uri", "prefect_url", "mirror"):
            if "@" in getattr(self, name).partition("://")[2].partition("/")[0]:
                raise ValueError(
                    f"tracking.{name} has a user or a password in it, and configs are kept with every run; instead set "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PREFECT_API_AUTH_STRING, or "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
                )
        if self.mirror and not self.mirror.startswith("s3://"):
            raise ValueError(f"tracking.mirror is {self.mirror!r}; give s3://BUCKET/FOLDER, or nothing")


@dataclass
class WeightsConfig:
    """Train each part of the model, take the small weights that this repository ships, or tune those; or the folder of
    a model in the released layout, whose part is taken as it is (the VAE, the text encoders) or trained on (the DiT).
    """

    text: str = "train"  # train | shipped
    vae: str = "train"  # train | shipped | tune: the shipped one, trained further on this run's clips
    dit: str = "train"

    def __post_init__(self) -> None:
        for name, known in WEIGHTS.items():
            value = getattr(self, name)
            if value not in known and not Path(value).is_dir():
                raise ValueError(f"weights.{name} is {value!r}; give one of {', '.join(known)}, or a model's folder")


@dataclass
class CascadeConfig:
    """Everything; relative paths are relative to the current folder, the defaults to the project's."""

    name: str = "bare"  # of the profile
    seed: int = 0  # of every stage that has none of its own
    store: str = "${root:runs/store}"  # artifacts
    work: str = "${root:runs}"  # tracking databases
    data: str = "${root:data}"  # raw clips, versioned by data.dvc
    raw: str = ""  # one more folder of raw videos
    labels: str = ""  # what people said of clips, by `stepvideo label import`: SFT sets take approved ones
    graph: str = "flows.table"  # module with `STAGES` and `rows(cfg)`
    t2i_sets: int = 1  # data sets that T2I trains on, one after the other: images, then the better images_2
    shards: bool = False  # the curation also packs its clips into WebDataset tars
    sft_runs: int = 2  # fine-tuned models that are averaged
    on_policy_rounds: int = 0  # of preference training on the policy's own samples, ranked by a reward model
    store_quota_gb: float = 0.0  # a run that would fill the store beyond this is refused; 0: the disk alone decides
    store_force: bool = False  # start a run even if it is not expected to fit
    gate: bool = True  # stop when the catalog fails its expectations
    register: bool = True  # the last model goes to MLflow's registry as `candidate`
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    runtime: Runtime = field(default_factory=Runtime)  # of every stage that has none of its own
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    stages: dict[str, Any] = field(default_factory=dict)  # name: config of its kind
    only: dict[str, Any] = field(default_factory=dict)  # changes for one of several: only.t2vi_540.s6.steps=9

    def __post_init__(self) -> None:
        if self.t2i_sets not in (1, 2):
            raise ValueError(f"t2i_sets is {self.t2i_sets}; give 1 or 2")
        if self.store_quota_gb < 0:
            raise ValueError(f"store_quota_gb is {self.store_quota_gb}; give 0 for none, or GB (1e9 bytes)")
        if self.sft_runs < 1:
            raise ValueError(f"sft_runs is {self.sft_runs}; give 1 or more")
        if self.on_policy_rounds < 0:
            raise ValueError(f"on_policy_rounds is {self.on_policy_rounds}; give 0 or more")
