"""The need of disk, said before a run; a run that cannot fit does not start."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.compose import compose
from flows.forecast import BOUND, GUESS, KIND, LAST, LAW, PAPERS, STATE, forecast
from flows.forecast_laws import FILES, Laws
from flows.graph import Node, build
from stepvideo.config import load
from stepvideo.emulator.networks import dit_network
from stepvideo.models.config import DiTConfig
from tasks.keeping_items import size

Usage = namedtuple("Usage", "total used free")


def of(mini, *overrides: str):
    cfg = compose(mini.args(*overrides))
    return forecast(cfg, build(cfg))


def test_former_artifacts_say_it_and_hits_need_nothing(mini) -> None:
    mini.run("stages.fit.fill=3000000")
    assert of(mini, "stages.fit.fill=3000000").needs == []
    needs = {n.stage: n for n in of(mini, "stages.fit.lr=0.2").needs}
    fit = next(a for a in mini.store.artifacts() if a.manifest["stage"] == "fit")
    assert set(needs) == {"fit", "score"} and needs["fit"].basis == LAST  # score's key is not known yet
    assert needs["fit"].bytes == size(fit.dir) > 3e6
    code, out, _ = mini.cli("plan", *mini.args("stages.fit.lr=0.2"))
    assert code == 0 and "disk: about 3" in out and "2 from its last artifact" in out
    code, out, _ = mini.cli("plan", "--json", *mini.args("stages.fit.lr=0.2"))
    rows = {r["stage"]: r for r in json.loads(out)}
    assert rows["fit"]["disk"]["bytes"] == needs["fit"].bytes and "disk" not in rows["noise"]


def test_what_cannot_fit_is_refused_before_it_starts_and_a_quota_counts_what_is_there(mini, monkeypatch) -> None:
    mini.run("stages.fit.fill=3000000")
    error = mini.fails("stages.fit.lr=0.3", "store_quota_gb=0.004")
    assert "of store_quota_gb (4 MB) are taken" in error
    assert "give 0 for none" in mini.fails("store_quota_gb=-1")
    assert of(mini, "stages.fit.lr=0.3", "store_quota_gb=1").problem == ""
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, 2_000_000))
    error = mini.fails("stages.fit.lr=0.2")
    assert (
        "needs about 3" in error and "2 MB are free" in error and "`stepvideo gc`" in error and "store_force" in error
    )
    assert len(list(mini.store.root.glob("_runs/*/run.json"))) == 1 and not list(mini.store.root.glob("fit/*/work"))
    assert "it cannot run" in mini.cli("plan", *mini.args("stages.fit.lr=0.2"))[1]
    assert mini.ran("stages.fit.lr=0.2", "store_force=true") == ["fit", "score"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[Node]]:
    folder = tmp_path_factory.mktemp("smoke")
    cfg = compose(["profile=smoke", f"store={folder / 'none'}", f"work={folder}", f"data={folder}"])
    return cfg, build(cfg)


def test_without_former_ones_networks_are_counted(smoke, monkeypatch) -> None:
    cfg, nodes = smoke
    monkeypatch.setattr("flows.forecast.fingerprints", lambda nodes: {n.kind: "code" for n in nodes})
    said = forecast(cfg, nodes)
    found = {n.stage: n for n in said.needs}
    dit = next(n.config["dit"] for n in nodes if n.name == "t2i")
    parameters = dit_network(load(DiTConfig, dit)).parameters
    for name in ("t2i", "dpo", "turbo", "average"):  # all have the network that T2I has
        assert found[name].basis == LAW and found[name].bytes == pytest.approx(4 * parameters + PAPERS)
        assert found[name].work == 2 * STATE * parameters
    assert {found[n].basis for n in ("world", "vae1", "text")} == {LAW} and not Path(cfg["store"]).exists()
    assert found["latents"].basis == BOUND  # how many clips there will be is not known yet
    assert found["pairs"].basis == GUESS and "disk: at least" in said.line()
    assert KIND not in {n.basis for n in found.values()}


def test_laws_give_what_a_run_of_smoke_has_made(smoke) -> None:
    """Bytes of its files, as tests/integration/test_smoke.py finds them again."""
    nodes = {n.name: n for n in smoke[1]}
    made: Any = SimpleNamespace(metrics={"clips": 172.0, "frames": 172.0, "images": 32.0})
    laws = Laws(nodes.values(), {"curate": made})
    assert laws.counts.rows == 376 and not laws.is_bound(nodes["latents"])
    for name, real in (("vae1", 861_286), ("vae2", 1_086_923), ("text", 528_648)):
        assert laws.of(nodes[name]) == pytest.approx(real + FILES, rel=0.03), name
    cached = nodes["latents"]
    moments = laws.latents(replace(cached, config={**cached.config, "kinds": []})) - FILES - 250 * 376
    assert moments == pytest.approx(26_200 + 58_840 + 66_136 + 148_696, rel=0.01)
    text = laws.latents(cached) - moments - FILES - 250 * 376
    assert text / (376 * 6) == pytest.approx(4_803_296 / 1_343, rel=0.1)  # of a caption; equal ones are kept once
    assert laws.latents(replace(cached, config={**cached.config, "on_the_fly": True})) < laws.latents(cached)
