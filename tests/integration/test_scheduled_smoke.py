"""The `smoke` cascade as a team runs it: started by a schedule of the team stack, its jobs on a real Slurm over two
partitions, seen in Prefect and MLflow with a real browser, and with the digests of the local run.

The jobs are forks of a process that has imported what they need: 30 interpreters would take two minutes of processor
time (tests/soak/test_slurm_smoke.py has them). STEPVIDEO_SCREENSHOTS=DIR keeps the pictures of their pages; they are in
runs/screenshots otherwise.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import team_stack
import warm_job
import yaml
from fixtures import TOYS
from prefect_stack import wait_for
from rank_pool import shared
from slurm_cluster import Cluster, missing
from team_stack import Known
from whole import ROOT, Smoke, local_run, uncaptioned

from stepvideo import storage
from tasks.team import layout
from tasks.team.layout import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
WAIT_S = 180.0  # for a page on a busy machine
NAME = "smoke on slurm"  # what the run is called
VIDEO = "evaluate.dpo"  # the stage whose video is looked at
SLURM = ["cluster.snapshot=false", "cluster.concurrency=2", "cluster.slurm.poll_s=1"]
SLURM += ["cluster.slurm.partition=inference"]
TRAINING = ("vae1", "text", "t2i")
SLURM += [f"cluster.slurm.stages={{{', '.join(f'{n}: {{partition: training}}' for n in TRAINING)}}}"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Before the stack, whose worker has the environment of whoever starts it."""
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(ROOT)]))
        yield made
    made.stop()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, browser: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # nothing is needed from there
        with team_stack.shared() as running:
            yield running


