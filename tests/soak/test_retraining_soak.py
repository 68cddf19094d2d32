"""Retraining, what takes longer: gates that refuse, kills, schedules that were missed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import toys  # noqa: F401
from retraining import Place, at

from flows.retrain_command import _plainly
from flows.retrain_work import Asked, retrain
from flows.screen import console
from stepvideo import storage
from stepvideo.errors import ArtifactError


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
def test_a_model_that_was_rolled_back_is_not_promoted_again_by_itself(place: Place) -> None:
    place.publish(0.97)
    assert place.retrain()["state"] == "promoted"
    place.cli("rollback", "--reason", "people dislike it")
    assert "nothing to do" in place.refused("promote", "1") and "no champion before it" in place.refused("rollback")
    assert place.retrain()["state"] == "nothing affected"
    (place.store.root / "evaluate.fit").rename(place.store.root / "_gone")
    back = place.retrain()
    assert back["state"] == "not promoted" and "was rolled back (0003: people dislike it)" in back["said"]


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


@pytest.mark.soak
def test_a_killed_retraining_goes_on(place: Place) -> None:
    """The driver is killed in the middle of a stage; the same again does not begin anew."""
    place.publish(0.97)
    slow = ["cluster=local", "cluster.snapshot=false", "stages.fit.step_s=0.2", "stages.fit.steps=20"]
    process = place.mini.process("--json", *place.args(*slow), command="retrain")
    directory = place.mini.wait_for_step("fit", 3, timeout=600)
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
