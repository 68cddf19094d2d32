"""Retraining from an event to a promotion, on a cascade whose model is as skilled as its data say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import retrain_schedule, retrain_triggers
from flows.promote import last_config, promote, registry_of
from flows.retrain_command import _plainly
from flows.retrain_verdict import Outcome
from flows.retrain_work import Asked, retrain
from flows.screen import console
from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError


class Place:
    """A store with a registry, and commands on it."""

    def __init__(self, mini: Any) -> None:
        self.mini, self.store, self.raw = mini, mini.store, mini.folder / "raw"
        self.uri = f"sqlite:///{mini.folder / 'work'}/mlflow.db"

    def args(self, *overrides: str) -> list[str]:
        on = ["graph=toy_champion", "tracking=local", "tracking.prefect=false", f"raw={self.raw}"]
        given = {o.partition("=")[0] for o in overrides}
        return self.mini.args(*(o for o in on if o.partition("=")[0] not in given), *overrides)

    def cli(self, *args: str) -> str:
        code, out, err = self.mini.cli(*args, "--store", str(self.store.root))
        assert code == 0, err
        return out

    def refused(self, *args: str) -> str:
        code, _, err = self.mini.cli(*args, "--store", str(self.store.root))
        assert code in (1, 2) and "Traceback" not in err
        return err

    def retrain(self, *more: str) -> dict[str, Any]:
        code, out, err = self.mini.cli("retrain", "--json", *self.args(), *more)
        assert code == 0, err
        self.said = err
        return json.loads(out)

    def new_data(self, skill: float, **attributes: float) -> None:
        import toy_champion

        toy_champion.say(self.raw, skill, **attributes)

    def publish(self, skill: float, **attributes: float) -> None:
        self.new_data(skill, **attributes)
        self.cli("trigger", "data", "--detail", f"skill {skill}")

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def aliases(self) -> dict[str, int]:
        found = self.client.get_registered_model("stepvideo-t2v").aliases
        return {alias: int(version) for alias, version in found.items()}

    def records(self) -> list[dict[str, Any]]:
        return json.loads(self.cli("promotions", "--json"))


@pytest.fixture(scope="session")
def first_champion(tmp_path_factory: pytest.TempPathFactory, new_mlflow: Path) -> Path:
    """A store and a registry whose champion has the skill 0.85, forced, as a first one must be; to be copied."""
    import toy_champion
    from fixtures import TOYS
    from mini import Mini

    folder = tmp_path_factory.mktemp("champion")
    (folder / "work").mkdir()
    shutil.copy(new_mlflow, folder / "work")
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("STEPVIDEO_KINDS", toy_champion.KINDS)
        m.syspath_prepend(str(TOYS))
        here = Place(Mini(folder))
        here.new_data(0.85)
        silent = Console(quiet=True)
        with contextlib.redirect_stdout(io.StringIO()):
            found = retrain(Asked(here.args()), _plainly, silent)
        assert found.state == "no champion" and found.ran == ["data", "codec", "fit", "evaluate.fit"]
        assert "--force 'the first champion'" in found.said and "champion" not in here.aliases()
        registry = registry_of(last_config(here.store)[0])
        promote(registry, here.store, registry.version(1), force="the first champion")
    os.environ.clear()
    os.environ.update(before)
    return folder


@pytest.fixture
def place(mini, first_champion: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    import toy_champion

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_champion.KINDS)
    for name in ("store", "work", "raw"):
        shutil.copytree(first_champion / name, mini.folder / name)
    here = Place(mini)
    for record in here.store.root.glob("_*/*/*.json"):  # a store knows where it lies
        if record.name in ("run.json", "promotion.json"):
            record.write_text(record.read_text().replace(str(first_champion), str(mini.folder)))
    path = here.client.get_model_version("stepvideo-t2v", "1").tags["path"]
    here.client.set_model_version_tag("stepvideo-t2v", "1", "path", path.replace(str(first_champion), str(mini.folder)))
    return here


def test_new_data_to_a_promoted_model_and_back(place: Place) -> None:
    place.publish(0.97)
    found = place.retrain("--triggered")
    assert found["state"] == "promoted" and found["said"].startswith("Promoted: all attributes right: +")
    assert found["affected"] == found["ran"] == ["data", "fit", "evaluate.fit"]  # and codec is not
    assert "3 of 4 stages are affected" in place.said and "data: content" in place.said
    assert place.aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    first, second = place.records()
    assert first["forced"] == "the first champion" and second["decision"] == found["decision"]
    assert (second["from"], second["version"], second["state"], second["forced"]) == (1, 2, "done", "")
    folder = place.store.root / "_promotions" / "0002"
    assert set(second["evidence"]) == {"decision.json", "evidence.html"}
    for name, digest in second["evidence"].items():
        assert storage.sha256_file(folder / name) == digest
    version = place.client.get_model_version("stepvideo-t2v", "2")
    run_id, _, path = version.tags["evidence"].removeprefix("runs:/").partition("/")
    assert {Path(f.path).name for f in place.client.list_artifacts(run_id, path)} == set(second["evidence"])
    (trigger,) = (place.store.root / "_triggers" / "done").glob("*.json")
    assert storage.read_json(trigger)["outcome"] == "promoted"
    html = (folder / "evidence.html").read_text()
    assert "data: content" in html and "stepvideo-t2v version 2 against stepvideo-t2v version 1" in html

    assert place.retrain("--triggered")["state"] == "nothing due"
    again = place.retrain()
    assert (
        again["state"] == "nothing affected" and again["ran"] == [] and "all 4 stages are in the store" in again["said"]
    )

    assert "version 1 again, it was version 2" in place.cli("rollback", "--reason", "people dislike it")
    assert place.aliases() == {"candidate": 2, "champion": 1}
    assert "people dislike it" in place.client.get_model_version("stepvideo-t2v", "2").tags["rolled_back"]
    assert "nothing to do" in place.refused("promote", "1") and "no champion before it" in place.refused("rollback")
    (place.store.root / "evaluate.fit").rename(place.store.root / "_gone")
    back = place.retrain()
    assert back["state"] == "not promoted" and "was rolled back (0003: people dislike it)" in back["said"]


@pytest.mark.soak
@pytest.mark.parametrize(("skill", "verdict"), [(0.7, "worse"), (0.851, "tie")])
def test_worse_and_equal_models_are_reported_only(place: Place, skill: float, verdict: str) -> None:
    place.publish(skill)
    found = place.retrain()
    assert found["state"] == "not promoted" and place.aliases()["champion"] == 1
    decision = storage.read_json(Path(found["page"]).parent / "decision.json")
    assert decision["decision"]["verdict"] == verdict and not decision["decision"]["promote"]
    assert len(place.records()) == 1
    assert {"worse": "is worse", "tie": "a tie is not a win"}[verdict] in place.refused("promote", "2")
    assert place.aliases()["champion"] == 1


@pytest.mark.soak
def test_a_win_that_loses_a_category_is_not_promoted_unless_forced(place: Place) -> None:
    place.publish(1.0, shape=0.6)
    found = place.retrain("--rule", "metric=colour")
    assert found["state"] == "not promoted" and "guarded categories have lost: shape" in found["said"]
    assert "guarded categories have lost" in place.refused("promote", "2")
    place.cli("promote", "2", "--force", "shapes do not matter here", "--approved-by", "Ada", "--note", "seen")
    last = place.records()[-1]
    assert last["forced"] == "shapes do not matter here" and "lost: shape" in last["objection"]
    assert last["approval"]["by"] == "Ada" and last["approval"]["seen"] == last["evidence"] != {}
    assert place.client.get_model_version("stepvideo-t2v", "2").tags["approved_by"] == "Ada"
    said = place.cli("promotions")
    assert "FORCED" in said and "Ada" in said


@pytest.mark.soak
def test_the_champion_is_evaluated_as_the_challenger_was(place: Place) -> None:
    place.publish(0.97)
    before = set(place.store.root.glob("evaluate.fit/*/manifest.json"))
    code, out, err = place.mini.cli("retrain", "--json", *place.args("stages.evaluate.prompt_seed=5"))
    assert code == 0, err
    new = [storage.read_json(p) for p in set(place.store.root.glob("evaluate.fit/*/manifest.json")) - before]
    assert json.loads(out)["state"] == "promoted" and len(new) == 2
    assert {m["config"]["prompt_seed"] for m in new} == {5}


@pytest.mark.soak
def test_a_person_has_the_last_word(place: Place) -> None:
    def answer(approved: bool) -> Callable[..., Any]:
        class Said:
            by, note, time = "Grace", "looked at all videos", 12.0

        Said.approved = approved  # type: ignore[attr-defined]
        return lambda question, evidence: asked.append((question, evidence.page.exists())) or Said()

    asked: list[tuple[str, bool]] = []
    place.publish(0.97)
    wants = Asked(place.args(), approve=True)
    no = retrain(wants, _plainly, console(stderr=True), answer(False))
    assert no.state == "rejected" and "Grace said no" in no.said and place.aliases()["champion"] == 1
    place.publish(0.98)
    yes = retrain(wants, _plainly, console(stderr=True), answer(True))
    assert yes.state == "promoted" and place.records()[-1]["approval"]["when"] == 12.0
    assert all(there and "Promote stepvideo-t2v version" in question for question, there in asked)


def test_two_triggers_at_once_train_once(place: Place) -> None:
    place.publish(0.97)
    ran: list[list[str]] = []
    begun = threading.Event()

    def slow(overrides: list[str], until: str | None) -> Any:
        begun.set()
        time.sleep(0.5)
        ran.append(overrides)
        return _plainly(overrides, until)

    outcomes: list[Outcome] = []

    def go(triggered: bool) -> None:
        outcomes.append(retrain(Asked(place.args(), triggered=triggered), slow, console(stderr=True)))

    first = threading.Thread(target=go, args=(True,))
    first.start()
    assert begun.wait(60)
    place.mini._capsys.readouterr()
    others = [threading.Thread(target=go, args=(t,)) for t in (True, False)]
    for t in others:
        t.start()
    for t in (first, *others):
        t.join()
    states = [o.state for o in outcomes]
    assert states[0] == "promoted" and sorted(states[1:]) == ["attached", "attached"] and len(ran) == 1
    assert all("promoted" in o.said for o in outcomes[1:])
    assert "another retraining is at it" in place.mini._capsys.readouterr().err
    assert len(place.records()) == 2 and place.aliases()["champion"] == 2


@pytest.mark.soak
def test_a_killed_retraining_goes_on(place: Place) -> None:
    """The driver is killed in the middle of a stage; the same again does not begin anew."""
    place.publish(0.97)
    slow = ["cluster=local", "cluster.snapshot=false", "stages.fit.step_s=0.2", "stages.fit.steps=20"]
    process = place.mini.process("--json", *place.args(*slow), command="retrain")
    directory = place.mini.wait_for_step("fit", 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((place.store.root / "_triggers").glob("*.json"))) == 1
    code, out, err = place.mini.cli("retrain", "--json", *place.args(*slow))
    assert code == 0 and "an earlier retraining of the same was interrupted; going on" in err, err
    found = json.loads(out)
    assert found["state"] == "promoted" and found["affected"][:1] != ["codec"]
    assert len(storage.read_json(directory / "ledger.json")["attempts"]) == 1  # the job itself lived on
    assert not list((place.store.root / "_triggers").glob("*.json"))


@pytest.mark.soak
def test_killed_before_it_was_judged_it_is_judged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages are in the store then, and still there is something to do."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    place.publish(0.97)
    with monkeypatch.context() as m:
        m.setattr("flows.retrain_work.verdict", die)
        with pytest.raises(Killed):
            retrain(Asked(place.args()), _plainly, console(stderr=True))
    found = place.retrain()
    assert found["state"] == "promoted" and found["ran"] == [] and "what is left is to judge" in place.said


@pytest.mark.soak
def test_a_failed_stage_leaves_the_trigger(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.publish(0.97)
    (place.raw / "skills.json").write_text("no JSON")
    code, _, err = place.mini.cli("retrain", *place.args("runtime.max_attempts=1"))
    assert code == 1 and "stage data failed" in err
    assert len(list((place.store.root / "_triggers").glob("*.json"))) == 1
    place.new_data(0.97)
    assert place.retrain("--triggered")["state"] == "promoted"


def at(day: int, hour: int = 3, minute: int = 0) -> float:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC).timestamp()


def test_late_runs_of_a_schedule_find_it_served(mini, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as below, without training anything."""
    import toy_champion

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_champion.KINDS)
    monkeypatch.setattr("flows.retrain_work._work", lambda *_: Outcome("promoted", "made"))
    place = Place(mini)
    place.new_data(0.97)

    def wake(now: float) -> str:
        return retrain(Asked(place.args(), cron="0 3 * * *"), _plainly, console(stderr=True), now=lambda: now).state

    assert [wake(at(2)), wake(at(2, 3, 1)), wake(at(3, 2, 59))] == ["promoted", "nothing due", "nothing due"]
    assert [wake(at(6, 9)) for _ in range(3)] == ["promoted", "nothing due", "nothing due"]


