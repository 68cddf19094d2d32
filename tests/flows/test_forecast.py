"""The need of disk, said before a run; a run that cannot fit does not start."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest

from flows.compose import compose
from flows.forecast import GUESS, KIND, LAST, LAW, PAPERS, STATE, forecast
from flows.graph import build
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


def test_what_cannot_fit_is_refused_before_it_starts(mini, monkeypatch) -> None:
    mini.run("stages.fit.fill=3000000")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, 2_000_000))
    error = mini.fails("stages.fit.lr=0.2")
    assert (
        "needs about 3" in error and "2 MB are free" in error and "`stepvideo gc`" in error and "store_force" in error
    )
    assert len(list(mini.store.root.glob("_runs/*/run.json"))) == 1 and not list(mini.store.root.glob("fit/*/work"))
    assert "it cannot run" in mini.cli("plan", *mini.args("stages.fit.lr=0.2"))[1]
    assert mini.ran("stages.fit.lr=0.2", "store_force=true") == ["fit", "score"]


def test_a_quota_counts_what_is_there(mini) -> None:
    mini.run("stages.fit.fill=3000000")
    error = mini.fails("stages.fit.lr=0.3", "store_quota_gb=0.004")
    assert "of store_quota_gb (4 MB) are taken" in error
    assert "give 0 for none" in mini.fails("store_quota_gb=-1")
    assert mini.ran("stages.fit.lr=0.3", "store_quota_gb=1") == ["fit", "score"]


def test_without_former_ones_networks_are_counted(tmp_path) -> None:
    cfg = compose(["profile=smoke", f"store={tmp_path / 'none'}", f"work={tmp_path}", f"data={tmp_path}"])
    nodes = build(cfg)
    found = {n.stage: n for n in forecast(cfg, nodes).needs}
    dit = next(n.config["dit"] for n in nodes if n.name == "t2i")
    from stepvideo.config import load

    parameters = dit_network(load(DiTConfig, dit)).parameters
    for name in ("t2i", "dpo", "turbo", "average"):  # all have the network that T2I has
        assert found[name].basis == LAW and found[name].bytes == pytest.approx(4 * parameters + PAPERS)
        assert found[name].work == 2 * STATE * parameters
    assert found["world"].basis == LAW and found["text"].basis == GUESS and not (tmp_path / "none").exists()
    assert "disk: at least" in forecast(cfg, nodes).line()
    assert KIND not in {n.basis for n in found.values()}
