"""Compose the config once, in the driver; from here on a resolved plain dict travels.

Hydra's compose API is a process-wide singleton and its config store too, hence the lock. The schema is made from the
dataclasses of the driver and of every stage of the graph, so that a wrong key or type is an error with its name.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import pickle
import re
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flows.config import CascadeConfig
from stepvideo.config import Runtime, load, structure
from stepvideo.errors import ConfigError
from stepvideo.stage import kind, resolve
from stepvideo.storage import is_remote

ROOT = Path(__file__).resolve().parent.parent
_LOCK = threading.Lock()
_PATHS = ("store", "work", "data", "raw", "labels")


def compose(overrides: list[str] | None = None, conf: Path | None = None) -> dict[str, Any]:
    """The resolved config of a cascade: `CascadeConfig` as a plain dict, paths absolute.

    Args:
        overrides: Hydra overrides, "key=value" or "group=choice".
        conf: folder with `config.yaml`; the repository's own by default.

    Raises:
        ConfigError: an unknown key or group, a wrong type, a value that a dataclass refuses; names it and near misses.
    """
    overrides = list(overrides or [])
    folder = (conf or ROOT / "conf").absolute()
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}/config.yaml is missing; run from a checkout of the repository")
    for o in overrides:
        if "=" not in o and not o.startswith("~"):
            raise ConfigError(f"cannot read {o!r}; settings are written key=value, for example stages.sft.steps=50")
    with _LOCK:
        cfg = _compose(overrides, folder)
    _check_names(cfg)
    driver = {name: value for name, value in cfg.items() if name not in ("stages", "only")}  # those: flows.graph.build
    load(CascadeConfig, driver)  # values; types were checked by Hydra
    for name in _PATHS:
        if is_remote(cfg[name]) and name != "raw":
            raise ConfigError(f"{name}={cfg[name]}: give a folder, local or shared; `stepvideo data` copies to a URL")
        if cfg[name] and not is_remote(cfg[name]):
            cfg[name] = str(Path(cfg[name]).expanduser().absolute())
    if not cfg["tracking"]["mlflow_uri"]:
        cfg["tracking"]["mlflow_uri"] = f"sqlite:///{cfg['work']}/mlflow.db"
    return cfg


def graph_module(name: str) -> Any:
    """The module that has `STAGES` (config name: kind) and `rows(cfg)`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise ConfigError(f"graph={name}: {e}") from e


def _compose(overrides: list[str], folder: Path) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigNode, ConfigStore
    from hydra.errors import HydraException

    OmegaConf.register_new_resolver("root", lambda path: str(ROOT / path), replace=True)
    graph = chosen(overrides, "graph", CascadeConfig.graph)
    table = graph_module(graph)
    versioned = OmegaConf.to_yaml(table.defaults(data_folder(overrides))) if hasattr(table, "defaults") else ""
    schema, pickled = _schema(graph, tuple((name, kind(k).config) for name, k in table.STAGES.items()), versioned)
    store = ConfigStore.instance()
    store.repo["schema.yaml"] = ConfigNode("schema.yaml", cast("Any", _Pickled(pickled)), None, None, None)
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]  # Hydra copies all that it has for no use
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            cfg = hydra_compose("config", overrides=overrides)
        return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as e:
        raise ConfigError(_explain(e, schema)) from e
    except ValueError as e:  # Hydra's own, of a group that is given a number or nothing
        groups = {p.name for p in folder.iterdir() if p.is_dir()}
        told = [(o, *o.split("=", 1)) for o in overrides if o.partition("=")[0] in {"", *groups}]
        given = [o for o, group, name in told if not (folder / group / f"{name}.yaml").exists()]
        raise ConfigError(f"cannot read {' '.join(given) or ' '.join(overrides)}: {e}; a group takes a name") from e


def chosen(overrides: list[str], key: str, default: str) -> str:
    """The value that `overrides` give `key`, before anything is composed."""
    values = [o.partition("=")[2] for o in overrides if o.startswith(f"{key}=")]
    return values[-1] if values else default


