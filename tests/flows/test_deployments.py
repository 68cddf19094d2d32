"""prefect.yaml and what flows say of themselves, without a server: tests/soak/test_prefect_deployments.py has one."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from flows import notify, parameters
from flows.deployments_check import check_parameters, flow_of, ready
from flows.deployments_file import FILE, read
from flows.progress import Progress
from stepvideo import cli
from stepvideo.errors import ConfigError
from tasks.preview import BYTES, preview


def file(folder: Path, change: Any) -> Path:
    """The repository's file, changed."""
    given = yaml.safe_load(FILE.read_text())
    change(given)
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def smoke(given: dict[str, Any]) -> dict[str, Any]:
    return next(d for d in given["deployments"] if d["name"] == "smoke")


def refused(folder: Path, change: Any) -> str:
    with pytest.raises(ConfigError) as e:
        read(file(folder, change))
    return str(e.value)


def test_what_the_repository_asks_for_is_sound_and_nothing_runs_by_itself() -> None:
    wanted = read()
    flows = {d.name: flow_of(d.entrypoint) for d in wanted.deployments}
    assert {f.name for f in flows.values()} >= {"cascade", "curate", "align", "search_parallelism"}
    for d in wanted.deployments:
        made = ready(d)
        schema = made.schema
        assert not any(t.enabled for t in made.triggers)
        assert all(p.get("description") for p in schema["properties"].values()), d.name  # help in the UI
        assert not any(s.active for s in d.schedules)
    by_clock = [d for d in wanted.deployments if d.schedules]
    assert by_clock and all(d.concurrency_limit.collision_strategy == "CANCEL_NEW" for d in by_clock)


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("every day", 'has 2 fields; write five fields, minute hour day month weekday, such as "0 2 * * *"'),
        ("61 2 * * *", "is no schedule; write five fields"),
        ("0 0 31 2 *", "never comes"),
        ("H * * * *", "is no schedule"),
        ("* * * * * *", "has 6 fields"),
    ],
)
def test_nonsense_for_a_time_is_refused_with_the_fix(tmp_path: Path, cron: str, said: str) -> None:
    error = refused(tmp_path, lambda g: smoke(g)["schedules"][0].update(cron=cron))
    assert said in error and f"deployment smoke, schedule nightly: cron {cron!r}" in error


