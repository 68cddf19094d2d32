"""Promotion and rollback: with evidence or not at all, whole or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_champions import MODEL, Made
from memory_registry import MemoryRegistry

from flows.promote import Approval, Refused, locate, promote, rollback
from stepvideo import cli, storage
from stepvideo.errors import ArtifactError, StepVideoError
from tasks import promotion
from tasks.registry import Unknown

SKILLS = (0.7, 1.0, 0.5)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Three models; the first is the champion, the second much better, the third worse."""
    return crowned(Made(tmp_path, "", *SKILLS))


@pytest.fixture
def real(tmp_path: Path, new_mlflow: Path) -> Made:
    """The same with MLflow's registry."""
    (tmp_path / "work").mkdir()
    shutil.copy(new_mlflow, tmp_path / "work" / "mlflow.db")
    return crowned(Made(tmp_path, f"sqlite:///{tmp_path}/work/mlflow.db", *SKILLS))


def crowned(made: Made) -> Made:
    made.registry.set_alias("champion", 1)
    return made


def aliases(made: Made) -> dict[str, int]:
    return made.registry.aliases()


def go(made: Made, number: int, **options: Any) -> dict[str, Any]:
    return promote(made.registry, made.store, made.registry.version(number), **options)


def test_without_evidence_or_with_evidence_against_it_is_refused(made: Made) -> None:
    before = aliases(made)
    with pytest.raises(Refused, match=r"no evidence that .* version 2 is better .*stepvideo challenge 2(\n.*)*--force"):
        go(made, 2)
    made.evidence(3)
    with pytest.raises(Refused, match="the challenger is worse"):
        go(made, 3)
    other = made.evidence(2, champion=3)
    with pytest.raises(Refused, match="is about stepvideo-t2v version 2 and stepvideo-t2v version 3, not about"):
        go(made, 2, evidence=[other.folder])
    with pytest.raises(Refused, match="nothing has the alias staging yet"):
        go(made, 2, alias="staging")
    assert aliases(made) == before and promotion.history(made.store) == []


def test_evidence_is_stored_with_the_version_and_in_the_store(real: Made, tmp_path: Path) -> None:
    found = real.evidence(2)
    (tmp_path / "study.html").write_text("people liked it")
    record = go(real, 2, evidence=[found.folder, tmp_path / "study.html"], approval=Approval("Ada", "yes", 5.0))
    assert aliases(real) == {"candidate": 3, "champion": 2, "previous": 1}
    kept = promotion.folder_of(real.store, record)
    assert storage.read_json(kept / "promotion.json") == record and record["state"] == "done"
    names = {"decision.json", "evidence.html", "study.html"}
    assert record["evidence"] == {n: storage.sha256_file(kept / n) for n in names}
    assert record["approval"] == {"by": "Ada", "note": "yes", "when": 5.0, "seen": record["evidence"]}
    tags = real.registry.version(2).tags
    run_id, _, folder = tags["evidence"].removeprefix("runs:/").partition("/")
    client = real.registry.server.client
    assert {Path(f.path).name for f in client.list_artifacts(run_id, folder)} == names
    assert (tags["approved_by"], tags["promotion"]) == ("Ada", "0001")
    html = (kept / "evidence.html").read_text()
    assert "fit: skill 0.7 → 1.0" in html and "Promoted: all attributes right" in html
    with pytest.raises(Refused, match="already; nothing to do"):
        go(real, 2)


def test_rollbacks_go_back_step_by_step(made: Made) -> None:
    go(made, 3, force="for the test")
    go(made, 2, force="for the test")
    assert aliases(made) == {"candidate": 3, "champion": 2, "previous": 3}
    rollback(made.registry, made.store, reason="flickers")
    assert aliases(made) == {"candidate": 3, "champion": 3, "previous": 1}
    rollback(made.registry, made.store)
    assert aliases(made) == {"candidate": 3, "champion": 1}
    with pytest.raises(Refused, match="no champion before it; --to VERSION names one of: 2, 3"):
        rollback(made.registry, made.store)
    rollback(made.registry, made.store, to=2)
    assert aliases(made)["champion"] == 2
    gone = promotion.rolled_back(made.store, made.registry.version(3).digest)
    assert gone and gone["version"] == 1
    assert promotion.rolled_back(made.store, made.registry.version(2).digest) is None  # it came back
    assert "0003: flickers" in made.registry.version(2).tags["rolled_back"]