@pytest.mark.soak
def test_a_missed_schedule_is_caught_up_once(place: Place) -> None:
    ran: list[str] = []

    def run(overrides: list[str], until: str | None) -> Any:
        ran.append(until or "")
        return _plainly(overrides, until)

    def wake(now: float) -> str:
        return retrain(Asked(place.args(), cron="0 3 * * *"), run, console(stderr=True), now=lambda: now).state

    assert wake(at(2)) == "nothing affected" and wake(at(2, 3, 1)) == "nothing due"
    place.new_data(0.97)
    assert wake(at(3, 2, 59)) == "nothing due"
    # three nights without a machine; then Prefect starts the four runs that it owes
    assert [wake(at(6, 9)) for _ in range(4)] == ["promoted", "nothing due", "nothing due", "nothing due"]
    assert len(ran) == 1
    place.new_data(0.7)
    assert wake(at(7, 2)) == "nothing due" and wake(at(7, 3)) == "not promoted"


@pytest.mark.soak
def test_a_schedule_is_not_served_by_a_run_that_fails(place: Place) -> None:
    def fails(overrides: list[str], until: str | None) -> Any:
        raise ArtifactError("the disk is full")

    asked = Asked(place.args(), cron="0 3 * * *")
    place.new_data(0.97)
    with pytest.raises(ArtifactError):
        retrain(asked, fails, console(stderr=True), now=lambda: at(2))
    assert retrain(asked, _plainly, console(stderr=True), now=lambda: at(2, 4)).state == "promoted"


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("nonsense", "UTC", "has 1 fields; give five"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("0 3 31 2 *", "UTC", "Bad day-of-month"),
        ("0 3 * * *", "Mars/Olympus", "'Mars/Olympus' is unknown"),
    ],
)
def test_schedules_that_make_no_sense(cron: str, zone: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        retrain_schedule.newest_slot(cron, zone)


def test_schedules_follow_their_zone() -> None:
    berlin = retrain_schedule.newest_slot("0 3 * * *", "Europe/Berlin", at(22, 4))
    assert berlin == at(22, 2) and retrain_schedule.next_slot("0 3 * * *", "UTC", at(22)) == at(23)
    assert [retrain_schedule.newest_slot("0 3 * * *", "UTC", at(22) + d) for d in (-0.5, 0, 0.5)] == [
        at(21),
        at(22),
        at(22),
    ]


def test_triggers_of_others_and_broken_ones(mini) -> None:
    folder = mini.store.root / "_triggers"
    storage.write_json(folder / "data-v2.json", {"kind": "data_version", "name": "v2", "parent": "v1", "time": 1.0})
    (folder / "a.json").write_text("{")
    storage.write_json(folder / "b.json", {"reason": "data", "colour": "red"})
    storage.write_json(folder / "c.json", {"reason": "boredom"})
    storage.write_json(folder / "d.json", ["data"])
    retrain_triggers.leave(mini.store, "labels", "500 votes", ["labels=x"])
    found = [t for _, t in retrain_triggers.waiting(mini.store)]
    assert sorted(map(str, found)) == ["data (version v2 after v1)", "labels (500 votes)"]
    assert len(retrain_triggers.waiting(mini.store)) == 2  # and they are still there
    said = "\n".join(retrain_triggers.refused(mini.store))
    assert "a.json" in said and "colour" in said and "choose one of data, drift, labels, manual" in said
    assert "no trigger" in said
    with pytest.raises(StepVideoError, match="boredom"):
        retrain_triggers.leave(mini.store, "boredom")


@pytest.mark.soak
def test_settings_of_a_trigger_are_followed(place: Place) -> None:
    import toy_champion

    other = toy_champion.say(place.mini.folder / "other", 0.97)
    place.cli("trigger", "data", f"raw={other}")
    found = place.retrain("--triggered")
    assert found["state"] == "promoted"
    kept = [storage.read_json(p) for p in (place.store.root / "_retrain").glob("*.json")]
    (record,) = [r for r in kept if r.get("outcome") == "promoted"]
    assert record["overrides"][-1] == f"raw={other}" and record["why"] == ["data"]


@pytest.mark.soak
def test_what_makes_no_sense_is_told_before_anything_is_trained(place: Place) -> None:
    place.new_data(0.97)
    for overrides, more, said in (
        (["tracking=none"], [], "needs"),
        (["register=false"], [], "register=true"),
        ([], ["--rule", "margn=1"], "margin"),
        ([], ["--rule", "margin"], "key=value"),
        ([], ["--cron", "x"], "five fields"),
    ):
        code, _, err = place.mini.cli("retrain", *place.args(*overrides), *more)
        assert code == 2 and (said in err or "promotes in MLflow's registry" in err), err
    code, out, _ = place.mini.cli("retrain", "--dry-run", *place.args())
    assert code == 0 and "3 of 4 stages are affected" in out and "data: content" in out
    assert len(list(place.store.root.glob("fit/*"))) == 1