def test_other_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    zone = refused(tmp_path, lambda g: smoke(g)["schedules"][0].update(timezone="Mars/Crater"))
    assert "timezone 'Mars/Crater' is unknown; give one such as UTC" in zone
    assert "concurrency_limt" in refused(tmp_path, lambda g: smoke(g).update(concurrency_limt=1))
    strategy = {"limit": 1, "collision_strategy": "CANCEL"}
    assert "CANCEL_NEW" in refused(tmp_path, lambda g: smoke(g).update(concurrency_limit=strategy))
    assert "no FILE:FUNCTION" in refused(tmp_path, lambda g: smoke(g).update(entrypoint="flows/casade.py:cascade"))
    assert "did you mean stepvideo" in refused(tmp_path, lambda g: smoke(g).update(work_pool={"name": "stepvidoe"}))
    assert "'fialed' is none; did you mean failed" in refused(tmp_path, lambda g: g.update(notifications=["fialed"]))
    assert "partitions.h800 is 0" in refused(tmp_path, lambda g: g.update(partitions={"h800": 0}))
    assert "called 'nightly'" in refused(tmp_path, lambda g: smoke(g).update(schedules=smoke(g)["schedules"] * 2))
    for wrong, said in (({"expct": ["a"]}, "unknown key expct; did you mean expect"), ({"posture": "x"}, "posture")):
        trigger = {"type": "event", **wrong}
        changed = read(file(tmp_path, lambda g, t=trigger: smoke(g).update(triggers=[t])))
        with pytest.raises(ConfigError, match=f"(?s)cascade/smoke, trigger 1.*{said}"):
            [ready(d) for d in changed.deployments]
    (tmp_path / "prefect.yaml").write_text("deployments: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read(tmp_path / "prefect.yaml")


def test_parameters_are_explained_and_held_against_what_there_is() -> None:
    cascade = flow_of("flows/cascade.py:cascade")
    right = {"profile": "smoke", "overrides": ["a.b=c d\n=e", "+a.b@c=1", "~x"]}
    properties = check_parameters(cascade, right, "d")["properties"]
    assert properties["profile"]["enum"] == parameters.choices("profile") and "smoke" in properties["profile"]["enum"]
    assert "smoke shows that everything runs" in properties["profile"]["description"]
    for wrong, said in (
        ({"profile": "smokey"}, "'smokey' is not one of"),
        ({"prfile": "smoke"}, "has no parameter 'prfile'; it has overrides, until, profile"),
        ({"overrides": ["sft steps"]}, "'sft steps' is no setting; write key=value"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_parameters(cascade, wrong, "d")
    with pytest.raises(Exception, match="smokey"):
        cascade.validate_parameters({"profile": "smokey"})


def test_names_of_runs_say_what_they_are() -> None:
    words = parameters.in_words
    assert words(["store=/a", "stages.sft.steps=50"], None, profile="smoke", cluster="local") == "smoke sft.steps=50"
    assert words(["cluster.snapshot=false", "runtime.threads=1", "seed=3"], profile="bare") == "bare seed=3"
    assert words(["profile=micro", "seed=3"], "sft", profile="smoke") == "micro seed=3 until sft"  # overrides win
    assert words([], None, profile="4b", cluster="h800") == "4b on h800"
    assert parameters.groups(["profile=4b", "seed=1"]) == {"profile": "4b"}
    long = words([f"stages.t2i.prompts={'x' * 200}"], "sft", profile="smoke")
    assert len(long) <= parameters.NAME_LENGTH and long.startswith("smoke t2i") and long.endswith("… until sft")


def test_what_a_webhook_is_sent_is_json_whatever_names_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.sandbox import SandboxedEnvironment

    resource = {"prefect.resource.name": 'is "3" better?\n', "prefect.resource.id": "stepvideo.approval.k"}
    event = SimpleNamespace(event="x", payload={"question": 'a "b"'}, resource=resource)
    run = SimpleNamespace(name='micro a="b"', id="1")
    for kind in notify.KINDS:
        for of in (run, None):
            sent = json.loads(SandboxedEnvironment().from_string(notify.payload(kind)).render(event=event, flow_run=of))
            name = resource["prefect.resource.name"] if kind in ("gate", "approval") or not of else run.name
            assert sent["text"] == f"{notify.KINDS[kind][0]}: {name}" and sent["payload"] == event.payload
    monkeypatch.setenv(notify.URL, "hooks.example/secret")
    with pytest.raises(ConfigError) as e:
        notify.apply(["failed"])
    assert "secret" not in str(e.value).replace("may be a secret", "")


def test_a_command_without_a_server_says_so(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert cli.main(["deploy"]) == 2 and "export PREFECT_API_URL" in capsys.readouterr().err
    monkeypatch.setenv("PREFECT_API_URL", "http://me:password@127.0.0.1:9/api")


def test_a_preview_shows_samples_side_by_side_and_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepvideo.data.video_io import write_image, write_video

    made: Any = SimpleNamespace(out=tmp_path)
    assert preview(made) is None
    for step, name in ((1, "0"), (2, "0"), (2, "1")):
        video = np.full((5, 32, 32, 3), 40 * step, np.uint8)
        write_video(tmp_path / "samples" / f"step-000000{step}" / f"{name}.mp4", video, 8)
    shown = preview(made)
    assert shown and shown.names == ["samples/step-0000002/0.mp4", "samples/step-0000002/1.mp4"]
    gif = base64.b64decode(shown.url.removeprefix("data:image/gif;base64,"))
    from PIL import Image

    path = tmp_path / "x.gif"
    path.write_bytes(gif)
    with Image.open(path) as image:
        assert image.size == (2 * 128 + 4, 128) and getattr(image, "n_frames", 0) >= 1
    noise = np.random.default_rng(0).integers(0, 255, (16, 160, 160, 3), np.uint8)
    for name in "abc":
        write_image(tmp_path / "noise" / "videos" / f"{name}.png", noise[0])
        write_video(tmp_path / "noise" / "videos" / f"{name}.mp4", noise, 8)
    noisy: Any = SimpleNamespace(out=tmp_path / "noise")
    big = preview(noisy)
    assert big and len(big.names) == 4 and len(big.gif) <= BYTES
    with Image.open(io.BytesIO(big.gif)) as image:
        assert image.height == 32  # every fifth of 160 pixels: with every second it is too large
    monkeypatch.setattr("tasks.preview.BYTES", 1000)
    assert preview(noisy) is None


def test_progress_tells_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    progress = Progress()
    monkeypatch.setattr(progress, "_send", lambda _call, **what: sent.append(what) or "id")
    monkeypatch.setattr("flows.progress.EVERY_S", 0.0)
    spec: Any = SimpleNamespace(stage="sft")

    def at(done: int, time: float) -> str:
        progress.events(spec, [{"type": "progress", "done": done, "total": 100, "unit": "step", "time": time}], 0)
        return sent[-1]["description"]

    assert at(10, 1000.0) == "sft: 10 of 100 step"
    assert at(40, 1030.0) == "sft: 40 of 100 step, 1:00 left"
    assert at(20, 2000.0) == "sft: 20 of 100 step"  # killed, and on from its checkpoint: a new pace
    assert at(60, 2020.0) == "sft: 60 of 100 step, 20.0 s left"
    assert at(100, 2040.0) == "sft: 100 of 100 step" and sent[-1]["progress"] == 100
