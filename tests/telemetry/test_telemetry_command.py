"""`stepvideo telemetry`: for people, as JSON, and what it says of mistakes; the Grafana dashboard's queries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_training import Fault, Made, write_run

from stepvideo.cli import main
from stepvideo.telemetry.command import GRAFANA, shares_of
from stepvideo.telemetry.views import open_views

RUN = Made(ranks=8, steps=60, tensor=2, run="sft/ab12", stage="sft", faults=(Fault((5,), 1.2, "backward"),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("store")
    write_run(where / "_telemetry", RUN)
    return where


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["telemetry", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_summary_slow_and_data_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "summary", store, "--predicted", "0.2")
    assert (said["run"], said["first"], said["last"], said["ranks"], said["nodes"]) == ("sft/ab12", 1, 60, 8, 1)
    assert said["speed"]["measured_over_predicted"] == pytest.approx(said["speed"]["step_s"] / 0.2, rel=0.02)
    assert {"step", "forward", "backward"} <= {r["section"] for r in said["breakdown"]}
    slow = answer(capsys, "slow", store / "_telemetry", "--run", "sft")
    assert [(s["kind"], s["ranks"], s["section"]) for s in slow] == [("group", [4, 5], "backward")]
    data = answer(capsys, "data", store, "--shares", "1x256x256=1,17x256x256=3")
    assert {r["bucket"]: r["expected"] for r in data["mix"]}["17x256x256"] == 0.75
    found = answer(capsys, "anomalies", store)
    assert found[0]["kind"] == "slow_group" and found[0]["where"]["nodes"] == ["training0"]


def test_layout_of_a_job_that_did_not_tell_its_own(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = answer(capsys, "slow", store, "--tensor", 1)
    assert {(s["kind"], *s["ranks"]) for s in slow} == {("rank", 4), ("rank", 5)}


def test_for_people(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, words in (
        ("summary", ["8 ranks on 1 nodes", "backward", "waits for others", "measured/predicted"]),
        ("slow", ["group 2 (ranks 4 to 5) on training0", "backward", "1 to 60"]),
        ("data", ["films", "image", "17x192x320", "came again within an epoch"]),
        ("anomalies", ["warning slow_group: group 2"]),
    ):
        assert main(["telemetry", what, str(store)]) == 0
        said = capsys.readouterr().out
        assert [w for w in words if w not in said] == []


def test_the_page_is_written_where_it_is_asked_for(store: Path, tmp_path: Path) -> None:
    assert main(["telemetry", "page", str(store), "--out", str(tmp_path / "a.html")]) == 0
    text = (tmp_path / "a.html").read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and '"run":"sft/ab12"' in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slow", "nowhere"], "no telemetry in Parquet"),
        (["summary", "{store}", "--run", "vae"], "there are: sft/ab12"),
        (["summary", "{store}", "--stage", "vae"], "has no stage 'vae'; it has: sft"),
        (["data", "{store}", "--shares", "1x256x256"], "give BUCKET=SHARE"),
        (["data", "{store}", "--shares", "1x1x1=-1"], "must not be negative"),
        (["slow", "{store}", "--tensor", "-2"], "layout.tensor=-2"),
    ],
)
def test_mistakes_are_told(store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["telemetry", *(a.format(store=store) for a in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_file_is_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, Made(ranks=2, steps=2))
    part = next((tmp_path / "parquet" / "span").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-40])
    assert main(["telemetry", "summary", str(tmp_path)]) == 2
    assert part.name in capsys.readouterr().err


def test_watch_tells_what_is_new_until_interrupted(store: Path) -> None:
    command = [sys.executable, "-m", "stepvideo.cli", "telemetry", "anomalies", str(store), "--watch", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, "--every", "0.2"], stdout=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout
        first = json.loads(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 130
    assert first["kind"] == "slow_group" and first["where"]["ranks"] == [4, 5]


def test_shares() -> None:
    assert shares_of("") is None
    assert shares_of("1x256x256=0.3, 17x192x320=0.7") == {"1x256x256": 0.3, "17x192x320": 0.7}


def test_dashboard_of_grafana(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its structure, and that its queries answer: on DuckDB, whose dialect shares with ClickHouse's what they use."""
    assert main(["telemetry", "grafana"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert board == json.loads(GRAFANA.read_text())
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert set(variables) == {"source", "run", "stage"}
    corners = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len({p["id"] for p in board["panels"]}) == len(set(corners)) == len(board["panels"])
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])
    with open_views(store / "_telemetry") as views:
        views.sql("CREATE SCHEMA database")
        for table in ("span", "counter", "sample"):
            views.sql(f"CREATE VIEW database.{table} AS SELECT * FROM main.every_{table}")
        views.sql("USE database")
        for name in ("run", "stage"):
            query = variables[name]["query"].replace("${run}", RUN.run)
            assert views.sql(query) == [(getattr(RUN, name),)]
        rows = {}
        for panel in board["panels"]:
            query = panel["targets"][0]["rawSql"].replace("${run}", RUN.run).replace("${stage}", RUN.stage)
            assert "${" not in query
            rows[panel["title"]] = views.sql(query)
    assert {len(rows[t]) for t in ("Seconds of a step", "Measured and predicted", "Tokens a second")} == {60}
    assert {r[0] for r in rows["Slow ranks"][:2]} == {4, 5} and rows["Slow ranks"][0][2] == "backward"
    assert sum(r[1] for r in rows["Samples by source"]) == 60 * 4 * 4