def test_files_that_are_gone_or_damaged_promote_nothing(made: Made) -> None:
    made.evidence(2)
    model = made.store.dir("fit", f"{2:016d}") / "out" / "model.json"
    whole = model.read_text()
    model.write_text(whole.replace("1.0", "1.1"))
    with pytest.raises(ArtifactError, match="version 2 is not whole .*sha256; make it again: stepvideo run number=2"):
        go(made, 2)
    shutil.rmtree(model.parent.parent)
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing; make it again"):
        go(made, 2, force="now")
    with pytest.raises(ArtifactError, match="not whole"):
        rollback(made.registry, made.store, to=2)
    assert aliases(made)["champion"] == 1 and promotion.history(made.store) == []


@pytest.mark.parametrize("alias", ["latest", "v2", "previous", "candidate", "two words", "", "ä"])
def test_aliases_that_cannot_be(made: Made, alias: str) -> None:
    with pytest.raises(StepVideoError, match="--alias"):
        go(made, 2, alias=alias, force="now")
    assert promotion.history(made.store) == []


def test_references_that_name_nothing_say_what_there_is(made: Made) -> None:
    registry = made.registry
    with pytest.raises(Unknown, match="has no version 9 .*there are: 1, 2, 3"):
        locate(registry, made.store, "9")
    with pytest.raises(StepVideoError, match=r"no alias 'champignon' .*champion \(version 1\)"):
        locate(registry, made.store, f"{MODEL}@champignon")
    with pytest.raises(StepVideoError, match="the model here is stepvideo-t2v"):
        locate(registry, made.store, "other@champion")
    with pytest.raises(StepVideoError, match=r"evaluate\.fit/.* is not in the registry"):
        locate(registry, made.store, f"evaluate.fit/{1:016d}")
    with pytest.raises(ArtifactError, match="no artifact 'fitt'"):
        locate(registry, made.store, "fitt")
    assert [locate(registry, made.store, r).number for r in ("2", "@champion", f"fit/{3:016d}")] == [2, 1, 3]


def test_a_database_that_is_missing_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Made(tmp_path, f"sqlite:///{tmp_path}/work/mlflow.db")
    with pytest.raises(StepVideoError, match=r"there is no registry: .*mlflow\.db is missing; `stepvideo run`"):
        _ = gone.registry
    code = cli.main(["lineage", f"{MODEL}@champion", "--store", str(gone.store.root)])
    assert code == 2 and "mlflow.db is missing" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_server_that_is_down_changes_nothing(real: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    real.evidence(2)
    down = ConnectionError("refused")

    def lost(*_: Any, **__: Any) -> None:
        raise down

    version, registry = real.registry.version(2), real.registry
    for method in ("get_registered_model", "log_artifact", "set_model_version_tag", "set_registered_model_alias"):
        with monkeypatch.context() as away:
            away.setattr(MlflowClient, method, lost)
            with pytest.raises(StepVideoError, match="start the server, or mend the address"):
                promote(registry, real.store, version)
        assert aliases(real)["champion"] == 1
    assert [r["state"] for r in promotion.history(real.store)] == ["begun"]
    assert promote(registry, real.store, version)["state"] == "done" and aliases(real)["champion"] == 2
    assert len(promotion.history(real.store)) == 1


class Killed(BaseException):
    """No code catches it, as none sees kill -9."""


POINTS = [
    *((promotion.storage, "write_json"), (promotion.os, "rename"), (promotion.shutil, "copyfile")),
    *((MemoryRegistry, name) for name in ("keep", "tag", "set_alias", "drop_alias")),
]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], bool]:
    """Runs a call and dies just before its k-th change of anything; whether it came to that."""

    def dies(k: int, call: Callable[[], Any]) -> bool:
        changes = 0

        def counting(real: Any) -> Any:
            def change(*args: Any, **kwargs: Any) -> Any:
                nonlocal changes
                changes += 1
                if changes == k:
                    raise Killed
                return real(*args, **kwargs)

            return change

        with monkeypatch.context() as m:
            for owner, name in POINTS:
                m.setattr(owner, name, counting(getattr(owner, name)))
            try:
                call()
            except Killed:
                return True
        return False

    return dies


def restored(made: Made, keep: Path) -> Iterator[int]:
    """1, 2, …, each with the records and the registry as they were."""
    folder, registry = made.store.root / "_promotions", made.memory
    assert registry
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, keep)
    before = dict(registry.set), dict(registry.there)
    for k in range(1, 40):
        yield k
        shutil.rmtree(folder)
        shutil.copytree(keep, folder)
        registry.set, registry.there = dict(before[0]), dict(before[1])


