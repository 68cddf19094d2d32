"""Retraining by an event on a real Prefect server: a deployment starts, trains what is touched, waits for a person,
promotes; two events at once train once. Takes minutes.

Deployments have a concurrency limit, so the run is not paused (flows/approval_pause.py); tests/flows/test_approval.py
has one that is.
"""

from __future__ import annotations

import os
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_champion
import toy_stages
import yaml
from prefect_stack import ROOT, PrefectStack, wait_for
from retraining import Place

from flows.approval import waiting
from stepvideo import storage

pytestmark = pytest.mark.soak
TOYS = os.pathsep.join([str(Path(toy_stages.__file__).parent), str(ROOT)])
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def stack(place: Place, tmp_path: Path) -> Iterator[PrefectStack]:
    """With a worker, and a deployment of retraining by events."""
    folder = tmp_path / "stack"
    folder.mkdir()
    with PrefectStack(folder) as running:
        running.environment |= {"STEPVIDEO_KINDS": toy_champion.KINDS, "PYTHONPATH": TOYS}
        row: dict[str, Any] = {"name": "event", "entrypoint": "flows/retrain.py:retrain"}
        row |= {"work_pool": {"name": "stepvideo"}}
        settings = place.args("tracking.prefect=true")
        row |= {"parameters": {"overrides": settings, "triggered": True, "approve": True}}
        row |= {"concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"}}
        event = {"type": "event", "name": "on labels", "enabled": True, "match": {"prefect.resource.id": "stepvideo.*"}}
        row |= {"triggers": [event | {"expect": ["stepvideo.labels.added", "stepvideo.data.published"]}]}
        (folder / "event.yaml").write_text(yaml.safe_dump({"deployments": [row]}))
        code, out, err = running.stepvideo("deploy", "--file", str(folder / "event.yaml"))
        assert code == 0, out + err
        running.worker("--store", str(place.store.root))
        yield running


def runs(stack: PrefectStack) -> list[dict[str, Any]]:
    return stack.runs(deployments={"name": {"any_": ["event"]}})


def test_from_an_event_to_a_promotion_that_a_person_approved(place: Place, stack: PrefectStack) -> None:
    store = ["--store", str(place.store.root)]
    place.new_data(0.97)
    for detail in ("500 votes", "500 more"):  # both at once
        code, out, err = stack.stepvideo("trigger", "labels", "--detail", detail, *store)
        assert code == 0 and "event stepvideo.labels.added was sent to Prefect" in out, out + err
    (asked,) = wait_for(lambda: waiting(place.store.root))
    run = wait_for(lambda: next((r for r in runs(stack) if r["id"] == asked["flow_run"]), None))
    time.sleep(260)  # Prefect renews the lease of its slot after 225 s: the run must still have it
    assert stack.api(f"flow_runs/{run['id']}")["state"]["type"] == "RUNNING"
    assert "Promote stepvideo-t2v version 2" in asked["question"]
    assert place.aliases()["champion"] == 1
    assert Path(asked["evidence"]).is_file() and "approval" in stack.artifacts(run["id"])
    code, out, err = stack.stepvideo("approve", run["name"], "--by", "Ada", "--note", "seen", *store)
    assert code == 0, out + err
    wait_for(lambda: len(runs(stack)) >= 1 and all(r["state"]["type"] in ENDED for r in runs(stack)))
    states = {r["id"]: r["state"] for r in runs(stack)}
    assert {s["type"] for s in states.values()} == {"COMPLETED"}, states
    assert place.aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    last = place.records()[-1]
    assert (last["approval"]["by"], last["approval"]["note"]) == ("Ada", "seen") and last["state"] == "done"
    assert "promoted" in stack.artifacts(run["id"])["retraining"]["description"]
    trained = list(place.store.root.glob("fit/*/manifest.json"))
    assert len(trained) == 2  # the first champion, and this one
    outcomes = [storage.read_json(p)["outcome"] for p in (place.store.root / "_triggers" / "done").glob("*.json")]
    assert len(outcomes) == 2 and "promoted" in outcomes
    names = {r["name"] for r in stack.runs() if r["parent_task_run_id"]}
    assert names, "the cascade is no subflow"


def test_a_server_that_goes_while_a_person_is_asked(place: Place, stack: PrefectStack) -> None:
    store = ["--store", str(place.store.root)]
    place.new_data(0.97)
    assert stack.stepvideo("trigger", "data", *store)[0] == 0
    (asked,) = wait_for(lambda: waiting(place.store.root))
    assert [r for r in runs(stack) if r["state"]["type"] == "RUNNING"]
    stack.stop_server()
    with pytest.raises((OSError, urllib.error.URLError)):
        stack.api("health")
    code, out, err = stack.stepvideo("approve", asked["key"], "--by", "Ada", *store)  # the file is what counts
    assert code == 0, out + err
    stack.start_server()
    wait_for(lambda: place.aliases()["champion"] == 2)
    assert place.records()[-1]["approval"]["by"] == "Ada"
