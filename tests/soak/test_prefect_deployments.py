"""Deployments on a Prefect server with all its services: registered, run by a schedule in a worker, seen in a browser,
told of by webhook, caught up once after an outage. Takes minutes.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_gated
import toy_stages
import yaml
from mini import Mini
from prefect_stack import ROOT, PrefectStack, Receiver, wait_for

pytestmark = pytest.mark.soak
TOYS = os.pathsep.join([str(Path(toy_stages.__file__).parent), str(ROOT)])


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectStack]:
    with PrefectStack(tmp_path_factory.mktemp("stack")) as running:
        kinds = f"{toy_gated.KINDS}"
        running.environment |= {"STEPVIDEO_KINDS": kinds, "PYTHONPATH": TOYS}
        yield running


@pytest.fixture(scope="module")
def toy(stack: PrefectStack) -> Path:
    """A file like prefect.yaml with the toy cascade, every minute."""
    overrides = Mini(stack.folder).args("tracking=local", "tracking.mlflow=false", "cluster=local")
    overrides += ["cluster.snapshot=false", "stages.fit.step_s=0.2", "stages.fit.steps=50"]
    row = {"name": "toy", "entrypoint": "flows/cascade.py:cascade", "tags": ["toy"], "work_pool": {"name": "stepvideo"}}
    row |= {"parameters": {"profile": "bare", "overrides": [o for o in overrides if not o.startswith("profile=")]}}
    row |= {"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"}}
    row |= {"schedules": [{"slug": "minutely", "cron": "* * * * *"}]}
    path = stack.folder / "toy.yaml"
    path.write_text(
        yaml.safe_dump(
            {"partitions": {"h800": 3}, "notifications": ["failed", "gate", "approval"], "deployments": [row]}
        )
    )
    return path


def deployment(stack: PrefectStack, name: str) -> dict[str, Any]:
    return stack.api(f"deployments/name/{name}")


def screenshots(stack: PrefectStack) -> Path:
    """Where pictures of pages are kept."""
    folder = Path(os.environ.get("STEPVIDEO_SCREENSHOTS", stack.folder))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state(stack: PrefectStack, run: str) -> str:
    return stack.api(f"flow_runs/{run}")["state"]["name"]


def test_the_same_again_changes_nothing_and_what_people_switched_stays(
    stack: PrefectStack, toy: Path, receiver: Receiver
) -> None:
    told = {"STEPVIDEO_WEBHOOK_URL": receiver.url, "STEPVIDEO_WEBHOOK_TOKEN": "s3cret-word"}
    code, out, err = stack.stepvideo("deploy", **told)
    assert code == 0 and "cascade/smoke in pool stepvideo\n  nightly: 0 2 * * * UTC, off" in out, err
    assert "s3cret" not in out + err
    before = {d["name"]: d["id"] for d in stack.api("deployments/filter", {})}
    assert set(before) >= {"any", "smoke", "folder", "people", "plans", "weekly", "event"}
    assert not any(s["active"] for d in stack.api("deployments/filter", {}) for s in d["schedules"])

    smoke = deployment(stack, "cascade/smoke")
    stack.api(f"deployments/{smoke['id']}/schedules/{smoke['schedules'][0]['id']}", {"active": True}, "PATCH")
    names = {a["name"]: a["id"] for a in stack.api("automations/filter", {})}
    stack.api(f"automations/{names['stepvideo: late']}", {"enabled": False}, "PATCH")
    code, out, err = stack.stepvideo("deploy", "--json", **told)
    assert code == 0, err
    assert {d["name"]: d["id"] for d in stack.api("deployments/filter", {})} == before
    assert [s["active"] for s in deployment(stack, "cascade/smoke")["schedules"]] == [True]
    again = {a["name"]: (a["id"], a["enabled"]) for a in stack.api("automations/filter", {})}
    assert again["stepvideo: late"] == (names["stepvideo: late"], False)
    assert set(again) == set(names) and again["stepvideo: failed"] == (names["stepvideo: failed"], True)

    schema = smoke["parameter_openapi_schema"]["properties"]
    assert "smoke" in schema["profile"]["enum"] and schema["overrides"]["description"]
    for wrong in ({"profile": "smokey"}, {"prfile": "smoke"}, {"overrides": ["no setting"]}):
        with pytest.raises(urllib.error.HTTPError) as e:
            stack.api(f"deployments/{smoke['id']}/create_flow_run", {"parameters": wrong})
        assert e.value.code in (409, 422)
    block = stack.api("block_documents/filter", {"include_secrets": False})
    assert "s3cret-word" not in str(block) and receiver.url not in str(block)

    code, _, err = stack.stepvideo("deploy", "--file", str(toy), **told)
    assert code == 0, err
    assert stack.api("v2/concurrency_limits/partition-h800")["limit"] == 3
    kept = {a["name"] for a in stack.api("automations/filter", {}) if a["name"].startswith("stepvideo: ")}
    assert kept >= {"stepvideo: failed", "stepvideo: gate"} and "stepvideo: late" not in kept


def test_prefect_itself_reads_the_same_file(stack: PrefectStack) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "smoke"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = deployment(stack, "cascade/smoke")
    assert found["parameters"] == {"profile": "smoke"} and not found["schedules"][0]["active"]


def test_a_schedule_starts_a_run_that_is_named_and_shown(
    stack: PrefectStack, toy: Path, receiver: Receiver, browser: type
) -> None:
    told = {"STEPVIDEO_WEBHOOK_URL": receiver.url, "STEPVIDEO_WEBHOOK_TOKEN": "s3cret-word"}
    worker = stack.worker("--store", str(stack.folder / "none"))
    code, out, err = stack.stepvideo("deploy", "--file", str(toy), "--on", "cascade/toy", **told)
    assert code == 0 and "minutely: * * * * * UTC, on" in out, err
    own = {"deployments": {"name": {"any_": ["toy"]}}}

    def started() -> Any:
        assert worker.poll() is None, (stack.folder / "worker.log").read_text()[-2000:]
        return next((r for r in stack.runs(**own) if r["state"]["name"] not in ("Scheduled", "Late", "Pending")), None)

    run = wait_for(started)
    assert run["auto_scheduled"]
    named = "bare fit.step_s=0.2 fit.steps=50"  # a moment after it has begun
    run = wait_for(lambda: next((r for r in stack.runs(**own) if r["id"] == run["id"] and r["name"] == named), None))
    with browser(1400, 1000) as page:
        page.server = stack.url
        page.call("Page.navigate", url=f"{stack.url}/runs/flow-run/{run['id']}")
        page.until(f"document.body?.innerText.includes({run['name'][:40]!r})", 1200)
        wait_for(lambda: "progress-fit" in stack.artifacts(run["id"]))
        folder = screenshots(stack)
        page.picture(folder / "prefect-run.png")
        wait_for(lambda: state(stack, run["id"]) == "Completed")
        found = stack.artifacts(run["id"])
        assert {"plan", "cascade-progress", "progress-fit"} <= set(found)
        page.call("Page.navigate", url=f"{stack.url}/artifacts/artifact/{found['progress-fit']['id']}")
        page.until("document.body?.innerText.includes('fit: 50 of 50 step')", 1200)
        page.picture(folder / "prefect-progress.png")
    made = deployment(stack, "cascade/toy")
    stack.api(f"deployments/{made['id']}/schedules/{made['schedules'][0]['id']}", {"active": False}, "PATCH")
    wait_for(lambda: not {"RUNNING", "PENDING"} & {r["state"]["type"] for r in stack.runs(**own)})
    stack.stop_worker(worker)


def test_after_an_outage_a_schedule_is_caught_up_once(stack: PrefectStack, toy: Path) -> None:
    """The server is away for two hours: the times that it wrote down ahead lie in the past when it is back."""
    own = {"deployments": {"name": {"any_": ["toy"]}}}
    assert stack.stepvideo("deploy", "--file", str(toy), "--on", "cascade/toy")[0] == 0
    wait_for(lambda: len([r for r in stack.runs(**own) if r["state"]["type"] == "SCHEDULED"]) > 30)
    stack.stop_server()
    with sqlite3.connect(stack.home / "prefect.db") as db:
        for column in ("expected_start_time", "next_scheduled_start_time"):
            earlier = f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-2 hours') || '000'"
            db.execute(f"UPDATE flow_run SET {column} = {earlier} WHERE state_type = 'SCHEDULED' AND auto_scheduled")
        when = "json_extract(state_details, '$.scheduled_time')"
        earlier = f"json_set(state_details, '$.scheduled_time', strftime('%Y-%m-%dT%H:%M:%SZ', {when}, '-2 hours'))"
        db.execute(f"UPDATE flow_run_state SET state_details = {earlier} WHERE type = 'SCHEDULED'")
        db.execute("UPDATE deployment_schedule SET active = 0")  # only what was missed counts here
    stack.start_server()
    missed = [r["id"] for r in stack.runs(**own) if r["state"]["type"] == "SCHEDULED"]
    assert len(missed) > 30
    worker = stack.worker("--store", str(stack.folder / "none"))

    def settled() -> Any:
        assert worker.poll() is None
        found = [r["state"]["type"] for r in stack.runs(**own) if r["id"] in missed]
        return found if not set(found) & {"SCHEDULED", "PENDING", "RUNNING"} else None

    ended = wait_for(settled)
    stack.stop_worker(worker)
    assert ended.count("COMPLETED") == 1 and ended.count("CANCELLED") == len(missed) - 1


TOLD = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from prefect import flow
from flows.approval import ask
from flows.board import Board, _show_samples
from stepvideo.data.video_io import write_video
from tasks.gates import Finding, GateReport

@flow(name="told", flow_run_name="a stopped run")
def told():
    made = Path(sys.argv[1]) / "made"
    write_video(made / "samples" / "a.mp4", np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8), 8)
    _show_samples("sft.1", SimpleNamespace(out=made))
    bad = Finding("clips", "frames", "critical", "3 of 9 rows", ["c1"])
    Board().gate_failed(GateReport(False, [], [bad], Path("index.html"), 9))
    return ask("Is 7 to be the champion?", "page.html", 600, store=Path(sys.argv[1]), key="v7")

assert told().by == "Li"
"""


