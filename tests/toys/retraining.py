"""A store with a champion in a registry, to be retrained by tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.promote import last_config, promote, registry_of
from flows.retrain_command import _plainly
from flows.retrain_work import Asked, retrain
from flows.session import Session
from stepvideo import storage
from tasks.drift import MEANING
from tasks.gates import Finding, GateFailed, GateReport


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


def triggers(place: Place, where: str = "") -> list[dict[str, Any]]:
    """Those that wait, or lie in a folder below."""
    return [storage.read_json(p) for p in sorted((place.store.root / "_triggers" / where).glob("*.json"))]


def gated(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate behind the stage `data`: it sees drift, or fails where the raw folder is called "fails"."""
    docs = place.mini.folder / "docs.html"
    moved = Finding("clips", "tag_blur column_mean_to_be_between({})", "warning", f"observed 9; {MEANING}")
    broken = GateReport(False, [], [Finding("clips", "frames", "critical", "0 rows")], docs, 1)

    def check(*_: Any) -> GateReport:
        if place.raw.name == "fails":
            raise GateFailed("the catalog fails", broken)
        return GateReport(True, [moved], [], docs, 1)

    monkeypatch.setattr("flows.session.check", check)
    monkeypatch.setattr("flows.session.GATED", ("toy-data",))
    monkeypatch.setattr(Session, "_catalog", lambda *_: docs)


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


def at(day: int, hour: int = 3, minute: int = 0) -> float:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC).timestamp()