@pytest.fixture
def smoke(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smoke:
    for name, value in stack.clients().items():
        monkeypatch.setenv(name, value)
    forked = f"cluster.slurm.python={warm_job.command(shared())}"
    return Smoke(tmp_path, f"raw={uncaptioned(tmp_path / 'raw')}", *SLURM, forked)


def pictures() -> Path:
    folder = Path(os.environ.get("STEPVIDEO_SCREENSHOTS", ROOT / "runs" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def deploy(smoke: Smoke, mirror: str) -> None:
    """A deployment that is due every minute."""
    chosen = {"profile": "smoke", "cluster": "slurm", "tracking": "team"}
    overrides = [o for o in smoke.overrides(f"tracking.mirror={mirror}") if o.partition("=")[0] not in chosen]
    row = {"name": "due", "entrypoint": "flows/cascade.py:cascade", "parameters": {**chosen, "overrides": overrides}}
    row |= {"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"}}
    row |= {"schedules": [{"slug": "minutely", "cron": "* * * * *"}]}
    path = smoke.folder / "due.yaml"
    path.write_text(yaml.safe_dump({"deployments": [row]}))
    assert "minutely: * * * * * UTC, on" in smoke.cli("deploy", "--file", str(path), "--on", "cascade/due")


def see_prefect(stack: Stack, known: Known, run: str, page: Any) -> None:
    """Logs in as a person does, and watches the run until it has ended."""
    server = page.server = stack.url("prefect")
    page.call("Page.navigate", url=f"{server}/login")
    page.until("document.querySelector('input[type=password]') !== null", WAIT_S)
    page.run("document.querySelector('input[type=password]').focus()")
    page.type(f"{layout.USER}:{stack.secrets['prefect']}")
    page.key("Enter", 13)
    page.until("!location.pathname.startsWith('/login')", WAIT_S)

    def told() -> dict[str, dict[str, Any]]:
        found = known.prefect("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {a["key"]: a for a in found}

    def state() -> str:
        return known.prefect("flow_runs/filter", flow_runs={"id": {"any_": [run]}})[0]["state_name"]

    progress = wait_for(lambda: (a := told().get("cascade-progress")) and float(a["data"]) > 0 and a)
    assert float(progress["data"]) < 100
    page.call("Page.navigate", url=f"{server}/runs/flow-run/{run}")
    page.until(f"document.body?.innerText.includes({NAME!r})", WAIT_S)
    page.until("document.body?.innerText.includes('Running')", WAIT_S)
    page.picture(pictures() / "team-prefect-run.png")
    page.call("Page.navigate", url=f"{server}/artifacts/artifact/{progress['id']}")
    page.until("document.body?.innerText.includes('Stages done')", WAIT_S)
    page.picture(pictures() / "team-prefect-progress.png")
    page.call("Page.navigate", url="about:blank")  # the page asks its server all the time
    assert wait_for(lambda: (s := state()) not in ("Running", "Pending") and s) == "Completed"
    page.call("Page.navigate", url=f"{server}/runs/flow-run/{run}")
    page.until("document.body?.innerText.includes('Completed')", WAIT_S)
    page.picture(pictures() / "team-prefect-completed.png")


def see_mlflow(stack: Stack, known: Known, run: dict[str, Any], page: Any) -> None:
    """The first video of an evaluation plays in the page of its run."""
    server = page.server = stack.url("mlflow")
    host = server.removeprefix("http://")
    page.call("Page.navigate", url=f"http://{layout.USER}:{stack.secrets['mlflow']}@{host}/")  # asks who it is
    page.until("document.readyState === 'complete' && document.body.innerText.includes('Experiments')", WAIT_S)
    video = next(path for path in known.artifacts(run["id"], "samples/main") if path.endswith(".mp4"))
    url = f"{server}/#/experiments/{run['experiment']}/runs/{run['id']}/artifacts/{video}"
    page.call("Page.navigate", url=url)
    page.until("(v => v && v.readyState >= 2 && v.videoWidth > 0)(document.querySelector('video'))", WAIT_S)
    page.run("document.querySelector('video').play()")
    page.until("document.querySelector('video').currentTime > 0", WAIT_S)
    page.picture(pictures() / "team-mlflow-video.png")


def test_a_scheduled_cascade_is_seen_and_equals_the_local_run(
    stack: Stack, cluster: Cluster, smoke: Smoke, browser: type, tmp_path_factory: pytest.TempPathFactory
) -> None:
    known, place = Known(stack), f"smoke-{secrets.token_hex(4)}"
    deploy(smoke, f"s3://{layout.BUCKET}/{place}")

    def begun() -> Any:
        rows = known.prefect("flow_runs/filter", deployments={"name": {"any_": ["due"]}})
        own = [r for r in rows if str(smoke.store.root) in str(r["parameters"])]
        return next((r for r in own if r["state_type"] not in ("SCHEDULED", "PENDING", "CANCELLED")), None)

    run = wait_for(begun)
    assert run["auto_scheduled"] and run["state_name"] == "Running"
    with browser(1400, 1000) as page:
        see_prefect(stack, known, run["id"], page)
        runs = known.runs(smoke.store.root)
        children = {r["tags"]["stage"]: r for r in runs if "stage" in r["tags"]}
        see_mlflow(stack, known, children[VIDEO], page)

    jobs = [row.split("|") for row in cluster.queue("%j|%P|%T")]
    local = local_run(tmp_path_factory).first
    made = [(p.parent.parent.name, storage.read_json(p)) for p in smoke.store.root.glob("*/*/manifest.json")]
    assert {n: (m["key"], m["digest"]) for n, m in made} == {n: (r["key"], r["digest"]) for n, r in local.items()}
    assert {state for _, _, state in jobs} == {"COMPLETED"} and len(jobs) == len(local)
    places = {name.rpartition("-")[0]: place for name, place, _ in jobs}
    assert places == {name: "training" if name in TRAINING else "inference" for name in local}
    assert len(runs) == len(local) + 1 and sorted(children) == sorted(local), "a run a stage, and theirs"
    assert {r["status"] for r in runs} == {"FINISHED"}
    (version,) = known.mlflow("registered-models/get-latest-versions", name="stepvideo-t2v")["model_versions"]
    registered = {t["key"]: t["value"] for t in version["tags"]}
    assert registered["digest"] == local[registered["path"].split("/")[-3]]["digest"], "by reference, on the server"
    assert {f"{n}/{r['key']}/manifest.json" for n, r in local.items()} <= known.objects(f"{place}/")

    logs = [p.read_bytes() for p in (stack.folder / "logs").iterdir()]
    left = [p.read_bytes() for p in smoke.folder.rglob("*") if p.is_file()] + logs
    for name, secret in stack.secrets.items():
        assert not any(secret.encode() in data for data in left), name