def test_who_is_to_know_is_told_and_samples_are_seen(stack: PrefectStack, receiver: Receiver, browser: type) -> None:
    """A run that fails, one that a gate stops, one that waits for a person; without a worker, as `stepvideo run`."""
    args = Mini(stack.folder / "told").args("tracking=local", "tracking.mlflow=false", "runtime.max_attempts=1")
    assert stack.stepvideo("run", *args, "stages.fit.fail_at=3")[0] == 1
    got = wait_for(lambda: [g for g in receiver.got if g[1]["kind"] == "failed"])
    assert got[0][0]["Authorization"] == "Bearer s3cret-word"
    assert got[0][1]["text"].startswith("a run failed: bare on debug fit.fail_at=3") and got[0][1]["flow_run"]

    store = stack.folder / "told" / "store"
    asking = subprocess.Popen([sys.executable, "-c", TOLD, str(store)], env=stack.environment, cwd=ROOT)
    wait_for(lambda: {"gate", "approval"} <= set(receiver.kinds()))
    said = {body["kind"]: body for _, body in receiver.got}
    assert "clips] frames: 3 of 9 rows" in str(said["gate"]["payload"]["failed"])
    assert said["approval"]["text"] == "a run waits for a person: Is 7 to be the champion?"
    assert said["approval"]["payload"]["command"] == f"stepvideo approve v7 --store {store}"
    samples = stack.artifacts(said["approval"]["payload"]["flow_run"])["samples-sft-1"]
    with browser(1400, 1000) as page:
        page.server = stack.url
        page.call("Page.navigate", url=f"{stack.url}/artifacts/artifact/{samples['id']}")
        moving = "[...document.images].some(i => i.src.startsWith('data:image/gif') && i.naturalWidth > 100)"
        page.until(moving, 1200)
        page.picture(screenshots(stack) / "prefect-samples.png")
    assert stack.stepvideo("approve", "v7", "--store", str(store), "--by", "Li")[0] == 0
    assert asking.wait(1200) == 0
