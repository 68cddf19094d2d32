"""emulate search on the stages of a cascade: a plan each, a file that runs take, what would help if nothing fits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import search
from flows.compose import ROOT, compose
from flows.graph import build
from flows.search import Asked, run
from stepvideo.cli import main
from stepvideo.config import load
from stepvideo.emulator.parallel_file import runtime
from stepvideo.emulator.plan import Plan
from stepvideo.errors import ConfigError
from stepvideo.training.config import TrainConfig
from tasks.prefect_server import temporary_server

FINE = ["profile=30b", "tracking=none"]
STAGE = "t2vi_540.s5"


@pytest.fixture(scope="module")
def fine() -> dict:
    return compose(FINE)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's conf, where a search may write."""
    shutil.copytree(search.CONF, tmp_path / "conf")
    monkeypatch.setattr(search, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


def asked(**more) -> Asked:
    return Asked(overrides=FINE, stages=[STAGE], gpu="H800", **more)


def test_the_written_file_is_what_the_stage_runs_with(conf: Path, fine: dict) -> None:
    found = run(asked(write="h800"), fine)
    best = found["stages"][STAGE]["choices"][0]
    before = {n.name: n.config for n in build(fine)}
    after = {n.name: n.config for n in build(compose([*FINE, "parallel=h800"], conf))}
    cfg = load(TrainConfig, after[STAGE])
    par = cfg.runtime.parallel
    assert (par.tensor, par.ulysses, par.zero) == (best["tensor"], best["context"], best["zero"])
    assert round(par.checkpoint_fraction * 48) == round(best["recompute"] * 48) and par.compile
    assert (
        cfg.runtime.nproc == 2000
        and cfg.runtime.accumulate * cfg.balance.packs // best["data"] == best["micro_batches"]
    )
    changed = {n for n in before if before[n] != after[n]}
    assert changed == {STAGE}
    before[STAGE].pop("runtime")
    after[STAGE].pop("runtime")
    assert before == after
    text = (conf / "parallel" / "h800.yaml").read_text()
    assert "--stage=t2vi_540.s5" in text and "prior for H800" in text and "estimated" in text


def test_pipeline_stages_are_reported_and_never_written(conf: Path, tmp_path: Path, fine: dict) -> None:
    slow = {"bf16_tflops": 989, "memory_gb": 80, "memory_gbs": 3350, "intra_gbs": 100, "inter_gbs": 0.5, "source": "-"}
    (tmp_path / "mine.yaml").write_text(json.dumps({"Slow": slow}))  # links between nodes on which ZeRO does not pay
    there = {"overrides": FINE, "stages": [STAGE], "gpu": "Slow", "hardware": str(tmp_path / "mine.yaml")}
    found = run(Asked(**there), fine)
    assert all(c["pipeline"] == 1 for c in found["stages"][STAGE]["choices"])
    assert found["stages"][STAGE]["of_any"]["pipeline"] > 1
    assert "our trainer has no pipeline stages" in found["text"][0]
    with pytest.raises(ConfigError, match="no pipeline stages"):
        run(Asked(**there, any=True, write="any"), fine)
    assert not (conf / "parallel" / "any.yaml").exists()


def test_where_nothing_fits_it_says_by_how_much_and_what_would(tmp_path: Path, fine: dict) -> None:
    tiny = {"bf16_tflops": 100, "memory_gb": 12, "memory_gbs": 1000, "intra_gbs": 50, "inter_gbs": 25, "source": "here"}
    (tmp_path / "mine.yaml").write_text(json.dumps({"Tiny": tiny}))
    more = {"gpu": "Tiny", "hardware": str(tmp_path / "mine.yaml")}
    found = run(Asked(overrides=FINE, stages=[STAGE], **more), fine)
    assert not found["ok"] and not found["stages"][STAGE]["choices"]
    assert found["stages"][STAGE]["over_bytes"] > 0
    text = found["text"][0]
    assert "nothing fits: the most frugal plan needs" in text and "would fit with H800: " in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"stages": ["t2vi_541"]}, "did you mean t2vi_540"),
        ({"gpu": "H8000"}, "H800"),
        ({"write": "../x"}, "give a name"),
        ({"write": "none"}, "other than none"),
    ],
)
def test_mistakes_are_named(conf: Path, fine: dict, more: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(Asked(**({"overrides": FINE, "stages": [STAGE], "gpu": "H800"} | more)), fine)


def test_a_plan_as_settings_of_a_stage() -> None:
    made = runtime(Plan(tensor=2, context=4, data=8, zero=3, micro_batches=4, micro_batch=2, recompute=0.5), packs=16)
    assert made["nproc"] == 64 and made["accumulate"] == 2
    assert made["parallel"]["checkpointing"] == "fraction" and made["parallel"]["checkpoint_fraction"] == 0.5
    with pytest.raises(ConfigError, match="cannot be dealt"):
        runtime(Plan(data=8, micro_batches=3), packs=12)


def test_trials_are_compared_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """From the command line; the second command finds the trials of the first."""
    few = [*FINE, f"work={tmp_path}", "stages.latents.lengths=[68]", f"only.{STAGE}.balance.packs=8"]
    few += [f"only.{STAGE}.runtime.nproc=64"]
    told = []
    for trials in ("8", "24"):
        line = ["emulate", "search", *few, f"--stage={STAGE}", "--gpu=H800", f"--trials={trials}", "--json"]
        assert main(line) == 0
        told.append(json.loads(capsys.readouterr().out)["trials"][STAGE])
    assert [t["before"] for t in told] == [0, 8] and told[1]["trials"] == 24
    assert told[1]["best"]["mfu"] >= told[1]["warm"] > 0
    assert told[1]["exact"] >= told[1]["best"]["mfu"] * (1 - 1e-9)
    assert set(told[1]["compared"]) == {"ours", "random", "random_neighbours"}
    assert Path(told[1]["page"]).exists() and told[1]["verdict"]


@pytest.mark.soak
def test_as_a_flow_the_plans_are_in_prefects_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    few = ["profile=30b", "tracking=local", "tracking.mlflow=false", f"work={tmp_path}", "stages.latents.lengths=[68]"]
    line = [sys.executable, "-m", "stepvideo.cli", "emulate", "search", *few, f"--stage={STAGE}", "--gpu=H800"]
    with temporary_server(tmp_path / "server.log") as wait_until_up:
        wait_until_up()
        done = subprocess.run([*line, "--trials=4"], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        url = os.environ["PREFECT_API_URL"]
        runs, tasks, kept = (
            httpx.post(f"{url}/{n}/filter", json={}).json() for n in ("flow_runs", "task_runs", "artifacts")
        )
    assert [(r["name"], r["state"]["name"]) for r in runs] == [("search", "Completed")]
    assert {t["name"]: t["state"]["name"] for t in tasks} == dict.fromkeys(
        (f"search {STAGE}", f"trials {STAGE}"), "Completed"
    )
    assert {a["key"] for a in kept} == {"plans-t2vi-540-s5", "search-parallelism"}
    assert "exact optimum" in done.stdout
