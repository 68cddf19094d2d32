"""MLflow that fails before or after every few calls: in the end it knows what it would know undisturbed, once.

And what a run that no server hears does: it ends, says so, and does not wait for ever.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tasks import patient
from tasks.tracking import Server

FIT = "stages.fit.steps=40"
TABLES = {
    "runs": "select name, status from runs order by name",
    "metrics": "select r.name, m.key, m.step, count(*) from metrics m join runs r using (run_uuid) group by 1, 2, 3",
    "params": "select r.name, p.key from params p join runs r using (run_uuid) order by 1, 2",
    "inputs": "select count(*) from inputs",
}


class Flaky:
    """A client that raises instead of a call, or after it: the answer was lost."""

    def __init__(self, client: Any, draw: random.Random) -> None:
        self._client, self._draw = client, draw

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            mood = self._draw.random()
            if mood < 0.1:
                raise ConnectionError("nobody answers")
            answer = getattr(self._client, name)(*args, **more)
            if mood > 0.9:
                raise ConnectionError("the answer was lost")
            return answer

        return call


def known(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    with sqlite3.connect(database) as db:
        tables = {name: db.execute(query).fetchall() for name, query in TABLES.items()}
    tables["runs"] = [(name.split("-")[0], status) for name, status in tables["runs"]]  # a cascade's has its time
    return {n: [tuple(str(c).split("-2")[0] for c in row) for row in rows] for n, rows in tables.items()}


def test_all_is_told_once_however_often_it_fails(mini, new_mlflow, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(patient, "PAUSE_S", 0.0)
    connect, draw, found = Server._connect, random.Random(4), {}
    for name in ("undisturbed", "flaky"):
        work = tmp_path / name
        work.mkdir()
        shutil.copyfile(new_mlflow, work / "mlflow.db")
        if name == "flaky":
            monkeypatch.setattr(Server, "_connect", lambda self: Flaky(connect(self), draw))
        rows = mini.run(FIT, "tracking=local", "tracking.prefect=false", f"work={work}", f"store={work / 'store'}")
        found[name] = known(work / "mlflow.db"), {n: r["digest"] for n, r in rows.items()}
    assert found["flaky"] == found["undisturbed"]
    assert len(found["flaky"][0]["runs"]) == 4 and len(found["flaky"][0]["metrics"]) > 40


def test_a_server_that_never_answers_is_not_waited_for(mini, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(patient, "END_S", 1e9)
    began = time.monotonic()
    settings = ["tracking=local", "tracking.prefect=false", "tracking.mlflow_uri=http://127.0.0.1:9", FIT]
    code, out, err = mini.cli("run", *mini.args(*settings))
    assert code == 0 and "MLflow was not reached and will be caught up" in (out + err).replace("\n", " ")
    assert time.monotonic() - began < 300


@pytest.mark.parametrize("name", ["mlflow_uri", "prefect_url", "mirror"])
def test_credentials_in_an_address_are_refused(name: str, mini) -> None:
    url = "s3://user:word@bucket" if name == "mirror" else "http://user:word@127.0.0.1:5000"
    said = mini.fails("tracking=local", f"tracking.{name}={url}")
    assert f"tracking.{name} has a user or a password in it" in said and "word@" not in said


def test_team_needs_its_variables(mini, monkeypatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    said = mini.fails("tracking=team")
    assert "MLFLOW_TRACKING_URI is not set" in said and "stepvideo team start" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "PREFECT_API_URL is not set" in mini.fails("tracking=team")
