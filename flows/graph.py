"""The cascade as data: rows of a table become nodes with their configs, in an order in which they can run."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.compose import graph_module, near
from stepvideo.config import load, plain
from stepvideo.errors import ConfigError
from stepvideo.stage import kind, resolve


@dataclass(frozen=True)
class Row:
    """One stage of a cascade as its table says it."""

    name: str  # unique; the folder in the store
    kind: str
    inputs: Mapping[str, str] = field(default_factory=dict)  # role: name of the row it comes from
    config: str = ""  # key in `stages`; several rows may share one; empty: the name
    set: Mapping[str, Any] = field(default_factory=dict)  # fields that the table itself fixes
    final: bool = False  # the model of this row is the one that is registered
    lineage: bool = False  # its config's field `lineage` gets the keys and digests of all that it comes from


@dataclass(frozen=True)
class Node:
    """A stage to run: its whole config, and where its inputs come from."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]
    final: bool = False
    lineage: bool = False


def build(cfg: Mapping[str, Any], until: str | None = None) -> list[Node]:
    """Every node of `cfg`'s graph, or those that `until` needs and itself, inputs before users.

    A node's config is `stages.<config>`, then what the table sets, then `only.<name>`.

    Raises:
        ConfigError: an unknown stage or key, a value its dataclass refuses, an input that no row gives, a circle.
    """
    rows: list[Row] = list(graph_module(cfg["graph"]).rows(cfg))
    names = [r.name for r in rows]
    only = _leaves(cfg.get("only") or {}, names)
    nodes = {r.name: _node(r, cfg["stages"], only.get(r.name, {}), names) for r in rows}
    if len(nodes) != len(rows):
        raise ConfigError(f"graph {cfg['graph']}: two rows of one name in {names}")
    ordered = _ordered(nodes)
    return ordered if until is None else prefix(ordered, until)


def prefix(nodes: list[Node], until: str) -> list[Node]:
    """Those of `nodes` that the stage `until` needs, and itself; "sft" stands for sft.1, sft.2, … if there is no sft"""
    names = [n.name for n in nodes]
    wanted = {until} if until in names else {n for n in names if n.startswith(f"{until}.")}
    if not wanted:
        raise ConfigError(f"no stage {until!r}{near(until, [n.name for n in nodes])}")
    for n in reversed(nodes):
        if n.name in wanted:
            wanted |= set(n.inputs.values())
    return [n for n in nodes if n.name in wanted]


def _node(row: Row, stages: Mapping[str, Any], only: Mapping[str, Any], names: list[str]) -> Node:
    key = row.config or row.name
    if key not in stages:
        raise ConfigError(f"stage {row.name}: no config stages.{key}{near(key, stages)}")
    for role, source in row.inputs.items():
        if source not in names:
            raise ConfigError(f"stage {row.name}: its input {role} comes from {source!r}{near(source, names)}")
    data = _merged(_merged(stages[key], row.set), only)
    config = json.loads(_whole(resolve(kind(row.kind).config), json.dumps(data), f"stages.{key}"))
    return Node(row.name, row.kind, config, dict(row.inputs), row.final, row.lineage)


@functools.lru_cache(1000)
def _whole(config: type, data: str, where: str) -> str:
    """The checked config of a node, as JSON: a graph is built several times a command, and OmegaConf takes its time."""
    return json.dumps(plain(load(config, json.loads(data), where)))


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _leaves(tree: Mapping[Any, Any], names: Iterable[str]) -> dict[str, Any]:
    """`only` as {node name: changes}: the path to a node is its name cut at the dots."""
    found: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if path in names and isinstance(node, Mapping):
            below = {k: v for k, v in node.items() if f"{path}.{k}" in names}  # dpo and dpo.2 are both names
            found[path] = _merged(found.get(path, {}), {k: v for k, v in node.items() if k not in below})
            for key, child in below.items():
                walk(child, f"{path}.{key}")
        elif path in names:
            found[path] = node
        elif isinstance(node, Mapping) and any(n.startswith(f"{path}.") for n in names):
            for key, child in node.items():
                walk(child, f"{path}.{key}")
        else:
            raise ConfigError(f"unknown stage only.{path}{near(path, names)}")

    for key, child in tree.items():
        walk(child, str(key))
    return found


def _ordered(nodes: Mapping[str, Node]) -> list[Node]:
    """Topological, stable: among those that are ready the table's order holds."""
    done: dict[str, Node] = {}
    while len(done) < len(nodes):
        ready = [n for n in nodes.values() if n.name not in done and all(s in done for s in n.inputs.values())]
        if not ready:
            raise ConfigError(f"the graph has a circle among {', '.join(n for n in nodes if n not in done)}")
        done[ready[0].name] = ready[0]
    return list(done.values())