def data_folder(overrides: list[str]) -> Path:
    return Path(chosen(overrides, "data", str(ROOT / "data"))).expanduser().absolute()


@functools.lru_cache(maxsize=8)
def _schema(graph: str, stages: tuple[tuple[str, str], ...], versioned: str) -> tuple[DictConfig, bytes]:
    """The driver's config with every stage's config below it, not to be changed; their seeds and runtimes follow the
    top-level ones.

    Args:
        stages: (name, "module:class" of its config).
        versioned: settings of stages that are versioned with the data, a graph's `defaults(data folder)`, as YAML.
    """
    schema = copy.deepcopy(structure(CascadeConfig))
    schema.graph = graph
    given = cast("DictConfig", OmegaConf.create(versioned or "{}"))
    for name, config in stages:
        stage = _stage(resolve(config))
        schema.stages[name] = OmegaConf.merge(stage, given[name]) if name in given else stage
    slurm = schema.cluster.slurm
    for names in (
        schema.only,
        slurm.stages,
        slurm.extra,
    ):  # checked by flows.graph.build, tasks.slurm_config and sbatch
        OmegaConf.set_struct(names, False)
    return schema, pickle.dumps(schema)


class _Pickled:
    """A config in Hydra's store, which gives out deep copies: they take three times as long as to unpickle it."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    def __deepcopy__(self, memo: Any) -> Any:
        return pickle.loads(self.pickled)


@functools.cache
def _stage(config: type) -> DictConfig:
    """The schema of one kind of stage, not to be changed."""
    stage = copy.deepcopy(structure(config))
    stage.seed = "${seed}"
    for f in fields(Runtime):
        stage.runtime[f.name] = f"${{runtime.{f.name}}}"
    return stage


def _check_names(cfg: dict[str, Any]) -> None:
    known = graph_module(cfg["graph"]).STAGES
    for name in cfg["stages"]:
        if name not in known:
            raise ConfigError(f"unknown stage stages.{name}{near(name, known)}")
        if not isinstance(cfg["stages"][name], dict):
            raise ConfigError(f"stages.{name} is {cfg['stages'][name]!r}; set its fields: stages.{name}.seed=1")


def near(name: str, known: Any) -> str:
    """A hint: near misses of `name`, or all that is known."""
    found = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(found)}?" if found else f"; known: {', '.join(known)}"


def _explain(error: Exception, schema: DictConfig) -> str:
    """One line of Hydra's error, with the near misses of an unknown key."""
    text = str(error)
    cause = error.__cause__
    if absent := re.search(r"Environment variable '(\w+)' not found", text):
        return (
            f"{absent.group(1)} is not set, and the settings refer to it; for a team's servers: source "
            "runs/team/team.env, which `stepvideo team start` writes (docs/team.md), or take tracking=local"
        )
    if unknown := re.search(r"Could not override '([\w.@-]+)'", text):
        key = unknown.group(1)
        *parents, last = key.split(".")
        parent = OmegaConf.select(schema, ".".join(parents)) if parents else schema
        while parents and not isinstance(parent, DictConfig):
            last = parents.pop()
            parent = OmegaConf.select(schema, ".".join(parents)) if parents else schema
        return f"unknown key {'.'.join([*parents, last])}{near(last, parent)}"
    lines = [ln.strip() for ln in text.splitlines() if ln.strip()]
    if (override := getattr(error, "override", "")) and not lines[0].startswith("Error parsing"):
        return f"cannot read {override!r}: {lines[0]}; write key=value, a list as 'key=[1,2]', odd text in quotes"
    if cause is not None and str(cause):
        return f"{lines[0]}: {str(cause).splitlines()[0]}"
    if "Could not find" in text:  # lists the choices, then search paths that help nobody
        choices = [ln for ln in lines[1:] if not ln.startswith(("Config search", "provider=", "Available"))]
        return f"{lines[0]}; available: {', '.join(choices)}" if choices else lines[0]
    return lines[0]