def test_a_promotion_killed_at_any_point_is_whole_or_absent_and_the_same_again_finishes_it(
    made: Made, killed: Callable[..., bool], tmp_path: Path
) -> None:
    made.evidence(2)
    points = 0
    for k in restored(made, tmp_path / "kept"):
        if not killed(k, lambda: go(made, 2)):
            break
        points = k
        assert aliases(made)["champion"] in (1, 2)
        begun = promotion.history(made.store)  # every record can be read
        assert len(begun) <= 1 and (aliases(made)["champion"] == 1 or begun[0]["state"] == "begun")
        record = go(made, 2)
        assert record["state"] == "done" and aliases(made) == {"candidate": 3, "champion": 2, "previous": 1}
        assert [r["state"] for r in promotion.history(made.store)] == ["done"]
        tags = made.registry.version(2).tags
        assert tags["promotion"] == "0001" and tags["evidence"].endswith("promotion/0001")
        assert not list((made.store.root / "_promotions").glob(".0*/promotion.json"))
    assert points >= 8  # copies, record, rename, evidence, tags, two aliases, record


def test_a_killed_rollback_is_finished_by_whoever_comes_next(
    made: Made, killed: Callable[..., bool], tmp_path: Path
) -> None:
    go(made, 2, force="first")
    points = 0
    for k in restored(made, tmp_path / "kept"):
        if not killed(k, lambda: rollback(made.registry, made.store)):
            break
        points = k
        began = len(promotion.history(made.store)) == 2
        assert aliases(made)["champion"] in (1, 2)
        promotion.finish_begun(made.store, made.registry)
        if not began:
            assert aliases(made)["champion"] == 2
            continue
        assert aliases(made) == {"candidate": 3, "champion": 1}
        assert [r["state"] for r in promotion.history(made.store)] == ["done", "done"]
    assert points >= 6


def test_an_alias_that_somebody_moved_closes_what_was_begun(made: Made, killed: Callable[..., bool]) -> None:
    made.evidence(2)
    assert killed(6, lambda: go(made, 2)) and promotion.history(made.store)[0]["state"] == "begun"
    made.registry.set_alias("champion", 3)
    (said,) = promotion.finish_begun(made.store, made.registry)
    assert "champion is version 3 by now, the decision was about version 1" in said
    assert promotion.history(made.store)[0]["state"] == "failed" and aliases(made)["champion"] == 3
    with pytest.raises(
        Refused, match="no evidence that stepvideo-t2v version 2 is better than stepvideo-t2v version 3"
    ):
        go(made, 2)


def test_what_was_begun_at_another_registry_stops_nothing_here(made: Made, killed: Callable[..., bool]) -> None:
    made.evidence(2)
    assert killed(6, lambda: go(made, 2)) and made.memory
    made.memory.where = "elsewhere"
    assert go(made, 2)["state"] == "done" and aliases(made)["champion"] == 2
    assert [r["state"] for r in promotion.history(made.store)] == ["begun", "done"]
    rollback(made.registry, made.store)
    assert aliases(made)["champion"] == 1


def test_a_promotion_tells_what_else_was_decided_about_the_same_two(made: Made) -> None:
    first = made.evidence(2, guards=[])
    made.evidence(2)
    record = go(made, 2)
    assert record["other_decisions"] == [f"{first.data['id']}: better"]


def test_a_version_that_was_deleted_closes_what_was_begun(made: Made, killed: Callable[..., bool]) -> None:
    made.evidence(2)
    assert killed(6, lambda: go(made, 2))
    assert made.memory
    made.memory.remove(2)
    (said,) = promotion.finish_begun(made.store, made.registry)
    assert "has no version 2" in said and promotion.history(made.store)[0]["state"] == "failed"
    rollback(made.registry, made.store, to=3)
    assert aliases(made)["champion"] == 3


def test_two_promotions_at_once_do_not_mix(made: Made) -> None:
    made.add(4, 1.1)
    for number in (2, 4):
        made.evidence(number)
    said: list[str] = []

    def run(number: int) -> None:
        try:
            said.append(go(made, number)["state"])
        except Refused as e:
            said.append(str(e))

    threads = [threading.Thread(target=run, args=(n,)) for n in (2, 4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert said.count("done") == 1 and any("no evidence" in s for s in said)  # the champion is another one by then
    (record,) = promotion.history(made.store)
    assert aliases(made)["champion"] == record["version"] and aliases(made)["previous"] == 1


def test_evidence_is_the_same_every_time(made: Made) -> None:
    first = made.evidence(2)
    before = {p: p.stat().st_mtime_ns for p in first.files}
    assert made.evidence(2).data == first.data and {p: p.stat().st_mtime_ns for p in first.files} == before
    assert made.evidence(2, margin=0.1).folder != first.folder
    first.page.unlink()
    with pytest.raises(ArtifactError, match=r"evidence\.html is missing; make it again: stepvideo challenge"):
        go(made, 2, evidence=[first.folder])
    storage.write_json(first.folder / "decision.json", {"schema": 0})
    with pytest.raises(ArtifactError, match="is no decision"):
        go(made, 2, evidence=[first.folder])
